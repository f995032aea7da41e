"""The map of when objects were last read, and the parts of it that are due next. Pure.

The map divides the space of all SHA-256 values into ranges that include both their ends. A part without a range was
never read.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ledger.events import AuditRange

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST, LAST = bytes(32), b"\xff" * 32
MAX_RANGES = 64
"""A map has at most this many ranges. Two neighbours that are joined keep the older of their times."""

ONE_RUN_US = 15 * 60 * 1_000_000
"""Readings closer together than this (microseconds) belong to one run. A run records about every five minutes."""


class Due(Struct, frozen=True, kw_only=True):
    """A part of the space that should be read, both ends included. `at_us` is when it was last read, None if never."""

    start: bytes
    end: bytes
    at_us: int | None


def advance(ranges: Iterable[AuditRange], read: AuditRange) -> tuple[AuditRange, ...]:
    """Return the map with `read` added, the oldest reading first. `read` replaces the ranges that it covers."""
    kept: list[AuditRange] = [read]
    for old in ranges:
        if old.start < read.start:
            kept.append(replace(old, end=min(old.end, before(read.start))))
        if old.end > read.end:
            kept.append(replace(old, start=max(old.start, after(read.end))))
    in_order = sorted(kept, key=lambda each: each.start)
    joined: list[AuditRange] = []
    for each in in_order:
        last = joined[-1] if joined else None
        if last is not None and _touch(last, each) and (last.at_us, last.position) == (each.at_us, each.position):
            joined[-1] = replace(last, end=each.end)
        else:
            joined.append(each)
    while len(joined) > MAX_RANGES and (pair := _closest(joined)) is not None:
        left, right = joined[pair], joined[pair + 1]
        joined[pair : pair + 2] = [
            AuditRange(
                start=left.start,
                end=right.end,
                position=min(left.position, right.position),
                at_us=min(left.at_us, right.at_us),
            )
        ]
    return tuple(sorted(joined, key=lambda each: (each.at_us, each.start)))


def due(ranges: Iterable[AuditRange], *, before_us: int | None = None) -> list[Due]:
    """Return all parts that should be read: first those never read, then those read longest ago.

    With `before_us` (microseconds since 1970), a part that was read at that moment or later is not due.
    """
    in_order = sorted(ranges, key=lambda each: each.start)
    found: list[Due] = []
    at: bytes | None = FIRST
    for each in in_order:
        if at is not None and each.start > at:
            found.append(Due(start=at, end=before(each.start), at_us=None))
        if before_us is None or each.at_us < before_us:
            found.append(Due(start=each.start, end=each.end, at_us=each.at_us))
        at = None if each.end == LAST else after(each.end)
    if at is not None:
        found.append(Due(start=at, end=LAST, at_us=None))
    return sorted(found, key=lambda each: (each.at_us is not None, each.at_us or 0, each.start))


def share(start: bytes, end: bytes) -> float:
    """Return the share of the space in [start, end], from 0 to 1. Hashes are spread evenly, so objects are too."""
    return (int.from_bytes(end, "big") - int.from_bytes(start, "big") + 1) / (1 << 256)


def runs_left(read: float, left: float) -> int | None:
    """Return how many more runs it takes to read `left`, if each reads the share `read`; None if that is 0."""
    if left <= 0:
        return 0
    return None if read <= 0 else math.ceil(left / read)


def read_by_us(ranges: Iterable[AuditRange], now_us: int, runs: int | None) -> int | None:
    """Return when the last part will be read, if runs stay as far apart as the last two; None if unknown.

    `ranges` is the map before this run, which ends at `now_us`. Times are in microseconds since 1970.
    """
    before_us = max((each.at_us for each in ranges), default=None)
    return None if before_us is None or runs is None else now_us + runs * (now_us - before_us)


def never_read(ranges: Iterable[AuditRange]) -> float:
    """Return the share of the space that was never read, from 0 to 1."""
    return sum(share(each.start, each.end) for each in due(ranges) if each.at_us is None)


def foreseen_us(ranges: Iterable[AuditRange]) -> int | None:
    """Return when the part that was never read will be read, if runs keep their pace; None if the map shows one run.

    If everything was read, this returns when everything will be read again. The pace is measured from the first to the
    last run in the map. Times are in microseconds since 1970.
    """
    known = sorted(ranges, key=lambda each: each.at_us)
    times = [each.at_us for each in known]
    # The last moment of each run except the last. Readings that are close together belong to one run.
    ends = [at for at, then in pairwise(times) if then - at > ONE_RUN_US]
    if not ends:
        return None
    read = sum(share(each.start, each.end) for each in known if each.at_us > ends[0])
    return times[-1] + int((never_read(known) or 1.0) / read * (times[-1] - ends[0]))


def after(sha256: bytes) -> bytes:
    """Return the next SHA-256 (32 bytes). Raises: OverflowError for `LAST`."""
    return (int.from_bytes(sha256, "big") + 1).to_bytes(32, "big")


def before(sha256: bytes) -> bytes:
    """Return the previous SHA-256 (32 bytes). Raises: OverflowError for `FIRST`."""
    return (int.from_bytes(sha256, "big") - 1).to_bytes(32, "big")


def _touch(left: AuditRange, right: AuditRange) -> bool:
    return left.end != LAST and after(left.end) == right.start


def _closest(in_order: list[AuditRange]) -> int | None:
    """Return the index of the first of the two neighbours that were read closest in time. None: no neighbours."""
    pairs = [at for at in range(len(in_order) - 1) if _touch(in_order[at], in_order[at + 1])]
    return min(pairs, key=lambda at: abs(in_order[at].at_us - in_order[at + 1].at_us), default=None)
