"""What an erasure keeps: which elements no collector may record again, and the rows that older digests contain.

Nothing names an erased element any more. But the digest in its events' headers, made with the source's salt, tells
whether a given key was the element's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.codec import decode_header, stream_digest
from ledger.decoding import fact_of
from ledger.digest import row
from ledger.errors import ConflictError
from ledger.events import ElementFact, PayloadErased
from ledger.lthash import ErasedRow, LtHash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ledger.append import AppendContext, NewFact
    from ledger.events import StreamKey
    from ledger.log import Ledger
    from ledger.replica import Event
    from ledger.rows import StoredEvent

MOST_ROWS: Final = 256
"""How many rows of an element are kept: the newest ones, 2 KiB each."""


class BlockedElements:
    """The elements of a ledger that were erased and may not be recorded again."""

    def __init__(self, ledger: Ledger) -> None:
        """Use this ledger. Nothing is read yet."""
        self._ledger = ledger
        self._known: dict[int, bytes | None] = {}

    def among(self, keys: Iterable[StreamKey]) -> set[StreamKey]:
        """Return which of these elements are blocked. If nothing was erased, this takes one query."""
        digests = self._digests()
        wanted = [key for key in keys if key.is_element] if digests else []
        if not wanted:
            return set()
        sources = self._ledger.sources()
        salts = {id_: entry.source.salt for id_, entry in sources.items()}
        return {key for key in wanted if key.source in salts and stream_digest(salts[key.source], key) in digests}

    def refuse(self, facts: Sequence[NewFact], ground: AppendContext) -> None:
        """Refuse to begin the stream of a blocked element. Raises: ConflictError with the stored keys."""
        fresh = (new.key for new, stored in zip(facts, ground.keys, strict=True) if stored not in ground.streams)
        if blocked := self.among(fresh):
            raise ConflictError(tuple(sorted(key.stored for key in blocked)))

    def _digests(self) -> set[bytes]:
        numbers = [number for number, _ in self._ledger.log.streams(erased=True)]
        if any(number not in self._known for number in numbers):
            self._known.update(dict.fromkeys(numbers))
            for event in self._ledger.erasures():
                fact = fact_of(event)
                if isinstance(fact, PayloadErased) and fact.blocked:
                    self._known[event.stream] = decode_header(event.header).stream_digest
        return {digest for digest in self._known.values() if digest is not None}


def rows_of(history: Iterable[Event]) -> tuple[ErasedRow, ...]:
    """Return the rows that an element had in state digests, or the newest `MOST_ROWS` if there are more."""
    rows: list[ErasedRow] = []
    for event in history:
        if event.key is not None and isinstance(event.fact, ElementFact):
            lanes = LtHash()
            lanes.add(row(event.key, event.fact.element))
            found = ErasedRow(position=event.position, lanes=lanes.lanes)
            if not rows or rows[-1].lanes != found.lanes:
                rows.append(found)
    return tuple(rows[-MOST_ROWS:])


def erased_rows_at(ledger: Ledger, position: int) -> Iterator[bytes]:
    """Yield the lanes of the rows that were in the state after the event at `position` and have been erased since."""
    for event in ledger.erasures():
        fact = fact_of(event)
        if event.seq > position and isinstance(fact, PayloadErased):
            before = [each for each in fact.rows if each.position <= position]
            if before:
                yield before[-1].lanes


def erased_events(ledger: Ledger, erasures: Iterable[StoredEvent]) -> list[int]:
    """Return the positions of the events whose payloads these erasures removed."""
    rows = ledger.log.histories({event.stream for event in erasures}, ledger.head().position)
    return sorted(found[0] for found in rows if found[-1] is None)
