"""Read objects to their end and compare them with their names: in order, in parallel, with reused buffers."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kropot.durable.errors import StorageError
from kropot.objects.bulk.protocol import FaultKind
from kropot.objects.store import ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.objects.store import ObjectStore

BUFFER = 256 << 10
"""Bytes read at a time; larger buffers and memory maps were no faster."""

LARGE = 64 << 20
"""A stop interrupts the reading of objects larger than this; smaller ones are read to their end."""

THREADS = 2
"""While one thread hashes the other reads; more were no faster on two cores."""


class ReadRequest(NamedTuple):
    """An object that should be there, and its size in bytes."""

    sha256: bytes
    size: int


Bad = tuple[bytes, FaultKind, str]
"""SHA-256 of a bad object, what is wrong with it, and the detail."""


class Reading(Protocol):
    """Reads blocks of objects; results come in the order in which the blocks went in."""

    def submit(self, block: list[ReadRequest]) -> None:
        """Start to read a block; wait while enough blocks are under way."""
        ...

    def result(self) -> list[Bad] | None:
        """Return the bad objects of the oldest block, None if reading stopped within it. Raises: IndexError if none."""
        ...

    def close(self) -> None:
        """Stop reading and release everything."""
        ...


class Throttle:
    """Lets at most `rate` bytes a second pass, over all threads; None lets everything pass."""

    def __init__(
        self,
        rate: int | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start now; unused bytes are saved up for one second at most."""
        self._rate = rate
        self._sleep = sleep
        self._monotonic = monotonic
        self._free_at = monotonic()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Wait until `size` bytes may pass."""
        if self._rate is None:
            return
        with self._lock:
            now = self._monotonic()
            self._free_at = max(self._free_at, now - 1.0) + size / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)


def read_object(
    objects: ObjectStore,
    request: ReadRequest,
    buffer: memoryview,
    *,
    throttle: Throttle | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Bad | None:
    """Read one object to its end; return what is wrong with it, None if nothing is.

    Raises:
        InterruptedError: if `stopped` returns true before the end.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with objects.open(request.sha256) as file:
            while count := file.readinto(buffer):  # type: ignore[attr-defined]  # objects are opened unbuffered
                digest.update(buffer[:count])
                size += count
                if throttle is not None:
                    throttle.take(count)
                if stopped is not None and request.size > LARGE and stopped():
                    raise InterruptedError
    except ObjectMissingError:
        return request.sha256, "lost", "the object is gone"
    except (StorageError, OSError) as error:
        if isinstance(error, InterruptedError):
            raise
        return _unreadable(request.sha256, error)
    if size != request.size:
        return request.sha256, "damaged", f"it has {size} bytes, but {request.size} were stored"
    if digest.digest() != request.sha256:
        return request.sha256, "damaged", f"its bytes have the SHA-256 {digest.hexdigest()}"
    return None


class ThreadReading:
    """Reads from any object store with two threads."""

    def __init__(self, objects: ObjectStore, *, throttle: Throttle, stopped: Callable[[], bool]) -> None:
        """Start with nothing under way."""
        self._objects = objects
        self._throttle = throttle
        self._stopped = stopped
        self._closing = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="verify")
        self._local = threading.local()
        self._under_way: deque[Future[list[Bad] | None]] = deque()

    def submit(self, block: list[ReadRequest]) -> None:
        """Hand the block to a thread."""
        self._under_way.append(self._pool.submit(self._read, block))

    def result(self) -> list[Bad] | None:
        """Wait for the oldest block."""
        return self._under_way.popleft().result()

    def close(self) -> None:
        """End both threads at their next buffer."""
        self._closing = True
        self._pool.shutdown(cancel_futures=True)

    def _read(self, block: list[ReadRequest]) -> list[Bad] | None:
        buffer = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(BUFFER))
        bad = []
        for request in block:
            try:
                found = read_object(self._objects, request, buffer, throttle=self._throttle, stopped=self._is_stopped)
            except InterruptedError:
                return None
            if found is not None:
                bad.append(found)
        return bad

    def _is_stopped(self) -> bool:
        return self._closing or self._stopped()


def _unreadable(sha256: bytes, error: Exception) -> Bad:
    """Treat an input/output error as damage, but no other: a person can restore a missing permission, for example."""
    cause = error.__cause__ if isinstance(error, StorageError) else error
    if isinstance(cause, OSError) and cause.errno == errno.EIO:
        return sha256, "damaged", "the disk reports an input/output error while reading it"
    return sha256, "unreadable", str(error)
