"""HTTP connections whose whole answer has a deadline, so that a server that drips byte after byte cannot hold us.

A socket's own timeout starts anew with every byte; here each read gets what is left of the answer's time.
"""

from __future__ import annotations

import http.client
import io
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    import socket

    import requests


class DeadlineAdapter(HTTPAdapter):
    """A transport of requests whose answers, head included, take `total_s` seconds at most, and pause `stall_s`."""

    def __init__(self, *, total_s: float, stall_s: float) -> None:
        """Remember both limits, in seconds."""
        self._answer = partial(TimedResponse, total_s=total_s, stall_s=stall_s)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Let the pools make connections whose answers are timed."""
        super().init_poolmanager(*args, **kwargs)
        answer = staticmethod(self._answer)
        plain = type("TimedConnection", (HTTPConnection,), {"response_class": answer})
        tls = type("TimedTlsConnection", (HTTPSConnection,), {"response_class": answer})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("TimedPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TimedTlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }


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


def was_hung_up(answer: requests.Response) -> bool:
    """Whether the connection ended while the body was read, though its framing has an end of its own."""
    # urllib3 gives no other way to the answer that http.client read
    original = getattr(answer.raw, "_original_response", None)
    return isinstance(original, TimedResponse) and original.was_hung_up


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
