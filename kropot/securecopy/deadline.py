"""HTTP connections whose answers have a deadline, so that a server that drips byte after byte cannot hold us."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from kropot.securecopy.timed import TimedResponse

if TYPE_CHECKING:
    import requests


class _Timed:
    """Mixed into a connection pool: the answers of its connections are timed."""

    def __init__(self, *args: Any, answer: partial[TimedResponse], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answer = answer

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]
        connection.response_class = self._answer
        return connection


class _TimedPool(_Timed, HTTPConnectionPool):
    """Makes connections whose answers are timed."""


class _TimedTlsPool(_Timed, HTTPSConnectionPool):
    """Makes TLS connections whose answers are timed."""


class DeadlineAdapter(HTTPAdapter):
    """A transport of requests whose answers, head included, take `total_s` seconds at most, and pause `silence_s`."""

    def __init__(self, *, total_s: float, silence_s: float) -> None:
        """Keep both limits, in seconds."""
        self._answer = partial(TimedResponse, total_s=total_s, silence_s=silence_s)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Let the pools make connections whose answers are timed."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": partial(_TimedPool, answer=self._answer),
            "https": partial(_TimedTlsPool, answer=self._answer),
        }


def was_hung_up(answer: requests.Response) -> bool:
    """Return whether the connection ended while the body was read, although its framing has an end of its own."""
    # urllib3 gives no other way to the answer that http.client read.
    original = getattr(answer.raw, "_original_response", None)
    return isinstance(original, TimedResponse) and original.was_hung_up
