"""The page as an ASGI application below `/page`: its routes, its cookie, and the headers that block foreign code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from kropot.errors import KropotError
from kropot.keeper.access import SmallerRoleError
from kropot.logs import log
from kropot.objects.store import ObjectMissingError
from kropot.page.answers import COMMON, page_of, static_of
from kropot.page.asking import NoSuchPageError, PageQuery, link
from kropot.page.health import health_screen
from kropot.page.life import life_screen
from kropot.page.listing import listing_screen
from kropot.page.proofs import proof_screen
from kropot.page.room import RULES, room_screen
from kropot.page.streaming import StreamedFile
from kropot.page.texts import T
from kropot.page.when import shown, us_of
from kropot.page.window import line, reading, whole
from kropot.serving.pools import in_pool
from ledger.errors import LedgerError
from ledger.log import utc_now_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from starlette.types import ASGIApp, Receive, Scope, Send

    from kropot.page.doors import Door
    from kropot.page.window import Window

PREFIX: Final = "/page"
SCREENS: Final = ("health", "time", "files", "space", "proof")

_LONGEST_FORM: Final = 4096
_UNKNOWN, _BAD_HOST = 401, 421


class Owner(Protocol):
    """The screens that only an owner's machine can show (`kropot/browse/screens.py`)."""

    def files(self, window: Window, query: PageQuery, position: int) -> dict[str, Any]: ...  # noqa: D102
    def compared(self, query: PageQuery, positions: tuple[int, int]) -> dict[str, Any]: ...  # noqa: D102
    def proved(self, position: int) -> dict[str, Any]: ...  # noqa: D102
    def download(self, query: PageQuery, position: int) -> tuple[str, Iterator[bytes]]: ...  # noqa: D102
    def folder(self, query: PageQuery, position: int) -> tuple[str, Iterator[bytes]]: ...  # noqa: D102


