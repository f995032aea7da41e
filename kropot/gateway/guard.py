"""Bounds on what a client can cost before it has shown a token: connections, header bytes and time."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

ABORT: Final = "kropot.abort"
"""The ASGI extension with which an application cuts its connection off."""

_LAST_WORDS_S = 5.0
_NO_LINGER = struct.pack("ii", 1, 0)
_END = b"content-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _END
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\n" + _END
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\n" + _END


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a client may cost. Times are in seconds.

    At most `connections` are open at once. A request's head may take `head_bytes` and `head_s`. An idle connection
    stays open for `idle_s`. The gateway reads at most `unread_bytes` of a body after it has answered. It cuts off a
    client that takes nothing of an answer for `stall_s`.
    """

    connections: int = 1024
    head_bytes: int = 64 * 1024
    head_s: float = 30.0
    idle_s: float = 60.0
    unread_bytes: int = 1 << 20
    stall_s: float = 120.0


class GuardedProtocol(HttpToolsProtocol):
    """One connection, with bounds that uvicorn does not have."""

    bounds: ClassVar[Bounds] = Bounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create a connection as uvicorn does."""
        super().__init__(*args, **kwargs)
        self._is_lost = False
        self._in_head = True
        self._head_bytes = 0
        self._unread = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Accept the connection unless there are too many; start the timer for its first head."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            self._refuse(_BUSY)
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._is_lost = True
        self._disarm()
        self._flowing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process incoming bytes; refuse the request if its head exceeds the bounds."""
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            if self._head_bytes > self.bounds.head_bytes:
                self._refuse(_TOO_LARGE)
            elif self._head_timer is None:
                self._arm()

    def on_message_begin(self) -> None:
        """Begin a head. Bytes of it that arrived in the same packet are counted header by header."""
        self._in_head = True
        self._head_bytes = 0
        self._unread = 0
        super().on_message_begin()
        # Lets the application cut off an unfinished answer, so that no client mistakes it for complete.
        self.scope["extensions"] = {ABORT: {"abort": self._cut}}

    def on_url(self, url: bytes) -> None:
        """Process a piece of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Process a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the head's timer."""
        self._in_head = False
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Process a piece of a body. Cut the connection if the body goes on too long after its answer."""
        self._unread += len(body)
        if self.cycle.response_complete and self._unread > self.bounds.unread_bytes:
            self._cut()
            return
        super().on_body(body)

    def pause_writing(self) -> None:
        """Start to watch a client that reads more slowly than the gateway sends."""
        super().pause_writing()
        self._unsent = self._waiting()
        self._stall_timer = self.loop.call_later(self.bounds.stall_s, self._look_again)

    def resume_writing(self) -> None:
        """Stop watching: the client has caught up."""
        self._flowing()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if the client has not taken all of the last answer."""
        if self.transport.get_write_buffer_size():
            self._cut()
        super().timeout_keep_alive_handler()

    def _look_again(self) -> None:
        """Cut off a client that took nothing since the last look. A slow client gets more time."""
        unsent = self._waiting()
        if unsent >= self._unsent:
            self._cut()
            return
        self._unsent = unsent
        self._stall_timer = self.loop.call_later(self.bounds.stall_s, self._look_again)

    def _waiting(self) -> int:
        """Return how many bytes the client has not taken yet, including those in the system's buffers."""
        waiting = self.transport.get_write_buffer_size()
        try:
            answer = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return waiting
        return waiting + int.from_bytes(answer, sys.byteorder)

    def _cut(self) -> None:
        """Reset the connection, so that neither side waits for data in flight."""
        if self._is_lost:
            return
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _flowing(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _count(self, size: int) -> None:
        """Count bytes of a head. Raises: ValueError if there are too many; the parser then answers 400."""
        self._head_bytes += size
        # Twice the bound, because data_received also counts bytes that arrive in several packets.
        if self._head_bytes > 2 * self.bounds.head_bytes:
            raise ValueError("the head is too large")

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(self.bounds.head_s, self._refuse, _TIMED_OUT)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._disarm()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
            self.loop.call_later(_LAST_WORDS_S, self._cut)


def guarded(bounds: Bounds) -> type[GuardedProtocol]:
    """Return the protocol with these bounds."""
    return type("BoundedProtocol", (GuardedProtocol,), {"bounds": bounds})
