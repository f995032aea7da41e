"""Ranges of the log that other processes read and recognise for the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.audit.fast.page import EventPage, recognise
from ledger.audit.rows import read_events
from ledger.audit.streams import StreamNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ledger.audit.rows import Row
    from ledger.stores import EventLog


class EventRange(NamedTuple):
    """The positions in (`after`, `until`], and the salts that are already known, by source id."""

    after: int
    until: int
    salts: Mapping[bytes, bytes]


class RangeAudit(NamedTuple):
    """The content of a range: its events, and the rows of those that were not recognised, by place."""

    page: EventPage
    unrecognised: dict[int, Row]


if TYPE_CHECKING:
    ReadRange = Callable[[EventLog, EventRange], RangeAudit | None]
    RunRanges = Callable[[ReadRange, Iterable[EventRange]], Iterator[RangeAudit | None]]
    """Reads ranges and returns the answers in the same order. Each read can have its own connection."""

_NOTHING = RangeAudit(EventPage((), (), (), (), (), b"", (), []), {})


class EventRangeReader:
    """Reads ranges for an audit."""

    def __init__(self) -> None:
        """Start without names of streams."""
        self._names = StreamNames()

    def read(self, log: EventLog, part: EventRange) -> RangeAudit | None:
        """Return the content of the range, or None if a row cannot be used, so that the audit must read it itself.

        Raises:
            LedgerUnavailableError: if the database cannot be reached.
        """
        columns, unusable = read_events(log, part.after, part.until, part.until - part.after)
        if unusable:
            return None
        if not columns:
            return _NOTHING
        self._names.learn(log, set(columns[1]), part.salts)
        page = recognise(columns, self._names.digests)
        places = [at for at, is_sound in enumerate(page.sound) if not is_sound] if 0 in page.sound else []
        return RangeAudit(page, {at: tuple(column[at] for column in columns) for at in places})
