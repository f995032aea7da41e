"""The HTTP server and its socket, as the gateway wants them."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from kropot.errors import KropotError

if TYPE_CHECKING:
    from collections.abc import Iterator


class QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers, which end the process before anything could be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever started the server."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        KropotError: the address cannot be had; the sentence says why.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        sentence = f"cannot listen on {host}, port {port}: {reason}; choose others with --host and --port"
        raise KropotError(sentence) from error


def address_of(listening: socket.socket) -> str:
    """Return the URL under which a listening socket is reached from this machine."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
