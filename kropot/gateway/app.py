"""The SecureCopy server as an ASGI application: its routes and answers (docs/protocol.md)."""

from __future__ import annotations

import re
from errno import errorcode
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from kropot.errors import KropotError
from kropot.gateway.access import RequestRefusedError
from kropot.gateway.entries import TYPE, element_of, mark_of
from kropot.gateway.listing import BadParameterError, PageWanted, build_page, empty_page, parse_limit, parse_since
from kropot.gateway.state import TokenExistsError
from kropot.gateway.tokens import shown_token
from kropot.gateway.tokenspec import ADMIN_ROLE, STREAM_ROLE, SpecError
from kropot.logs import log
from kropot.securecopy.bulkwire import PATH as BULK_PATH
from kropot.securecopy.wire import LIST_TYPE, encode_entry
from kropot.serving.answers import answer, failure, refusal
from kropot.serving.pools import in_pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from kropot.gateway.access import Access
    from kropot.gateway.births import Births
    from kropot.gateway.bulk import Bulk
    from kropot.gateway.catalogue import Catalogue
    from kropot.gateway.contents import Contents
    from kropot.gateway.entries import Sealings
    from kropot.gateway.pages import PageProcess
    from kropot.gateway.recent import RecentFiles
    from kropot.gateway.standing import ServiceStanding
    from kropot.gateway.state import FileRow, State
    from kropot.gateway.telling import Tellings
    from kropot.gateway.token import Token
    from kropot.gateway.tokens import TokenBook
    from kropot.sc2.kit import OwnerKit
    from kropot.securecopy.wire import Listed
    from kropot.serving.pools import Opens, Turns


