"""A server's HTTP server, its listening socket, and the open files that its connections need."""

from __future__ import annotations

import resource
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from msgspec import Struct

from kropot.errors import KropotError
from kropot.serving.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

    from kropot.serving.guard import Bounds


_A_CONNECTION: Final = 2
_THE_REST: Final = 256
_STARTING_S: Final = 30.0
_STOPPING_S: Final = 5


class TlsFiles(Struct, frozen=True, kw_only=True):
    """A server's certificate, with its chain, and its key: two files in PEM form."""

    certificate: Path
    key: Path


class QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers, which end the process before the server can close anything."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program that started the server."""
        yield


def http_server(
    app: ASGIApp, bounds: Bounds, trusted_proxies: Iterable[str] = (), *, tls: TlsFiles | None = None
) -> QuietServer:
    """Return an HTTP server for the application, with bounds. It has no access log, which would hold tokens.

    Raises: KropotError: the files of `tls` cannot be used.
    """
    files: dict[str, Any] = {} if tls is None else {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=guarded(bounds, trusted_proxies),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(bounds.idle_s),
        timeout_graceful_shutdown=_STOPPING_S,
        backlog=1024,
        **files,
    )
    try:
        config.load()
    except OSError as error:
        # OpenSSL's errors about a file without a certificate, or with the wrong key, end here too.
        raise KropotError(
            f"the certificate {files.get('ssl_certfile')} and its key cannot be used ({error.strerror or error}): give "
            "both in PEM form, and the key without a passphrase"
        ) from error
    return QuietServer(config)


@contextmanager
def serving_in_thread(
    server: uvicorn.Server, listening: socket.socket, what: str, *, ending: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Run a server on its own thread while the block runs. `ending` is called before it stops.

    Raises: KropotError: the server did not start.
    """
    thread = threading.Thread(target=server.run, args=([listening],), name=what, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _STARTING_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                url = address_of(listening)
                raise KropotError(f"the {what}'s HTTP server did not start on {url}: start the {what} again")
            time.sleep(0.005)
        yield
    finally:
        ending()
        server.should_exit = True
        thread.join(_STOPPING_S + _STARTING_S)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. `::` listens on IPv4 too, if this machine can.

    Raises:
        KropotError: the address cannot be used; the message says why.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: not a DNS label
        reason = getattr(error, "strerror", None) or str(error)
        sentence = f"cannot listen on {host}, port {port} ({reason}): choose another address with --host and --port"
        raise KropotError(sentence) from error


def allow_descriptors(connections: int) -> None:
    """Raise this process's limit of open files, as far as allowed, for this many connections with a file each.

    Otherwise clients that only hold connections open could leave no descriptors for the files of other clients.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _A_CONNECTION * connections + _THE_REST
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_of(listening: socket.socket, scheme: str = "http") -> str:
    """Return the URL that reaches a listening socket from this machine."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
