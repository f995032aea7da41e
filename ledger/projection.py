"""How events change the stored projection. Append and rebuild use the same pure function."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.errors import BrokenChainError, UnknownCriticalEventError
from ledger.events import ElementFact, Fact, SourceFact, UnknownFact
from ledger.rows import SOUND, Changes, CopyState, EntryRow, SourceRow, TallyRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ledger.events import Element, ErasedFact


class Happened(NamedTuple):
    """An event as the projection needs it. `source` is the 16-byte id of its source."""

    seq: int
    stream: int
    stream_version: int
    recorded_us: int
    source: bytes
    fact: Fact | UnknownFact | ErasedFact


def project(events: Iterable[Happened], entries: Mapping[int, EntryRow], sources: Mapping[bytes, SourceRow]) -> Changes:
    """Return what `events`, in order, change. `entries` (by stream) and `sources` (by id) are the rows before them.

    Raises:
        UnknownCriticalEventError: at an event of an unknown type that MUST NOT be skipped.
        BrokenChainError: at an element's event whose source never began.
    """
    work = _Work(entries, sources)
    for event in events:
        work.take(event)
    return work.changes()


def named_object(fact: ElementFact) -> bytes:
    """Return the SHA-256 of the object of a fact with `NAMES_OBJECT`."""
    sha256: bytes = getattr(fact, "sha256")  # noqa: B009 -- each such class has the field, but no common base does
    return sha256


def entry_row(event: Happened, source: int, element: Element) -> EntryRow:
    """Return the row of an element after `event`."""
    copy, state = element.copy, element.state
    size, sha256 = (None, None) if copy is None else (copy.size, copy.sha256)
    # A current element is not wanted.
    due_us = None if state == "current" else element.due_us(event.recorded_us)
    seq, stream, version, *_ = event
    columns = (stream, source, version, seq, state, due_us, element.date, element.size, size, sha256)
    # Without the class's own `__new__` this costs half as much, and it runs while the head is locked.
    return tuple.__new__(EntryRow, columns)


# --- helpers ---------------------------------------------------------------------------------------------------------


class _Work:
    """Collects the new rows while it processes the events of a batch."""

    def __init__(self, entries: Mapping[int, EntryRow], sources: Mapping[bytes, SourceRow]) -> None:
        self._before = entries
        self._known = dict(sources)
        self._after: dict[int, EntryRow | None] = {}
        self._moved: dict[bytes, SourceRow] = {}
        self._copies: dict[tuple[bytes, int], CopyState] = {}
        self._judged: dict[tuple[bytes, int], str] = {}

    def take(self, event: Happened) -> None:
        fact = event.fact
        if isinstance(fact, ElementFact):
            self._element(event, fact)
        elif isinstance(fact, SourceFact):
            before = self._known.get(event.source)
            no = len(self._known) + 1 if before is None else before.no
            row = SourceRow(no, event.source, event.stream, event.stream_version, event.seq)
            self._known[event.source] = self._moved[event.source] = row
        elif isinstance(fact, UnknownFact):
            self._pass_over(event, fact)
        elif isinstance(fact, Fact) and fact.ERASES:
            # In a later fold, the stream's key is no longer known, so its source is not known either.
            self._drop(event.stream)
        # Other facts are about the ledger or its instances, or were erased. They have no rows.

    def changes(self) -> Changes:
        return Changes(
            entries=[row for row in self._after.values() if row is not None],
            dropped=[stream for stream, row in self._after.items() if row is None],
            copies=list(self._copies.values()),
            judged=[(state, sha256, stream) for (sha256, stream), state in self._judged.items()],
            sources=list(self._moved.values()),
            tallies=_tally(self._after, self._before),
        )

    def _pass_over(self, event: Happened, fact: UnknownFact) -> None:
        """Change only the version of the stream, which the next append expects."""
        if fact.critical:
            raise UnknownCriticalEventError(event.seq, fact.type_name, fact.schema_version)
        row = self._after.get(event.stream, self._before.get(event.stream))
        if row is not None:
            self._after[event.stream] = row._replace(version=event.stream_version)

    def _element(self, event: Happened, fact: ElementFact) -> None:
        element, state = fact.element, fact.OBJECT_STATE
        owner = self._known.get(event.source)
        if owner is None:
            raise BrokenChainError(event.seq, "its element belongs to a source that never began")
        self._after[event.stream] = entry_row(event, owner.no, element)
        if state is None:
            return
        if not fact.NAMES_OBJECT:
            copy = element.copy
            if copy is not None:
                named = (copy.sha256, event.stream)
                columns = (copy.sha256, event.stream, copy.size, event.seq, SOUND)
                self._copies[named] = tuple.__new__(CopyState, columns)
                self._judged.pop(named, None)
            return
        named = (named_object(fact), event.stream)
        if named in self._copies:
            self._copies[named] = self._copies[named]._replace(state=state)
        else:
            self._judged[named] = state

    def _drop(self, stream: int) -> None:
        self._after[stream] = None
        self._copies = {pair: row for pair, row in self._copies.items() if pair[1] != stream}
        self._judged = {pair: state for pair, state in self._judged.items() if pair[1] != stream}


def _tally(after: Mapping[int, EntryRow | None], before: Mapping[int, EntryRow]) -> list[TallyRow]:
    """Return by how much each (source, state) changes, in sorted order, without those that do not change."""
    sums: dict[tuple[int, str], list[int]] = {}

    def count(row: EntryRow | None, sign: int) -> None:
        if row is not None:
            pair = sums.setdefault((row.source, row.state), [0, 0])
            pair[0] += sign
            pair[1] += sign * (row.size or 0)

    for row in after.values():
        count(row, 1)
    for stream in before.keys() & after.keys():
        count(before[stream], -1)
    return [TallyRow(*key, *pair) for key, pair in sorted(sums.items()) if pair != [0, 0]]
