"""What a collector and its transfer process say to each other: msgpack arrays over two pipes, first of all their kind.

To the process: CONFIG once, then JOBS, PUBLISH, DISCARD, BREAK_OFF; the pipe's end is the order to die. From it: READY
once, RESULTS, PUBLISHED, BROKEN_OFF, and CRASHED as its last words. Objects are named by tokens, which the process
gives out when it stages them.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import msgpack

from kropot.collect.transfer.engine import Failed, FetchJob
from kropot.objects.store import DiscardedError, Published, PublishError, Staged, StorageError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG, JOBS, PUBLISH, DISCARD, BREAK_OFF = range(5)
READY, RESULTS, PUBLISHED, BROKEN_OFF, CRASHED = range(10, 15)

_READ = 1 << 20
_ERRORS: dict[str, type[StorageError]] = {
    kind.reason: kind for kind in (StorageError, StorageFullError, DiscardedError)
}


class Sender:
    """Writes messages into a pipe; threads may share it."""

    def __init__(self, fd: int) -> None:
        """Take over the pipe's end."""
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, *message: object) -> None:
        """Write one message whole. Raises: OSError, BrokenPipeError where nobody reads any more."""
        rest = memoryview(msgpack.packb(message))
        with self._lock:
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def close(self, patience_s: float) -> None:
        """Write nothing more: once the descriptor is closed, its number may be another pipe's."""
        is_mine = self._lock.acquire(timeout=patience_s)
        self._fd = -1
        if is_mine:
            self._lock.release()


def receive(fd: int) -> Iterator[list[Any]]:
    """Yield messages as they come, until the pipe's end."""
    unpacker = msgpack.Unpacker(use_list=True, max_buffer_size=1 << 30)
    while data := os.read(fd, _READ):
        unpacker.feed(data)
        yield from unpacker


def job_to_row(job: FetchJob) -> list[object]:
    """Return a job as an array."""
    return [job.number, job.path, job.opaque, job.size, job.etag]


def job_of_row(row: list[Any]) -> FetchJob:
    """Undo `job_to_row`."""
    number, path, opaque, size, etag = row
    return FetchJob(number=number, path=path, opaque=opaque, size=size, etag=etag)


def failure_to_row(failed: Failed) -> list[object]:
    """Return a failure as an array; a success has five items: number, token, SHA-256, size, IV."""
    return [failed.job.number, failed.reason, failed.status, failed.refused, failed.detail, None]


def failure_of_row(row: list[Any], job: FetchJob) -> Failed:
    """Undo `failure_to_row`."""
    _, reason, status, refused, detail, _ = row
    return Failed(job=job, reason=reason, status=status, refused=refused, detail=detail)


def outcome_to_row(outcome: Published | PublishError) -> list[object]:
    """Return what came of publishing an object as an array; its SHA-256 and size are known to the other side."""
    if isinstance(outcome, Published):
        return [outcome.existed, outcome.set_aside]
    return [outcome.error.reason, str(outcome.error), None]


def outcome_of_row(row: list[Any], staged: Staged) -> Published | PublishError:
    """Undo `outcome_to_row`."""
    if len(row) == 2:  # noqa: PLR2004 -- two items are a success
        existed, set_aside = row
        return Published(sha256=staged.sha256, size=staged.size, existed=existed, set_aside=set_aside)
    reason, text, _ = row
    error = _ERRORS.get(reason, StorageError)(text)
    return PublishError(sha256=staged.sha256, size=staged.size, error=error)
