"""Bounds on what a client can cost before it has shown a token: connections, bytes and time.

The application sees only whole requests, one at a time for each connection. A request that does not arrive in time or
is too large is refused here, and its connection is closed.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from kropot.securecopy.bulkwire import MAX_BODY
from kropot.securecopy.bulkwire import PATH as BULK_PATH
from kropot.serving.answers import failure_json
from kropot.serving.forwarded import (
    FORWARDED_FOR,
    FORWARDED_PROTO,
    client_behind,
    crowd_of,
    is_trusted,
    parse_address,
    parse_networks,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from kropot.serving.forwarded import Networks

ABORT: Final = "kropot.abort"
"""The ASGI extension with which an application drops its connection."""

_LAST_WORDS_S = 2.0
_BUSY = 503
_RETRY_S = 2
_NO_LINGER = struct.pack("ii", 1, 0)


class Bounds(Struct, frozen=True, kw_only=True):
    """How much a client may use. Times are in seconds.

    At most `connections` are open at once, and `per_address` for each client (for IPv6: for each /64 network). Behind
    a trusted proxy, `per_address` bounds the requests of a client that are answered at once. A request's head may take
    `head_s`, `head_bytes` and `fields`; its body `body_s` and `body_bytes`, at most 65,536. A bulk request's body may
    have `bulk_bytes`, as long as all such bodies together have at most `bulks_bytes`. An idle connection stays open for
    `idle_s`. After a refusal the server reads `unread_bytes` more, so that the client can read the answer. It
    cuts off a client that takes less than `stall_bytes` of an answer in `stall_s`.
    """

    connections: int = 1024
    per_address: int = 64
    head_s: float = 10.0
    head_bytes: int = 64 * 1024
    fields: int = 128
    body_s: float = 30.0
    body_bytes: int = 64 * 1024
    bulk_bytes: int = MAX_BODY
    bulks_bytes: int = 32 * MAX_BODY
    idle_s: float = 60.0
    unread_bytes: int = 1 << 20
    stall_s: float = 120.0
    stall_bytes: int = 32 * 1024


class _StopParsingError(Exception):
    """Ends the parsing of what has arrived. uvicorn then calls `send_400_response`."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection, with bounds that uvicorn does not have."""

    bounds: ClassVar[Bounds] = Bounds()
    proxies: ClassVar[Networks] = ()
    crowd: ClassVar[Counter[str]] = Counter()
    """How many places each client takes: connections, or requests behind a trusted proxy."""
    long_bodies: ClassVar[Counter[int]] = Counter()
    """How many bytes the bodies of large bulk requests have, by connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create a connection as uvicorn does."""
        super().__init__(*args, **kwargs)
        self._is_lost = False
        self._is_deaf = False  # nothing more is parsed on this connection
        self._is_in_body = False
        self._is_proxied = False
        self._places: list[str] = []
        self._unfinished = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._unread = 0
        self._refusal: tuple[int, str] | None = None
        self._complete: ASGI3Application | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    # --- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Accept the connection unless there are too many; start the timer for its first head."""
        super().connection_made(transport)
        peer = parse_address(self.client[0]) if self.client is not None else None
        self._is_proxied = is_trusted(peer, self.proxies)
        has_place = self._is_proxied or self._take_place(crowd_of(peer))
        if has_place and len(self.connections) <= self.bounds.connections:
            self._arm(self.bounds.head_s)
            return
        # Close at once, because a connection that lingers would use up what the bound protects.
        self.transport.write(_answer(_BUSY, "Too many connections are open: try again later"))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and release all places."""
        self._is_lost = True
        self.long_bodies.pop(id(self), None)
        self._disarm()
        self._flowing()
        while self._places:
            self._leave_place()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process incoming bytes; refuse the request if it exceeds the bounds."""
        if self.transport.is_closing():
            return
        if self._is_deaf:
            self._unread += len(data)
            if self._unread > self.bounds.unread_bytes:
                self._cut()
            return
        if not self._is_in_body:
            self._unfinished += len(data)
        super().data_received(data)
        if not self._is_waiting_for_more:
            return
        if not self._is_in_body and self._unfinished > self.bounds.head_bytes:
            self._refuse(431, "The head of the request is too large")
        elif self._deadline is None:
            self._arm(self.bounds.body_s if self._is_in_body else self.bounds.head_s)

    def send_400_response(self, msg: str) -> None:
        """Refuse the request that uvicorn's parser gave up on, and give the reason."""
        if self._is_answering:
            # One request at a time: the current answer is finished, and anything after its request is not read.
            self._is_deaf = True
            self.cycle.keep_alive = False
            return
        self._refuse(*(self._refusal or (400, msg)))

    # --- the parser's calls -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a head, unless another request is being answered."""
        if self._is_answering:
            raise _StopParsingError
        self._head_bytes = 0
        self._body_bytes = 0
        super().on_message_begin()
        # The application can cut off an unfinished answer with this, so that no client mistakes it for complete.
        self.scope["extensions"] = {ABORT: {"abort": self._cut}}

    def on_url(self, url: bytes) -> None:
        """Process a piece of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Process a header."""
        self._count(len(name) + len(value))
        if self._is_in_body:
            # This is a trailer. Nothing here needs one, and it must not count as a header.
            return
        super().on_header(name, value)
        if len(self.headers) > self.bounds.fields:
            self._stop(431, "The head of the request has too many fields")

    def on_headers_complete(self) -> None:
        """Find out who the client is, and stop the head's timer."""
        self._is_in_body = True
        self._disarm()
        if self._is_proxied:
            self._look_behind_the_proxy()
        super().on_headers_complete()
        if self.expect_100_continue and not self._is_deaf:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.cycle.waiting_for_100_continue = False

    def on_body(self, body: bytes) -> None:
        """Process a piece of a body."""
        self._body_bytes += len(body)
        is_bulk = self.scope["path"] == BULK_PATH and self.scope["method"] == "POST"
        most = self.bounds.bulk_bytes if is_bulk else self.bounds.body_bytes
        if self._body_bytes > most:
            self._stop(413, f"The request body is too large: send at most {most} bytes")
        if self._body_bytes > self.bounds.body_bytes:
            self.long_bodies[id(self)] = self._body_bytes
            if self.long_bodies.total() > self.bounds.bulks_bytes:
                self._stop(_BUSY, "Too many large requests are being read: try again later")
        super().on_body(body)
        # uvicorn stops reading at 64 KiB until the application takes the body, but it starts only once all has arrived.
        self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """Start the application, because the whole request has arrived."""
        super().on_message_complete()
        self._is_in_body = False
        self._unfinished = 0
        self._disarm()
        if self._complete is not None:
            super()._start_asgi_task(self.cycle, self._complete)

    # --- answering ----------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Hold the application back until the whole request has arrived. `cycle` is the current one."""
        del cycle
        self._complete = app

    def on_response_complete(self) -> None:
        """Release the place of a request behind a proxy."""
        self._complete = None
        self.long_bodies.pop(id(self), None)
        if self._is_proxied and self._places:
            self._leave_place()
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size() and self._stall_timer is None:
            self._watch()

    @property
    def _is_answering(self) -> bool:
        """Whether a whole request has arrived and its answer is not yet complete."""
        return self._complete is not None and not self._is_in_body

    @property
    def _is_waiting_for_more(self) -> bool:
        """Whether the connection still waits for a request, or for the rest of one."""
        return not (self._is_deaf or self._is_answering or self.transport.is_closing())

    def pause_writing(self) -> None:
        """Start watching a client that reads more slowly than the server sends."""
        super().pause_writing()
        if self._stall_timer is None:
            self._watch()

    def resume_writing(self) -> None:
        """Stop watching a client that has caught up. The end of a last answer is watched until the client has it."""
        if not self.transport.is_closing():
            self._flowing()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if the client has not taken the end of the last answer."""
        if self._stall_timer is not None:
            # It is not idle, because it still reads and is watched.
            self.timeout_keep_alive_task = self.loop.call_later(self.bounds.idle_s, self.timeout_keep_alive_handler)
            return
        if self.transport.get_write_buffer_size():
            self._cut()
        super().timeout_keep_alive_handler()

    def _look_again(self) -> None:
        """Cut off a client that has taken almost nothing since the last look. A slow client gets more time."""
        if self._waiting() > self._unsent - self.bounds.stall_bytes:
            self._cut()
        else:
            self._watch()

    def _watch(self) -> None:
        """Check after a while whether the client takes the sent bytes."""
        self._unsent = self._waiting()
        self._stall_timer = self.loop.call_later(self.bounds.stall_s, self._look_again)

    def _waiting(self) -> int:
        """Return how many bytes the client has not taken yet, including those in the system's buffers."""
        waiting = self.transport.get_write_buffer_size()
        try:
            answer = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return waiting
        return waiting + int.from_bytes(answer, sys.byteorder)

    def _flowing(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # --- bounds -------------------------------------------------------------------------------------------------------

    def _look_behind_the_proxy(self) -> None:
        """Replace the trusted proxy with the client, and take a place for its request."""
        hops = [value for name, value in self.headers if name == FORWARDED_FOR]
        peer = parse_address(self.client[0]) if self.client is not None else None
        client = client_behind(peer, hops, self.proxies)
        self.scope["client"] = None if client is None else (str(client), 0)
        schemes = [value for name, value in self.headers if name == FORWARDED_PROTO]
        if schemes and schemes[-1] in {b"http", b"https"}:
            self.scope["scheme"] = "https" if schemes[-1] == b"https" else "http"
        if not self._take_place(crowd_of(client)):
            self._stop(_BUSY, "Too many requests from this client are being answered: try again later")

    def _take_place(self, name: str) -> bool:
        """Take a place for a client. Return False if it already has as many as allowed."""
        if self.crowd[name] >= self.bounds.per_address:
            return False
        self.crowd[name] += 1
        self._places.append(name)
        return True

    def _leave_place(self) -> None:
        name = self._places.pop()
        self.crowd[name] -= 1
        if not self.crowd[name]:
            del self.crowd[name]

    def _count(self, size: int) -> None:
        """Count bytes of a head that the parser has read. `data_received` counts the others."""
        self._head_bytes += size
        if self._head_bytes > self.bounds.head_bytes:
            self._stop(431, "The head of the request is too large")

    def _stop(self, status: int, sentence: str) -> None:
        """Refuse the request from within the parser. Raises: _StopParsingError."""
        self._refusal = (status, sentence)
        raise _StopParsingError

    def _arm(self, after_s: float) -> None:
        self._deadline = self.loop.call_later(after_s, self._refuse, 408, "The request did not arrive in time")

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer and close. Listen a moment longer, because a reset could overtake the answer."""
        self._disarm()
        if self.transport.is_closing():
            return
        self._is_deaf = True
        self.transport.write(_answer(status, sentence))
        if self.transport.can_write_eof():  # TLS has no half-closed connections
            self.transport.write_eof()
        self._deadline = self.loop.call_later(_LAST_WORDS_S, self._cut)

    def _cut(self) -> None:
        """Reset the connection, so that neither side waits for data in flight."""
        if self._is_lost:
            return
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()


def guarded(bounds: Bounds, proxies: Iterable[str] = ()) -> type[GuardedProtocol]:
    """Return the protocol with these bounds. It trusts what the proxies at these addresses say about clients."""
    fields = {"bounds": bounds, "proxies": parse_networks(proxies), "crowd": Counter(), "long_bodies": Counter()}
    return type("BoundedProtocol", (GuardedProtocol,), fields)


def _answer(status: int, sentence: str) -> bytes:
    """Return a whole answer in the shape of the application's failures. The connection closes after it."""
    body = failure_json(sentence, status)
    retry = b"retry-after: %d\r\n" % _RETRY_S if status == _BUSY else b""
    head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[status] + retry + head + body
