"""The gateway's page for an admin on this machine: what is served, what is not and why, the tokens, the last pulls.

It shows no file names, and only the beginning of each token.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict
from starlette.requests import Request
from starlette.responses import Response

from kropot.gateway.tokens import censored
from kropot.page.answers import page_of, static_of
from kropot.page.texts import T
from kropot.page.when import ago, shown
from kropot.serving.guard import Bounds
from kropot.serving.listening import address_of, http_server, listen, serving_in_thread
from kropot.serving.pools import in_pool
from kropot.wording import SECOND_US

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from starlette.types import Receive, Scope, Send

    from kropot.gateway.server import Service
    from kropot.gateway.token import Token

_KINDS: Final = ("unreadable", "links", "excluded", "unsettled", "sockets", "pipes", "devices")
_STATIC: Final = "/page/static/"


class StatusPage:
    """The page as an ASGI application. It answers only requests that name this machine."""

    def __init__(self, service: Service, pool: Executor, port: int) -> None:
        """Show the gateway `service` at this port."""
        self._service, self._pool = service, pool
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        path = request.url.path
        if request.headers.get("host") not in self._hosts:
            answer = Response(T["error"]["bad_host"], 421, media_type="text/plain")
        elif request.method not in {"GET", "HEAD"}:
            answer = Response("", 405, {"allow": "GET, HEAD"})
        elif path == "/":
            answer = await in_pool(self._pool, self._page)
        else:
            found = static_of(path.removeprefix(_STATIC)) if path.startswith(_STATIC) else None
            answer = found or Response(T["error"]["no_such"], 404, media_type="text/plain")
        await answer(scope, receive, send)

    def _page(self) -> Response:
        return page_of("gateway.html", **gateway_screen(self._service))


def gateway_screen(service: Service) -> dict[str, Any]:
    """Return the values that the template shows."""
    t = T["gateway"]
    now_s, standing = service.clock_s(), service.standing
    unserved = {} if standing.unserved is None else asdict(standing.unserved)
    left = [(kind, unserved[kind], t[kind]) for kind in _KINDS if unserved.get(kind)]
    if standing.unscanned_since is not None:
        colour = "red"
    elif standing.unserved is None:
        colour = "grey"
    else:
        colour = "amber" if unserved["unreadable"] else "green"
    since = standing.unscanned_since
    scanned = service.last_scan_s
    return {
        "colour": colour,
        "sentence": t[colour],
        "unscanned": None if since is None else t["unscanned"].format(shown(since * SECOND_US)),
        "facts": [
            (t["folder"], os.fsdecode(service.tree.root)),
            (t["files"], f"{service.state.count_until(service.state.last_id()):,}"),
            (t["scan"], t["scan_every"].format(f"{service.options.scan_every_s:g}")),
            (t["last_scan"], ago(None if scanned is None else scanned * SECOND_US, now_s * SECOND_US)),
        ],
        "left": left,
        "check": f"kropotcli gateway check --source {os.fsdecode(service.tree.root)}",
        "tokens": [_token(service, each, now_s) for each in service.book.all()],
    }


def _token(service: Service, token: Token, now_s: int) -> dict[str, Any]:
    pulled = service.pulls.get(token.number)
    return {
        "number": token.number,
        "label": " ".join(map(str, token.shown.get("tags", ()))) or censored(token.id),
        "status": "revoked" if token.revoked_s is not None else "expired" if now_s >= token.expires_s else "active",
        "method": token.method or "plain",
        "pulled": T["gateway"]["never_pulled"] if pulled is None else ago(pulled * SECOND_US, now_s * SECOND_US),
    }


@contextmanager
def status_page(service: Service, port: int) -> Iterator[str]:
    """Serve the page on loopback while the block runs, and yield its address. Raises: KropotError."""
    from concurrent.futures import ThreadPoolExecutor

    with listen("127.0.0.1", port) as listening, ThreadPoolExecutor(2, thread_name_prefix="status") as pool:
        app = StatusPage(service, pool, listening.getsockname()[1])
        server = http_server(app, Bounds(connections=16, per_address=16), ())
        with serving_in_thread(server, listening, "status page"):
            yield address_of(listening)
