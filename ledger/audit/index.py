"""The rule for the projection: each stored row must be the one that results from folding the log (docs/format.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.audit.fast.entry import EntryRecogniser
from ledger.audit.finding import Finding, finding_in
from ledger.codec import decode_payload
from ledger.digest import SetDigest, StateDigest
from ledger.digest import row as digest_row
from ledger.errors import MalformedEventError
from ledger.events import ElementFact, StreamKey
from ledger.projection import Happened, entry_row
from ledger.rows import EntryRow, TallyRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ledger.audit.log import LogAudit
    from ledger.audit.rows import Row
    from ledger.rows import CopyState, SourceRow, StoredEvent
    from ledger.stores import LedgerStore

_PAGE = 1000


class IndexAudit:
    """Compares the projection with what a `LogAudit` without findings has learnt.

    Others can append meanwhile. A stream that changed after the log was read is left to the next audit and counted in
    `moved`. `rows` counts the compared rows. `digest` is their older state digest (`sd1`), and `state` the present one
    (`sd2`), which is empty unless `with_state`. Neither can be compared with others if `moved` is not 0. All of these
    are final once `findings` is exhausted.
    """

    def __init__(
        self,
        store: LedgerStore,
        log: LogAudit,
        *,
        with_state: bool = False,
        progress: Callable[[int], None] = lambda _rows: None,
    ) -> None:
        """Begin before the first row. `progress` is called after each page with `rows`."""
        self._store = store
        self._learnt = log.learnt
        self._position = log.position
        self._digest = StateDigest()
        self._with_state = with_state
        self._progress = progress
        self.state = SetDigest()
        self._numbers = {row.id: row.no for row in log.learnt.sources.values()}
        self._recognise = EntryRecogniser(self._numbers).digest_row
        self._sums_found: dict[tuple[int, str], list[int]] = {}
        self.rows = 0
        self.moved = 0

    @property
    def digest(self) -> str:
        """The `sd1` of the stored rows. Without findings, these are the rows of the fold."""
        return self._digest.text

    def findings(self) -> Iterator[Finding]:
        """Yield the findings: first about entries and their sums, then about copies and sources.

        Raises:
            LedgerUnavailableError: if the database cannot be read to the end.
        """
        yield from self._entries()
        yield from self._copies()
        yield from self._sources()

    # --- entries ---

    def _entries(self) -> Iterator[Finding]:
        seen = bytearray(len(self._learnt.newest) // 8 + 1)
        after, rows = b"", self._store.projection.page(b"", _PAGE)
        while rows:
            after = rows[-1][0]
            page, untyped = _typed(rows)
            for row in untyped:
                detail = f"{EntryRow._make(row[1:_EVENT])!r}: a column has the wrong type"
                yield Finding(kind="index_mismatch", detail=detail)
            yield from self._page(page, seen)
            self._progress(self.rows)
            rows = self._store.projection.page(after, _PAGE)
        yield from self._missing(seen)
        sums = self._sums_found
        yield from self._sums([TallyRow(*pair, *sums[pair]) for pair in sorted(sums)])

    def _page(self, page: Sequence[Row], seen: bytearray) -> Iterator[Finding]:
        """Compare a page. Mark its streams in `seen`, and add every sound row to the digest."""
        versions, newest = self._learnt.versions, self._learnt.newest
        recognise = self._recognise
        streams, sums, add_row = len(newest), self._sums_found, self._digest.add_row
        packed: list[bytes | None] = []
        for row in page:
            _, stream, source, version, seq, state, _, _, _, size = row[:_SHA256]
            pair_sum = sums.get((source, state)) or sums.setdefault((source, state), [0, 0])
            pair_sum[0] += 1
            pair_sum[1] += size or 0
            if 0 < stream < streams:
                seen[stream >> 3] |= 1 << (stream & 7)
                if newest[stream] == seq and versions[stream] == version:
                    packed.append(recognise(row))
                    continue
            packed.append(None)
        self.rows += len(page)
        closely = [row for row, found in zip(page, packed, strict=True) if found is None]
        events = {event.seq: event for event in self._store.log.events_at(sorted({row[_SEQ] for row in closely}))}
        keys = dict(self._store.log.streams({row[1] for row in closely}))
        for row, found in zip(page, packed, strict=True):
            if found is not None:
                add_row(row[0], found)
                if self._with_state:
                    self.state.add(found)
                continue
            key, entry = row[0], EntryRow._make(row[1:_EVENT])
            wrong = self._entry(key, entry, events.get(entry.seq), keys.get(entry.stream))
            if wrong is not None and not self._has_moved(key):
                yield finding_in(key, kind="index_mismatch", detail=wrong, position=entry.seq)

    def _missing(self, seen: bytearray) -> Iterator[Finding]:
        for stream, seq in enumerate(self._learnt.newest):
            if seq and not seen[stream >> 3] >> (stream & 7) & 1:
                key = dict(self._store.log.streams({stream})).get(stream)
                if not self._has_moved(key):
                    yield finding_in(key, kind="index_missing", detail="the element has no row", position=seq)

    def _sums(self, tallies: list[TallyRow]) -> Iterator[Finding]:
        if self.moved or tallies == [row for row in self._store.projection.tallies() if row.elements or row.bytes]:
            return
        if self._store.log.head().position == self._position:
            yield Finding(kind="tally_mismatch", detail="the maintained sums differ from the sums of the rows")
        else:
            self.moved += 1

    def _entry(self, key: bytes, row: EntryRow, event: StoredEvent | None, its: bytes | None) -> str | None:
        """Return what is wrong with a row, or add it to the digest if it is sound."""
        learnt = self._learnt
        if its != key or not 0 < row.stream < len(learnt.newest):
            return f"the row's stream {row.stream} is not this element's stream"
        newest, version = learnt.newest[row.stream], learnt.versions[row.stream]
        if (row.seq, row.version) != (newest, version):
            return (
                f"the row points to event {row.seq} (version {row.version}), "
                f"but the log says {newest} (version {version})"
            )
        fact = None if event is None or event.stream != row.stream else _element_fact(event)
        element = None if fact is None else fact.element
        if event is None or fact is None or element is None:
            return "the row points to an event that does not describe its element"
        name = StreamKey.parse(key)
        happened = Happened(event.seq, event.stream, version, event.recorded_us, name.source, fact)
        due = entry_row(happened, self._numbers.get(name.source, 0), element)
        if row != due:
            return f"the row differs from the log: {_differing(row, due)}"
        packed = digest_row(name, element)
        self._digest.add_row(key, packed)
        if self._with_state:
            self.state.add(packed)
        return None

    # --- copies and sources ---

    def _copies(self) -> Iterator[Finding]:
        """Compare both sides, which are ordered by SHA-256 and stream."""
        untyped: list[CopyState] = []
        stored, folded = _sound(self._store.projection.copies(), untyped), self._learnt.copies.states()
        left, right = next(stored, None), next(folded, None)
        while left is not None or right is not None:
            if right is None or (left is not None and left[:2] < right[:2]):
                yield from self._copy(left, "the projection has a copy that the log does not have")
                left = next(stored, None)
            elif left is None or right[:2] < left[:2]:
                yield from self._copy(right, "the projection lacks a copy that the log has")
                right = next(folded, None)
            else:
                if left != right:
                    yield from self._copy(right, f"the row differs from the log: {_differing(left, right)}")
                left, right = next(stored, None), next(folded, None)
        for judged in self._learnt.copies.never_stored:
            detail = f"{judged.sha256.hex()}: the event says that this object is {judged.state}, but no event stored it"
            key = dict(self._store.log.streams({judged.stream})).get(judged.stream)
            yield finding_in(key, kind="contradiction", detail=detail, position=judged.seq)
        for row in untyped:
            yield Finding(kind="copies_mismatch", detail=f"{row!r}: a column has the wrong type")

    def _copy(self, row: CopyState | None, detail: str) -> Iterator[Finding]:
        if row is not None:
            key = dict(self._store.log.streams({row.stream})).get(row.stream)
            if not self._has_moved(key):
                detail = f"{row.sha256.hex()}: {detail}"
                yield finding_in(key, kind="copies_mismatch", detail=detail, position=row.seq)

    def _sources(self) -> Iterator[Finding]:
        stored = {row.id: row for row in self._store.projection.sources()}
        for row in self._learnt.sources.values():
            found = stored.pop(row.id, None)
            if found != row and not (found is not None and self._is_newer(found)):
                detail = f"the row of source {row.id.hex()} differs from the log"
                yield Finding(kind="source_mismatch", detail=detail, position=row.seq)
        for row in stored.values():
            if not self._is_newer(row):
                detail = f"the projection has a source {row.id!r} that the log does not have"
                yield Finding(kind="source_mismatch", detail=detail)

    # --- helpers ---

    def _is_newer(self, row: SourceRow) -> bool:
        """Whether the row points to an event that was appended after those that were audited."""
        return type(row.seq) is int and self._position < row.seq <= self._store.log.head().position

    def _has_moved(self, key: bytes | None) -> bool:
        """Whether the stream has, or an erased stream might have, an event after those that were audited."""
        if self._store.log.head().position == self._position:
            return False
        event = None if key is None else next(self._store.log.stream_events(key, newest_first=True), None)
        moved = key is None or (event is not None and event.seq > self._position)
        self.moved += moved
        return moved


def _element_fact(event: StoredEvent) -> ElementFact | None:
    if event.payload is None:
        return None
    try:
        fact = decode_payload(event.type, event.schema_version, event.flags, event.payload)
    except MalformedEventError:
        return None
    return fact if isinstance(fact, ElementFact) else None


_SEQ, _SHA256, _EVENT = 4, 10, 11
"""The places of these columns in a row of `ProjectionStore.page`. The event's columns begin at the last one."""
_INT, _BYTES, _NONE = frozenset({int}), frozenset({bytes}), type(None)
_KINDS = (
    _BYTES,
    *(_INT, _INT, _INT, _INT),
    frozenset({str}),
    _INT | {_NONE},
    _INT,
    *(_INT | {_NONE}, _INT | {_NONE}, _BYTES | {_NONE}),
)
"""The types of the key and the entry's columns. A database can return others after someone tampered with it."""


def _typed(rows: Sequence[Row]) -> tuple[Sequence[Row], list[Row]]:
    """Divide the rows into those whose columns have the right types, and the others."""
    if all(kinds.issuperset(map(type, column)) for kinds, column in zip(_KINDS, zip(*rows, strict=True), strict=False)):
        return rows, []
    sound: list[Row] = []
    untyped: list[Row] = []
    for row in rows:
        is_sound = all(type(value) in kinds for value, kinds in zip(row, _KINDS, strict=False))
        (sound if is_sound else untyped).append(row)
    return sound, untyped


def _sound(rows: Iterator[CopyState], untyped: list[CopyState]) -> Iterator[CopyState]:
    """Yield the rows whose columns have the right types. Add the others to `untyped`."""
    for row in rows:
        if tuple(map(type, row)) == (bytes, int, int, int, str):
            yield row
        else:
            untyped.append(row)


def _differing(found: EntryRow | CopyState, due: EntryRow | CopyState) -> str:
    pairs = zip(found._fields, found, due, strict=True)
    return ", ".join(f"{name} is {left!r}, not {right!r}" for name, left, right in pairs if left != right)
