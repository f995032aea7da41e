"""A server in this process: it lists and yields any number of tiny elements, and remembers none of them."""

from __future__ import annotations

import hashlib
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kropot.collect.transfer.engine import FetchJob, FetchResult, Got
from kropot.securecopy.wire import Listed, Page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.objects.store import ObjectStore

FIRST = 1_600_000_000
A_SECOND = 100
"""So many elements share a second."""

FORM = b'{"encrypted":"' + b"A" * 300 + b'"}'
SIZE = 48


class Elements:
    """What the collector's control thread asks: pages of `count` elements, a hundred of them a second."""

    def __init__(self, count: int) -> None:
        self.count = count

    def list(self, since: str | None, limit: int) -> Page:
        """Return the elements dated after `since`, a wall clock in UTC."""
        first = 0
        if since is not None:
            second = int(datetime.strptime(since, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp())
            first = max(0, (second - FIRST + 1) * A_SECOND)
        numbers = range(min(first, self.count), min(first + limit, self.count))
        return Page(entries=tuple(map(listed, numbers)), rejected=(), remaining=self.count - first, closed=None)

    def submitdata(self, id_: str) -> Listed | None:
        """Return an element by its id; nothing is ever gone."""
        raise NotImplementedError(id_)


def listed(number: int) -> Listed:
    """Return the entry of one element."""
    id_ = hashlib.sha256(number.to_bytes(8, "big")).hexdigest()
    return Listed(type="file", id=id_, date=FIRST + number // A_SECOND, tz="UTC", form=FORM, size=None, etag=None)


class Contents:
    """A transfer engine that makes up what it fetches."""

    name = "made up"

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._jobs: deque[FetchJob] = deque()

    @property
    def in_flight(self) -> int:
        """Jobs not yet answered."""
        return len(self._jobs)

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        """Take more jobs."""
        self._jobs.extend(jobs)

    def poll(self, timeout_s: float) -> list[FetchResult]:  # noqa: ARG002 - nothing here is waited for
        """Stage the next contents."""
        return [self._make(self._jobs.popleft()) for _ in range(min(64, len(self._jobs)))]

    def close(self) -> None:
        """Drop the jobs."""
        self._jobs.clear()

    def _make(self, job: FetchJob) -> Got:
        digest = hashlib.sha256(job.path.encode()).digest()
        upload = self._objects.stage()
        upload.write(digest + digest[:16])
        return Got(job=job, staged=upload.finish(), iv=digest[:16], size=SIZE)
