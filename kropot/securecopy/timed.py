"""How long an answer may take, and an answer of http.client that keeps to it; nothing but the standard library.

A socket's own timeout starts anew with every byte; here each read gets what is left of the answer's time.
"""

from __future__ import annotations

import http.client
import io
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

CONNECT_TIMEOUT_S = 30.0
STALL_TIMEOUT_S = 300.0


class TimedResponse(http.client.HTTPResponse):
    """An answer that is read through a `_TimedReader`; its time starts when the request is out."""

    def __init__(self, sock: socket.socket, *args: Any, total_s: float, stall_s: float, **kwargs: Any) -> None:
        """Take over the socket, with both limits in seconds."""
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self._reader = _TimedReader(raw, sock, monotonic() + total_s, stall_s)
        self.fp = io.BufferedReader(self._reader)

    @property
    def was_hung_up(self) -> bool:
        """Whether the connection's end was met while reading: then chunks did not come to theirs.

        The standard library takes the missing rest of a last chunk's size, or of the lines behind it, for an end.
        """
        return self._reader.is_over


class _TimedReader(io.RawIOBase):
    """Reads from a socket's file and raises TimeoutError once the deadline is over."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float, stall_s: float) -> None:
        super().__init__()
        self._raw, self._sock, self._deadline, self._stall_s = raw, sock, deadline, stall_s
        self.is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(min(left, self._stall_s))
        count = self._raw.readinto(buffer)
        self.is_over = self.is_over or count == 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
