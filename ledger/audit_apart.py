"""Stretches of the log that are read and recognised apart from the audit, wherever that is: in other processes, say."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.audit_names import Names
from ledger.audit_page import EventPage, recognise
from ledger.audit_rows import read_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ledger.audit_rows import Row
    from ledger.store import EventStore


class EventRange(NamedTuple):
    """The positions in (`after`, `until`], and the salts that are known before them, by source id."""

    after: int
    until: int
    salts: Mapping[bytes, bytes]


class RangeAudit(NamedTuple):
    """What was found in a stretch: its events, and the rows of those that were not recognised, by their places."""

    page: EventPage
    strange: dict[int, Row]


if TYPE_CHECKING:
    Read = Callable[[EventStore, EventRange], RangeAudit | None]
    Spread = Callable[[Read, Iterable[EventRange]], Iterator[RangeAudit | None]]
    """Carries out the reading of stretches, in their order, each on a store of its own or the same."""

NOTHING = RangeAudit(EventPage((), (), (), (), (), b"", []), {})


class StretchReader:
    """Reads stretches on behalf of an audit."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._names = Names()

    def read(self, store: EventStore, stretch: EventRange) -> RangeAudit | None:
        """Return what stands in the stretch; None where rows cannot be used, which the audit MUST look at itself.

        Raises:
            LedgerUnavailableError: if the database is away.
        """
        columns, unusable = read_events(store, stretch.after, stretch.until, stretch.until - stretch.after)
        if unusable:
            return None
        if not columns:
            return NOTHING
        self._names.learn(store, set(columns[1]), stretch.salts)
        page = recognise(columns, self._names.digests)
        strange = [at for at, is_sound in enumerate(page.sound) if not is_sound] if 0 in page.sound else []
        return RangeAudit(page, {at: tuple(column[at] for column in columns) for at in strange})