_CONTENT = re.compile(r"/secure-copy/file/([^/]{1,512})/content")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class Gateway:
    """The application."""

    def __init__(
        self,
        *,
        state: State,
        catalogue: Catalogue,
        standing: ServiceStanding,
        book: TokenBook,
        sealings: Sealings,
        births: Births,
        tellings: Tellings,
        access: Access,
        contents: Contents,
        bulk: Bulk,
        recent: RecentFiles,
        lists: Executor,
        lookups: Executor,
        opens: Opens,
        turns: Turns,
        keep_kit: Callable[[dict[str, Any] | OwnerKit], Path],
        clock_s: Callable[[], int],
        base_url: str | None = None,
        pages: PageProcess | None = None,
    ) -> None:
        """Set up the routes; `keep_kit` writes the kits of new keys.

        Lists are built in the pool `lists`: by the process `pages` if it can, else in `turns` with bulk answers. The
        database is queried in `lookups`, and files are looked at in `opens`.
        """
        self._state = state
        self._catalogue = catalogue
        self._standing = standing
        self._book = book
        self._sealings = sealings
        self._births = births
        self._tellings = tellings
        self._access = access
        self._contents = contents
        self._bulk = bulk
        self._recent = recent
        self._lists = lists
        self._lookups = lookups
        self._opens = opens
        self._turns = turns
        self._keep_kit = keep_kit
        self._clock_s = clock_s
        self._base_url = None if base_url is None else base_url.rstrip("/")
        self._pages = pages
        self._is_ready = False
        self._rest: ASGIApp = Starlette(
            routes=[
                Route("/secure-copy/{type}/list", self._list, methods=["GET"]),
                Route("/secure-copy/file/{element}/submitdata", self._submitdata, methods=["GET"]),
                Route("/auth/token/generate", self._generate, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _on_http, KropotError: _on_known, Exception: _on_unknown},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            if scope["path"] == BULK_PATH:
                await self._bulk(scope, receive, send)
                return
            found = _CONTENT.fullmatch(scope["path"])
            if found is not None:
                await self._contents(scope, receive, send, _whole_id(found[1]))
                return
        await self._rest(scope, receive, send)

    async def _list(self, request: Request) -> Response:
        """Answer a list request with a page, or with 503 until the first scan is complete."""
        token = await self._access.admit(request.scope, STREAM_ROLE)
        base_url = self._base(request)
        if request.path_params["type"] != TYPE:
            return _page(empty_page(base_url))
        try:
            limit = parse_limit(_single(request, "limit"))
            since = parse_since(_single(request, "since"))
        except BadParameterError as error:
            return _invalid({error.name: error.message})

        def work() -> tuple[bytes, list[tuple[str, FileRow]]] | None:
            if not (self._is_ready or self._state.source().is_ready):
                return None
            wanted = PageWanted(since, limit, base_url, self._standing.unserved, self._standing.unscanned_since)
            made = None if self._pages is None else self._pages.page(token, wanted)
            return made or self._turns.take(build_page, self._state, self._tellings, token, wanted)

        made = await in_pool(self._lists, work)
        if made is None:
            # An empty list would claim that the folder is empty. The gateway does not know that yet.
            return failure("The first scan of the folder is not complete: try again later", 503, {"retry-after": "10"})
        self._is_ready = True
        page, files = made
        self._recent.put(token.scope, files)
        return _page(page)

    async def _submitdata(self, request: Request) -> Response:
        """Answer with the list entry of one element, or with 404 if the file is gone."""
        token = await self._access.admit(request.scope, STREAM_ROLE)
        element = _whole_id(request.path_params["element"])
        mark = mark_of(element)
        is_raw = request.query_params.get("raw") == "true"

        row = None if mark is None else await in_pool(self._lookups, self._state.find, token.scope, mark)
        is_known = row is not None and element_of(token, row.path) == element
        if (
            mark is None
            or row is None
            or not is_known
            or await self._opens.run(self._catalogue.is_gone, row.path, row.audience)
        ):
            return answer({} if is_raw else {"status": "Not found", "http_code": 404, "object": None}, 404)
        entry = await in_pool(self._lists, self._entry, token, mark, row)
        found = encode_entry(entry).rstrip(b"\n")
        body = found if is_raw else b'{"status":"OK","http_code":200,"object":' + found + b"}"
        return Response(body, media_type="application/json")

    def _entry(self, token: Token, mark: bytes, row: FileRow) -> Listed:
        """Return the list entry of one file. This can query the database."""
        birth = None
        if token.held is not None:
            birth, row = self._births.of(token, mark, row)
        return self._sealings.entry(token, row, birth)

    async def _generate(self, request: Request) -> Response:
        """Create a token at an administrator's request."""
        await self._access.admit(request.scope, ADMIN_ROLE)
        try:
            value = orjson.loads(await request.body())
        except orjson.JSONDecodeError:
            return _invalid({"form": ["The request body is not valid JSON: send a JSON object."]})
        return await self._make_token(value)

    async def _make_token(self, value: Any) -> Response:
        """Answer with the new token, or with the reason why none was created."""
        try:
            created = await self._opens.run(self._book.create, value, self._keep_kit)
        except SpecError as error:
            return _invalid(error.fields)
        except TokenExistsError:
            return _invalid({"id": ["id_already_exists_please_select_other_one"]})
        except OSError as error:
            log.warning("kit_not_written", reason=errorcode.get(error.errno or 0, "EIO"))
            return failure(
                "The gateway could not write the key kit, so it made no token: check its folder for kits", 500
            )
        made: dict[str, Any] = {
            "status": True,
            "error_code": None,
            "http_code": 201,
            "errors": [],
            "context": [],
            "message": "Token created",
            "token": shown_token(created.token, now_s=self._clock_s()),
        }
        if created.warning is not None:
            made["warning"] = created.warning
        if created.kit_path is not None:
            made["kit"] = str(created.kit_path)
        return answer(made, 201)

    def _base(self, request: Request) -> str:
        """Return the address that URL templates begin with: the configured one, else the request's own."""
        if self._base_url is not None:
            return self._base_url
        host = request.headers.get("host", "")
        return f"{request.url.scheme}://{host}" if _HOST.fullmatch(host) else ""


def _whole_id(sent: str) -> str:
    """Return the id without a trailing `%`.

    The old server's templates said `%file_id`. A client that fills those in leaves a `%` at the end.
    """
    return sent.removesuffix("%")


def _single(request: Request, name: str) -> str | None:
    """Return a parameter's value. Raises: BadParameterError if it was sent in PHP's array form (`name[]=`)."""
    if any(key.startswith(f"{name}[") for key in request.query_params):
        raise BadParameterError(name, "This value is not valid.")
    return request.query_params.get(name)


def _page(body: bytes) -> Response:
    headers = {
        "content-type": LIST_TYPE,
        "content-disposition": 'attachment; filename="securecopy-list.jstream"',
        "cache-control": "max-age=0, must-revalidate, private",
    }
    return Response(body, headers=headers)


def _invalid(fields: dict[str, Any]) -> Response:
    """Return the old server's answer to invalid parameters."""
    return answer({"status": "Validation error", "http_code": 400, "exit_code": 400, "fields": fields}, 400)


async def _on_http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    # An unknown path or method is refused before any token is checked.
    return failure(error.detail, error.status_code, {**(error.headers or {}), "connection": "close"})


async def _on_known(_request: Request, error: Exception) -> Response:
    if not isinstance(error, KropotError):
        raise error
    if not isinstance(error, RequestRefusedError):
        log.error("request_failed", reason=type(error).__name__)
        return failure("The server cannot answer now: try again later", 503, {"retry-after": "10"})
    return refusal(str(error), error.http_status)


async def _on_unknown(_request: Request, error: Exception) -> Response:
    log.error("request_failed", reason=type(error).__name__)
    return failure("Internal server error", 500)
