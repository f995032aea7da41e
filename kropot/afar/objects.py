"""Sealed objects that a keeper has, read as if they were files. A read that is cut off continues where it stopped."""

from __future__ import annotations

import io
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from kropot.objects.store import ObjectMissingError
from kropot.securecopy.client import ServerTroubleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from typing import BinaryIO

    from kropot.afar.client import KeeperClient, RemoteRange
    from kropot.replay.copies import HeldCopy
    from ledger.places import Placement

BUFFER: Final = 1 << 18
TRIES: Final = 5
"""The client gives up on the keeper after this many answers in a row without data."""

AT_ONCE: Final = 8
"""How many small copies to ask for at a time."""

MOST_COMING: Final = 64 << 20
"""How many requested bytes to keep before the oldest are dropped. The newest batch is always kept."""

_FIRST_WAIT_S: Final = 0.2
_STOPPED: Final = frozenset({"cut", "timeout", "stalled", "not_listening", "http_503", "http_502", "http_504"})


class RemoteObject(io.RawIOBase):
    """An object at a keeper. Nothing is requested before the first byte is read."""

    def __init__(self, client: KeeperClient, sha256: bytes, size: int) -> None:
        """Read the object with this name. More than `size` bytes are never read, whatever the keeper sends."""
        super().__init__()
        self._client = client
        self._sha256 = sha256
        self._size = size
        self._at = 0
        self._range: RemoteRange | None = None
        self._skip = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: another part is another request."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place. The next read there sends a new request."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        wanted = max(0, base + offset)
        if wanted != self._at:
            self._drop()
            self._at = wanted
        return self._at

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes; return 0 at the end, which a keeper can also fake.

        Raises: ObjectMissingError, ServerRefusedError, ServerTroubleError.
        """
        view = memoryview(buffer).cast("B")
        most = min(len(view), self._size - self._at)
        if most <= 0:
            self._finish()
            return 0
        tries = 0
        while True:
            try:
                data = self._next(most)
            except ServerTroubleError as error:
                self._drop()
                tries += 1
                if tries == TRIES or error.reason not in _STOPPED:
                    raise
                time.sleep(_FIRST_WAIT_S * 2**tries)
                continue
            view[: len(data)] = data
            self._at += len(data)
            return len(data)

    def close(self) -> None:
        """Give the connection back."""
        self._drop()
        super().close()

    def _next(self, most: int) -> bytes:
        if self._range is None:
            self._range = self._client.open_object(self._sha256, self._at)
            self._skip = self._at - self._range.offset
        while self._skip:
            passed = self._client.read_some(self._range.answer, min(self._skip, BUFFER))
            if not passed:
                return b""
            self._skip -= len(passed)
        return self._client.read_some(self._range.answer, most)

    def _finish(self) -> None:
        """Read the end of a whole answer, so that its connection serves the next request."""
        if self._range is not None and self._at == self._range.size:
            with suppress(ServerTroubleError):
                self._client.read_some(self._range.answer, 1)
        self._drop()

    def _drop(self) -> None:
        if self._range is not None:
            self._range.answer.close()
            self._range = None


class RemoteCopies:
    """The copies at a keeper. Small ones that are requested together come several at a time."""

    def __init__(self, client: KeeperClient) -> None:
        """Read from this keeper. `close` ends the threads."""
        self._client = client
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="keeper")
        self._coming: dict[bytes, Future[bytes]] = {}
        self._sizes: deque[tuple[bytes, int]] = deque()
        self._size = 0

    def __enter__(self) -> Self:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Forget what was not read, and end the threads."""
        self._coming.clear()
        self._pool.shutdown(cancel_futures=True)

    def places(self, helds: Sequence[HeldCopy]) -> list[Placement | None]:
        """Return no places, but begin to fetch the copies, which are about to be read."""
        # Earlier requests can still be read: several batches are under way at a time.
        for held in helds:
            if held.sha256 is not None and held.sha256 not in self._coming:
                self._coming[held.sha256] = self._pool.submit(self._whole, held)
                self._size += held.size
                self._sizes.append((held.sha256, held.size))
        while self._size > MOST_COMING and len(self._sizes) > len(helds):
            # Nobody read it, or it was read long ago.
            sha256, size = self._sizes.popleft()
            self._size -= size
            unread = self._coming.pop(sha256, None)
            if unread is not None:
                unread.cancel()
        return [None] * len(helds)

    def read(self, held: HeldCopy, _: Placement | None) -> bytes:
        """Return a copy, whether `places` was asked about it or not. Raises: as `open`, and as reading from it."""
        if held.sha256 is None:
            raise ObjectMissingError(b"")
        coming = self._coming.pop(held.sha256, None)
        return self._whole(held) if coming is None else coming.result()

    def open(self, held: HeldCopy) -> BinaryIO:
        """Open the copy's object. Raises: ObjectMissingError; reading raises as `RemoteObject.readinto`."""
        if held.sha256 is None:
            raise ObjectMissingError(b"")
        return io.BufferedReader(RemoteObject(self._client, held.sha256, held.size), BUFFER)

    def _whole(self, held: HeldCopy) -> bytes:
        with self.open(held) as source:
            return source.read()
