"""The gateway's HTTP server, its listening socket, and the open files that its connections need."""

from __future__ import annotations

import resource
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import uvicorn

from kropot.errors import KropotError

if TYPE_CHECKING:
    from collections.abc import Iterator


_A_CONNECTION: Final = 2
_THE_REST: Final = 256


class QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers. Those end the process before the gateway can close anything."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program that started the server."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. `::` listens on IPv4 too, if this machine can.

    Raises:
        KropotError: the address cannot be used; the message says why.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        sentence = f"cannot listen on {host}, port {port} ({reason}): choose another address with --host and --port"
        raise KropotError(sentence) from error


def allow_descriptors(connections: int) -> None:
    """Raise this process's limit of open files for so many connections, each with a file, as far as it may.

    Otherwise clients who only hold connections open could leave no descriptor for the files of the others.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _A_CONNECTION * connections + _THE_REST
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_of(listening: socket.socket) -> str:
    """Return the URL that reaches a listening socket from this machine."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
