"""How long an answer may be silent, and an answer of http.client that enforces it; only the standard library.

A socket's own timeout restarts with every byte; this one restarts with every `NOISE` bytes.
"""

from __future__ import annotations

import http.client
import io
import math
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

    from kropot.bandwidth import RateLimiter

CONNECT_TIMEOUT_S = 30.0

LIST_SILENCE_S = 120.0
CONTENT_SILENCE_S = 300.0
"""How long a server may be silent within an answer, in seconds: for a page of the list, for a content."""

NOISE = 1024
"""Fewer bytes than this in that time count as silence, so that a trickle does not hold a connection forever."""


class TimedResponse(http.client.HTTPResponse):
    """An answer that is read through a `_TimedReader`; its time starts when the request is out."""

    def __init__(
        self,
        sock: socket.socket,
        *args: Any,
        silence_s: float,
        total_s: float = math.inf,
        buffer: int = io.DEFAULT_BUFFER_SIZE,
        limiter: RateLimiter | None = None,
        **kwargs: Any,
    ) -> None:
        """Take over the socket, which is read `buffer` bytes at a time.

        The answer may be silent for `silence_s` seconds, and take `total_s` in all. The limiter's waits do not count.
        """
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self._reader = _TimedReader(raw, sock, silence_s, monotonic() + total_s, limiter)
        self.fp = io.BufferedReader(self._reader, buffer)

    @property
    def was_hung_up(self) -> bool:
        """Whether the connection ended while reading: then the chunks are incomplete.

        The standard library takes a cut size of the last chunk, or cut lines after it, for an end.
        """
        return self._reader.is_over


class _TimedReader(io.RawIOBase):
    """Reads from a socket's file and raises TimeoutError if the other side is silent, or after the deadline."""

    def __init__(
        self, raw: io.RawIOBase, sock: socket.socket, silence_s: float, deadline: float, limiter: RateLimiter | None
    ) -> None:
        super().__init__()
        self._limiter = limiter
        self._raw, self._sock, self._silence_s, self._deadline = raw, sock, silence_s, deadline
        self._silent_at = monotonic() + silence_s
        self._came = 0
        self.is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        limiter = self._limiter
        if limiter is not None:
            waited = limiter.wait()
            self._silent_at += waited
            self._deadline += waited
            buffer = memoryview(buffer)[: limiter.portion(len(buffer))]
        left = min(self._deadline, self._silent_at) - monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        count = self._raw.readinto(buffer)
        self._came += count or 0
        if limiter is not None:
            limiter.received(count or 0)
        if self._came >= NOISE:
            self._silent_at, self._came = monotonic() + self._silence_s, 0
        self.is_over = self.is_over or count == 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
