"""The keeper as an ASGI application: its routes, and who may use each one (docs/keeper.md). Everything is read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from kropot.errors import IntegrityError, KropotError, UsageError
from kropot.keeper.access import SmallerRoleError, UnknownVisitorError, demand
from kropot.keeper.asking import Asked, key_of, sha256_of
from kropot.keeper.openapi import document
from kropot.keeper.operations import OPERATIONS
from kropot.keeper.visitor import Role
from kropot.logs import log
from kropot.metrics.replica import METRICS_TYPE, metrics_text
from kropot.objects.store import ObjectMissingError
from kropot.query.health import health
from kropot.serving.answers import answer, failure
from kropot.serving.pools import in_pool
from ledger.errors import LedgerError, LedgerUnavailableError
from ledger.log import utc_now_us

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from kropot.keeper.access import Admission
    from kropot.keeper.answering import KeeperAnswers
    from kropot.keeper.operations import Operation
    from kropot.keeper.sending import ObjectSender
    from kropot.keeper.visitor import Visitor
    from kropot.query.health import Limits
    from ledger.log import Ledger

_SAFE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Keeper:
    """The application. Only `/healthz` answers requests without a token."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        answers: KeeperAnswers,
        admission: Admission,
        sender: ObjectSender,
        limits: Limits,
        pool: Executor,
        page: ASGIApp | None = None,
    ) -> None:
        """Set up the routes. `pool` runs the ledger queries. `page` answers below /page, and admits people itself."""
        self._page = page
        self._ledger = ledger
        self._answers = answers
        self._admission = admission
        self._sender = sender
        self._limits = limits
        self._pool = pool
        routes = [
            Route(each.path, self._endpoint(each), methods=["GET"]) for each in OPERATIONS if each.name != "healthz"
        ]
        rest = Starlette(
            routes=routes,
            exception_handlers={
                HTTPException: _on_http,
                KropotError: on_known,
                LedgerError: on_known,
                Exception: _on_unknown,
            },
        )
        rest.router.redirect_slashes = False
        self._rest: ASGIApp = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Without a valid token, a visitor learns only that the keeper is running."""
        if scope["type"] != "http":
            return
        if scope["path"] == "/healthz" and scope["method"] in {"GET", "HEAD"}:
            await answer({"status": "ok"}, 200, _SAFE)(scope, receive, send)
            return
        if self._page is not None and (scope["path"] == "/" or f"{scope['path']}/".startswith("/page/")):
            await self._page(scope, receive, send)
            return
        try:
            scope["kropot.visitor"] = await self._admission.admit(scope)
        except (KropotError, LedgerError) as error:
            await on_known(None, error)(scope, receive, send)
            return
        await self._rest(scope, receive, send)

    def _endpoint(self, operation: Operation) -> Any:
        """Return an operation's endpoint: an ASGI application for objects, which are streamed, else a function."""
        if operation.name == "object":
            return _Streamed(self._object)

        async def respond(request: Request) -> Response:
            visitor: Visitor = request.scope["kropot.visitor"]
            demand(visitor, operation.role)
            return await in_pool(self._pool, self._respond, operation, visitor, request)

        return respond

    def _respond(self, operation: Operation, visitor: Visitor, request: Request) -> Response:
        """Answer in a thread of the pool."""
        known = {each.name for each in operation.parameters if not each.in_path}
        asked = Asked(self._ledger, visitor, request.query_params, known)
        path = request.path_params
        match operation.name:
            case "openapi":
                return answer(document(), 200, _SAFE)
            case "metrics":
                facts = self._answers.facts(visitor)
                now_us = max(utc_now_us(), facts.observed_us)
                text = metrics_text(facts, health(now_us, facts, self._limits))
                return Response(text, headers=_SAFE, media_type=METRICS_TYPE)
            case "headers":
                return Response(self._answers.headers(asked), headers=_SAFE, media_type="application/octet-stream")
            case name:
                ask: Callable[..., dict[str, Any]] = getattr(self._answers, name)
                given: list[object] = [visitor, asked]
                if "element" in path:
                    given.append(key_of(path["source"], path["type"], path["element"]))
                return answer(ask(*given), 200, _SAFE)

    async def _object(self, scope: Scope, receive: Receive, send: Send) -> None:
        visitor: Visitor = scope["kropot.visitor"]
        try:
            demand(visitor, Role.OWNER)
            sha256 = sha256_of(scope["path_params"]["sha256"])
            await in_pool(self._pool, self._answers.may_have, visitor, sha256)
            await self._sender.send(scope, receive, send, sha256)
        except (KropotError, LedgerError) as error:
            await on_known(None, error)(scope, receive, send)


class _Streamed:
    """An ASGI application as a route's endpoint: Starlette would expect a plain function to return a response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


# --- failures --------------------------------------------------------------------------------------------------------


def on_known(_request: Request | None, error: Exception) -> Response:
    """Return the answer to a request that failed with a known error."""
    match error:
        case UnknownVisitorError():
            headers = {"www-authenticate": 'Bearer realm="keeper"', "connection": "close"}
            return failure(str(error), error.http_status, headers)
        case SmallerRoleError() | UsageError():
            return failure(str(error), error.http_status, _SAFE)
        case ObjectMissingError():
            return failure("The storage does not have this object now", 404, _SAFE)
        case LedgerUnavailableError():
            log.warning("ledger_unavailable", reason=type(error).__name__)
            return failure("The ledger cannot be read now: try again later", 503, {**_SAFE, "retry-after": "10"})
        case IntegrityError():
            log.warning("replica_contradicts", reason=type(error).__name__)
            return failure(str(error), 409, _SAFE)
        case _:
            log.warning("request_failed", reason=type(error).__name__)
            return failure("The keeper cannot answer this now: its log says why", 503, {**_SAFE, "retry-after": "10"})


def _on_http(_request: Request, error: Exception) -> Response:
    """Return Starlette's own HTTP errors, such as 404, as JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(getattr(error, "headers", None) or {})
    return failure("There is nothing here" if status == 404 else str(getattr(error, "detail", "")), status, headers)  # noqa: PLR2004


def _on_unknown(_request: Request, error: Exception) -> Response:
    log.error("request_broken", reason=type(error).__name__)
    return failure("The keeper failed: its log has the reason", 500, _SAFE)