class PageApp:
    """The application. Without a session, it serves only its style sheet, script and icon, and the sign-in page."""

    def __init__(
        self,
        door: Door,
        pool: Executor,
        *,
        owner: Owner | None = None,
        place: str = "",
        claimed: bool = False,
        hosts: frozenset[str] | None = None,
        clock_us: Callable[[], int] = utc_now_us,
    ) -> None:
        """Admit people by `door`, and work in `pool`.

        `place` names the replica. `claimed` says that the window shows a keeper's claims. Only requests for these
        `hosts` are answered, None for all.
        """
        self._door, self._pool, self._owner = door, pool, owner
        self._place, self._claimed, self._hosts, self._clock_us = place, claimed, hosts, clock_us
        screens = [Route(f"{PREFIX}/{name}", self._screen(name)) for name in (*SCREENS, "compare")]
        inside = Starlette(
            routes=[
                *screens,
                Route(f"{PREFIX}/go", self._in_thread(self._go)),
                Route(f"{PREFIX}/download", self._stream("download")),
                Route(f"{PREFIX}/zip", self._stream("folder")),
                Route(PREFIX, self._in_thread(lambda *_: _see("health"))),
                Route("/", self._in_thread(lambda *_: _see("health"))),
            ]
        )
        inside.router.redirect_slashes = False
        inside.router.default = self._nothing
        self._inside: ASGIApp = inside

    # --- who is there -------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        answer = await self._before(request)
        if answer is not None:
            await answer(scope, receive, send)
            return
        await self._inside(scope, receive, send)

    async def _before(self, request: Request) -> Response | None:  # noqa: PLR0911 -- each is one reason to refuse
        """Return the answer if the request needs no screen: refusals, static files, sign-in and sign-out. Else None."""
        host = request.headers.get("host", "")
        if self._hosts is not None and host not in self._hosts:
            return page_of("error.html", _BAD_HOST, **self._frame(), message=T["error"]["bad_host"])
        if not _is_own(request, host):
            return Response(T["error"]["bad_host"], 403, COMMON, "text/plain")
        name = request.url.path.removeprefix(f"{PREFIX}/")
        if request.method in {"GET", "HEAD"} and name.startswith("static/"):
            return static_of(name.removeprefix("static/")) or self._way_in()
        if name == "enter":
            return await self._enter(request)
        cookie, bearer = request.cookies.get(self._cookie(host)), _bearer(request)
        window = await in_pool(self._pool, self._door.window, cookie, bearer)
        if window is None:
            return self._way_in()
        if name == "leave":
            gone = RedirectResponse(f"{PREFIX}/enter", 303, COMMON)
            gone.delete_cookie(self._cookie(host), path="/")
            return gone
        if request.method not in {"GET", "HEAD"}:
            return Response("", 405, COMMON | {"allow": "GET, HEAD"})
        request.scope["kropot.window"] = window
        return None

    async def _enter(self, request: Request) -> Response:
        """Exchange a one-time code, or a token, for a cookie."""
        made, message = None, None
        if request.method == "POST" and self._door.takes_token:
            body = b""
            async for piece in request.stream():
                body += piece
                if len(body) > _LONGEST_FORM:
                    return self._way_in(T["enter"]["bad"])
            token = parse_qs(body.decode("latin-1"), max_num_fields=4).get("token", [""])[0].strip()
            made, message = await in_pool(self._pool, self._door.sign_in, token), T["enter"]["bad"]
        elif request.method == "GET" and "code" in request.query_params:
            made, message = self._door.enter(request.query_params["code"]), T["enter"]["used"]
        if made is None:
            return self._way_in(message)
        answer = _see("health")
        host = request.headers.get("host", "")
        answer.set_cookie(
            self._cookie(host), made, path="/", secure=self._door.is_secure, httponly=True, samesite="strict"
        )
        return answer

    def _cookie(self, host: str) -> str:
        """Return the name of the cookie. It contains the port, because browsers share cookies between ports."""
        port = host.rpartition(":")[2] if ":" in host else ""
        return f"kropot-{port}" if port.isdecimal() else "kropot"

    def _way_in(self, message: str | None = None) -> Response:
        return page_of(
            "enter.html",
            _UNKNOWN,
            **self._frame(),
            message=message,
            takes_token=self._door.takes_token,
            headers={"www-authenticate": 'Bearer realm="keeper"'} if self._door.takes_token else {},
        )

    # --- screens ------------------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[[Window, PageQuery], Response]) -> Any:
        async def respond(request: Request) -> Response:
            query = PageQuery(dict(request.query_params))
            return await in_pool(self._pool, self._told, work, request.scope["kropot.window"], query)

        return respond

    def _told(self, work: Callable[[Window, PageQuery], Response], window: Window, query: PageQuery) -> Response:
        """Return an answer, or the error page that says why there is none."""
        try:
            return work(window, query)
        except (KropotError, LedgerError) as error:
            return self._failed(error)
        except Exception as error:  # noqa: BLE001 -- no request may end without an answer
            log.error("page_broken", reason=type(error).__name__, at=_where(error))
            return self._failed(KropotError("the page failed: the log has the reason"))

    def _failed(self, error: Exception) -> Response:
        status = 404 if isinstance(error, ObjectMissingError) else getattr(error, "http_status", 503)
        text = T["error"]["smaller_role"] if isinstance(error, SmallerRoleError) else str(error)
        return page_of("error.html", status, **self._frame(), message=line(text[:1].upper() + text[1:], 1000))

    def _screen(self, name: str) -> Any:
        show: Callable[[Window, PageQuery], Response] = getattr(self, f"_{name}")
        return self._in_thread(show)

    def _health(self, window: Window, query: PageQuery) -> Response:
        return self._shown("health", query, **health_screen(window, self._clock_us()))

    def _time(self, window: Window, query: PageQuery) -> Response:
        at = query.position()
        shown_ = life_screen(window, source=query.source(), from_ms=query.whole("from"), to_ms=query.whole("to"), at=at)
        return self._shown("time", query, at_text=self._moment(window, at)[1], **shown_)

    def _files(self, window: Window, query: PageQuery) -> Response:
        position, text = self._moment(window, query.position())
        if self._owner is None:
            values = listing_screen(window, query, position)
        else:
            values = self._owner.files(window, query, position)
        return self._shown("files", query, at_text=text, position=position, **values)

    def _compare(self, window: Window, query: PageQuery) -> Response:
        if self._owner is None:
            raise NoSuchPageError(T["error"]["no_such"])
        wish = query.text("with") or None
        positions = [self._moment(window, query.position()), self._moment(window, None, wish)]
        positions.sort()
        (one, from_), (other, to) = positions
        values = self._owner.compared(query, (one, other))
        return self._shown("compare", query, lead=T["files"]["compare_lead"].format(from_, to), **values)

    def _space(self, window: Window, query: PageQuery) -> Response:
        asked = {name: value for name in RULES if (value := query.whole(name))}
        return self._shown("space", query, **room_screen(window, asked))

    def _proof(self, window: Window, query: PageQuery) -> Response:
        values = proof_screen(window, self._clock_us())
        mine = None
        if self._owner is not None:
            mine = self._owner.proved(self._moment(window, query.position())[0])
        return self._shown("proof", query, mine=mine, **values)

    def _go(self, window: Window, query: PageQuery) -> Response:
        """Redirect to the moment that a person typed in."""
        position, _ = self._moment(window, None, query.text("when") or None)
        return RedirectResponse(link("time", at=position), 303, COMMON)

    def _moment(self, window: Window, position: int | None, wish: str | None = None) -> tuple[int, str]:
        """Return a position, by default that of `wish` or the newest, and its time as text. Raises: KropotError."""
        until = wish if position is None else f"@{position}"
        answer = window.get("moment", until=until)
        with reading("a moment"):
            recorded = us_of(answer["recorded_at"])
            return whole(answer["position"]), shown(recorded)

    def _stream(self, name: str) -> Any:
        async def respond(request: Request) -> Response:
            query = PageQuery(dict(request.query_params))
            window = request.scope["kropot.window"]
            return await in_pool(self._pool, self._told, lambda *given: self._content(name, *given), window, query)

        return respond

    def _content(self, name: str, window: Window, query: PageQuery) -> Response:
        if self._owner is None:
            raise NoSuchPageError(T["error"]["no_such"])
        position, _ = self._moment(window, query.position())
        file, pieces = getattr(self._owner, name)(query, position)
        first = next(pieces, b"")  # so that a file that cannot be opened gets an error page, not a broken download
        return StreamedFile(file, first, pieces, self._pool)

    def _nothing(self, scope: Scope, receive: Receive, send: Send) -> Any:
        return self._failed(NoSuchPageError(T["error"]["no_such"]))(scope, receive, send)

    def _frame(self) -> dict[str, Any]:
        return {"place": self._place, "is_owner": self._owner is not None, "claimed": self._claimed}

    def _shown(self, screen: str, query: PageQuery, **values: Any) -> Response:
        at = query.position()
        values.setdefault("at_text", shown(None))
        nav = [(name, T["frame"][name], link(name, at=at)) for name in SCREENS]
        frame = self._frame() | {"nav": nav, "screen": "files" if screen == "compare" else screen, "at": at}
        frame |= {"now": link(screen)}
        return page_of(f"{screen}.html", 200, **frame, **values)


def _is_own(request: Request, host: str) -> bool:
    """Whether a request comes from this page, from a visit by link or typed address, or from another program."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return False
    site = request.headers.get("sec-fetch-site", "none")
    is_visit = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    return site in {"none", "same-origin"} or is_visit


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _see(screen: str) -> Response:
    return RedirectResponse(link(screen), 303, COMMON)


def _where(error: BaseException) -> str:
    """Return the file and line where an unexpected error was raised, but not its text, which can contain names."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
