"""One kept-alive connection over http.client that makes one request after another."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kropot.securecopy.authorities import authorities, verifying_context
from kropot.securecopy.causes import reason_of
from kropot.securecopy.timed import TimedResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.collect.transfer.engine import Server

_FEW_BYTES = 64 << 10
_SMALL_BUFFER = 8 << 10


class AskingConnection:
    """Asks a server; for one thread, but `close` may come from another."""

    def __init__(self, server: Server, *, longest_s: float | None = None, buffer: int = _SMALL_BUFFER) -> None:
        """Prepare; nothing is connected yet.

        An answer may take `longest_s` seconds in all (None: any time), and is read `buffer` bytes at a time.
        """
        parts = urlsplit(server.base_url)
        self._server = server
        self._prefix = parts.path
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._context = verifying_context(authorities(server.ca_file)) if self._tls else None
        self._limits: dict[str, object] = {
            "silence_s": server.silence_s,
            "buffer": buffer,
            "limiter": server.limiter,
        }
        if longest_s is not None:
            self._limits["total_s"] = longest_s
        self._connection: http.client.HTTPConnection | None = None
        self._sock: socket.socket | None = None
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse | str:
        """Send a request and return the answer's head; if the kept connection is dead, make a new one.

        Return the reason if no connection can be made. Raises: http.client.HTTPException, OSError, ValueError.
        """
        for fresh in (False, True):
            connection = self._connection
            if connection is None or fresh:
                made = self._connect()
                if isinstance(made, str):
                    return made
                connection = made
                fresh = True  # noqa: PLW2901 -- a new connection is not tried twice
            connection.response_class = partial(TimedResponse, **self._limits)  # type: ignore[assignment, arg-type]
            try:
                connection.request(method, self._prefix + path, body=body, headers={**self._server.headers, **headers})
                return connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.disconnect()
                if fresh:
                    raise
        return "unreachable"

    def close(self) -> None:
        """Break off whatever is under way; it then fails at once."""
        self._closed.set()
        sock = self._sock
        if sock is not None:
            # The base class's own, because a TLS socket's would forget its cipher while another thread reads from it.
            # If the other side was faster, there is nothing left to shut down.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def leave(self, answer: http.client.HTTPResponse) -> None:
        """Read a short body that nobody wants, so that the connection can be kept; else close it."""
        if answer.length is not None and answer.length <= _FEW_BYTES:
            answer.read()
        if not answer.isclosed():
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection; the next request makes a new one."""
        connection, self._connection, self._sock = self._connection, None, None
        if connection is not None:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection | str:
        """Connect; return the reason if the server cannot be reached."""
        self.disconnect()
        if self._closed.is_set():
            return "unreachable"
        timeout = min(self._server.connect_s, self._server.silence_s)
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)
            if self._tls
            else http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        )
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:
            return reason_of(error) or "unreachable"
        self._connection, self._sock = connection, connection.sock
        if self._closed.is_set():  # meanwhile: `close` either sees the socket or is seen here
            self.disconnect()
            return "unreachable"
        return connection


def broken_by(error: Exception) -> str:
    """Return the stable word for a transfer that an exception ended."""
    match error:
        case TimeoutError():
            return "stalled"
        case ssl.SSLError():
            return reason_of(error) or "tls"
        case http.client.IncompleteRead() | http.client.RemoteDisconnected():
            return "cut"
        case http.client.HTTPException() | ValueError():
            return "not_http"
        case _:
            return "cut"
