"""Reading objects to their end and comparing them with their names: in order, in parallel, with reused buffers."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from kropot.objects.store import ObjectMissingError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.objects.store import ObjectStore

BUFFER = 256 << 10
"""Bytes read at a time; larger buffers and memory maps were no faster."""

LARGE = 64 << 20
"""Only reading a larger object is broken off when the time is up; smaller ones are read to their end."""

THREADS = 2
"""While one thread hashes the other reads; more were no faster on two cores."""


FaultKind = Literal["damaged", "lost", "unreadable"]


class ReadRequest(NamedTuple):
    """An object that should be there, and what it should be."""

    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An object that is not what its name says: "damaged", "lost", or "unreadable" (then it is not known which)."""

    sha256: bytes
    kind: FaultKind
    detail: str


class Reading(Protocol):
    """Reads blocks of objects; results come in the order in which the blocks went in."""

    def submit(self, block: list[ReadRequest]) -> None:
        """Begin to read a block; waits while enough is under way."""
        ...

    def result(self) -> list[Fault] | None:
        """Return the faults of the oldest block, None if reading was stopped within it. Raises: IndexError if none."""
        ...

    @property
    def waiting(self) -> int:
        """How many blocks went in whose results were not taken."""
        ...

    def close(self) -> None:
        """Stop reading and let go of everything."""
        ...


class Throttle:
    """Lets at most `rate` bytes a second pass, all threads together; None lets everything pass."""

    def __init__(
        self,
        rate: int | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin now; what was not used is not saved up beyond a second."""
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
    wanted: ReadRequest,
    buffer: memoryview,
    *,
    throttle: Throttle | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Fault | None:
    """Read one object to its end; return what is wrong with it, None if nothing is.

    Raises:
        InterruptedError: if `stopped` says so before the end.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with objects.open(wanted.sha256) as file:
            while count := file.readinto(buffer):  # type: ignore[attr-defined]  # objects are opened unbuffered
                digest.update(buffer[:count])
                size += count
                if throttle is not None:
                    throttle.take(count)
                if stopped is not None and wanted.size > LARGE and stopped():
                    raise InterruptedError
    except ObjectMissingError:
        return Fault(sha256=wanted.sha256, kind="lost", detail="the object is gone")
    except (StorageError, OSError) as error:
        if isinstance(error, InterruptedError):
            raise
        return _unreadable(wanted.sha256, error)
    if size != wanted.size:
        return Fault(sha256=wanted.sha256, kind="damaged", detail=f"it has {size} bytes, and {wanted.size} were stored")
    if digest.digest() != wanted.sha256:
        return Fault(sha256=wanted.sha256, kind="damaged", detail=f"its bytes have the SHA-256 {digest.hexdigest()}")
    return None


class ThreadReading:
    """Reads with two threads over any object store."""

    def __init__(self, objects: ObjectStore, *, throttle: Throttle, stopped: Callable[[], bool]) -> None:
        """Begin with nothing under way."""
        self._objects = objects
        self._throttle = throttle
        self._stopped = stopped
        self._closing = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="verify")
        self._local = threading.local()
        self._under_way: deque[Future[list[Fault] | None]] = deque()

    def submit(self, block: list[ReadRequest]) -> None:
        """Hand the block to a thread."""
        self._under_way.append(self._pool.submit(self._read, block))

    def result(self) -> list[Fault] | None:
        """Wait for the oldest block."""
        return self._under_way.popleft().result()

    @property
    def waiting(self) -> int:
        """How many blocks went in whose results were not taken."""
        return len(self._under_way)

    def close(self) -> None:
        """End both threads at their next buffer."""
        self._closing = True
        self._pool.shutdown(cancel_futures=True)

    def _read(self, block: list[ReadRequest]) -> list[Fault] | None:
        buffer = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(BUFFER))
        faults = []
        for wanted in block:
            try:
                fault = read_object(self._objects, wanted, buffer, throttle=self._throttle, stopped=self._is_stopped)
            except InterruptedError:
                return None
            if fault is not None:
                faults.append(fault)
        return faults

    def _is_stopped(self) -> bool:
        return self._closing or self._stopped()


def _unreadable(sha256: bytes, error: Exception) -> Fault:
    """Take an input/output error for damage; a missing right, say, is the operator's to mend."""
    cause = error.__cause__ if isinstance(error, StorageError) else error
    if isinstance(cause, OSError) and cause.errno == errno.EIO:
        return Fault(sha256=sha256, kind="damaged", detail="the disk reports an input/output error while it is read")
    return Fault(sha256=sha256, kind="unreadable", detail=str(error))
