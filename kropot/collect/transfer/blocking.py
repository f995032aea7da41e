"""One content over one kept-alive connection, blocking, in reads of 1 MiB: the fastest way for large bodies."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kropot.durable.errors import StorageError
from kropot.objects.store import CHUNK
from kropot.securecopy.authorities import authorities, verifying_context
from kropot.securecopy.causes import reason_of
from kropot.securecopy.content import UnbelievableError
from kropot.securecopy.timed import TimedResponse

if TYPE_CHECKING:
    from kropot.collect.decide.inputs import Receipt
    from kropot.collect.transfer.engine import Server
    from kropot.collect.transfer.receive import ContentReceiver

_FEW_BYTES = 64 << 10


class BlockingFetcher:
    """Fetches one content after another; for one thread, but `close` may come from another."""

    def __init__(self, server: Server) -> None:
        """Prepare; nothing is connected yet."""
        parts = urlsplit(server.base_url)
        self._server = server
        self._prefix = parts.path
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._context = verifying_context(authorities(server.ca_file)) if self._tls else None
        self._buffer = memoryview(bytearray(CHUNK))
        self._connection: http.client.HTTPConnection | None = None
        self._sock: socket.socket | None = None
        self._closed = threading.Event()

    def fetch(self, receiver: ContentReceiver) -> Receipt:
        """Fetch one content to its end, going on where it breaks or broke off if that can be done soundly."""
        try:
            extra = receiver.take_up() or {}
        except StorageError as error:
            return receiver.failed(error)
        while True:
            reason = self._attempt(receiver, extra)
            if not isinstance(reason, str):
                return reason
            self._disconnect()
            again = None if self._closed.is_set() else receiver.resume_headers()
            if again is None:
                return receiver.failed(reason)
            extra = again

    def close(self) -> None:
        """Break off whatever is under way; the fetch then fails at once."""
        self._closed.set()
        sock = self._sock
        if sock is not None:
            # The base class's own: a TLS socket's would forget its cipher, while another thread reads from it. Where
            # the other side was faster there is nothing left to shut.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _attempt(self, receiver: ContentReceiver, extra: dict[str, str]) -> Receipt | str:
        """Return the result, or the reason of a transfer that broke off."""
        try:
            answer = self._ask(receiver.job.path, extra)
            return answer if isinstance(answer, str) else self._take(receiver, answer)
        except (UnbelievableError, StorageError) as error:
            self._disconnect()
            return receiver.failed(error)
        except (http.client.HTTPException, OSError, ValueError) as error:
            return _reason(error)

    def _take(self, receiver: ContentReceiver, answer: http.client.HTTPResponse) -> Receipt | str:
        """Feed an answer to the receiver. Raises: what both raise."""
        try:
            headers = [(name.lower(), value) for name, value in answer.getheaders()]
            receiver.begin(answer.status, answer.version, headers)
        except UnbelievableError as error:
            self._leave(answer)
            return receiver.failed(error)
        while count := answer.readinto(self._buffer):
            receiver.write(self._buffer[:count])
        if receiver.missing or (isinstance(answer, TimedResponse) and answer.was_hung_up):
            return "cut"
        return receiver.finish()

    def _ask(self, path: str, extra: dict[str, str]) -> http.client.HTTPResponse | str:
        """Send a request and return the answer's head; a connection that was kept may be dead, then a new one is made.

        The reason where no connection can be made.
        """
        headers = {**self._server.headers, **extra}
        for fresh in (False, True):
            connection = self._connection
            if connection is None or fresh:
                made = self._connect()
                if isinstance(made, str):
                    return made
                connection = made
                fresh = True  # noqa: PLW2901 -- a new connection is not tried twice
            connection.response_class = partial(  # type: ignore[assignment]
                TimedResponse, silence_s=self._server.silence_s
            )
            try:
                connection.request("GET", self._prefix + path, headers=headers)
                return connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._disconnect()
                if fresh:
                    raise
        return "unreachable"

    def _connect(self) -> http.client.HTTPConnection | str:
        """Connect; the reason where the server cannot be reached."""
        self._disconnect()
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
        if self._closed.is_set():  # meanwhile: whoever closes either sees the socket or is seen here
            self._disconnect()
            return "unreachable"
        return connection

    def _leave(self, answer: http.client.HTTPResponse) -> None:
        """Read a short body that nobody wants, so that the connection can be kept; else close it."""
        if answer.length is not None and answer.length <= _FEW_BYTES:
            answer.read()
        if not answer.isclosed():
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection, self._sock = self._connection, None, None
        if connection is not None:
            connection.close()


def _reason(error: Exception) -> str:
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
