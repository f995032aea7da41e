"""One content over one kept-alive connection, blocking, in reads of 1 MiB: the fastest way for large bodies."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

from kropot.collect.transfer.asking import AskingConnection, broken_by
from kropot.durable.errors import StorageError
from kropot.objects.store import CHUNK
from kropot.securecopy.content import UnbelievableError
from kropot.securecopy.timed import TimedResponse

if TYPE_CHECKING:
    from kropot.collect.decide.inputs import Receipt
    from kropot.collect.transfer.engine import Server
    from kropot.collect.transfer.receive import ContentReceiver


class BlockingFetcher:
    """Fetches one content after another; for one thread, but `close` may come from another."""

    def __init__(self, server: Server) -> None:
        """Prepare; nothing is connected yet."""
        self._asking = AskingConnection(server)
        self._limiter = server.limiter
        self._buffer = memoryview(bytearray(CHUNK))

    def fetch(self, receiver: ContentReceiver) -> Receipt:
        """Fetch one content to its end; resume where it breaks off, or broke off earlier, if that is sound."""
        try:
            extra = receiver.take_up() or {}
        except StorageError as error:
            return receiver.failed(error)
        while True:
            reason = self._attempt(receiver, extra)
            if not isinstance(reason, str):
                return reason
            self._asking.disconnect()
            again = None if self._asking.is_closed else receiver.resume_headers()
            if again is None:
                return receiver.failed(reason)
            extra = again

    def close(self) -> None:
        """Break off whatever is under way; the fetch then fails at once."""
        self._asking.close()

    def _attempt(self, receiver: ContentReceiver, extra: dict[str, str]) -> Receipt | str:
        """Return the receipt, or the reason why the transfer broke off."""
        try:
            answer = self._asking.ask("GET", receiver.job.path, extra)
            return answer if isinstance(answer, str) else self._take(receiver, answer)
        except (UnbelievableError, StorageError) as error:
            self._asking.disconnect()
            return receiver.failed(error)
        except (http.client.HTTPException, OSError, ValueError) as error:
            return broken_by(error)

    def _take(self, receiver: ContentReceiver, answer: http.client.HTTPResponse) -> Receipt | str:
        """Feed an answer to the receiver. Raises: what both raise."""
        try:
            headers = [(name.lower(), value) for name, value in answer.getheaders()]
            receiver.begin(answer.status, answer.version, headers)
        except UnbelievableError as error:
            self._asking.leave(answer)
            return receiver.failed(error)
        while count := answer.readinto(self._room()):
            receiver.write(self._buffer[:count])
        if receiver.missing or (isinstance(answer, TimedResponse) and answer.was_hung_up):
            return "cut"
        return receiver.finish()

    def _room(self) -> memoryview:
        """Return the buffer to read into: small under a rate limit, so that a transfer that breaks loses little."""
        return self._buffer if self._limiter is None else self._buffer[: self._limiter.portion(CHUNK)]
