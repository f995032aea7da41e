"""Entries of a listing on their way into the ledger, chunk by chunk and in order. Pure.

A chunk is looked up, its small contents are fetched in bulk if the server can do that, and then it is recorded. Several
chunks can be on the way at once, but they are recorded one after the other, each with its cursor.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from typing import TYPE_CHECKING, Final

from kropot.securecopy.bulkwire import MAX_ANSWER, MAX_CONTENT
from kropot.securecopy.sealed_form import is_same_content
from ledger.vaults import NOTHING_NAMED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kropot.collect.decide.inputs import LookedUp, PrefetchedCopy
    from kropot.securecopy.wire import Listed
    from ledger.events import Element
    from ledger.replica import Entry
    from ledger.vaults import Naming

CHUNK: Final = 2000
"""At most this many entries go into one transaction, so that finished fetches do not wait long for theirs."""

CHUNK_BYTES: Final = 16 << 20
"""At most this many bytes of forms are joined into one transaction."""

AHEAD: Final = 2 * CHUNK
AHEAD_BYTES: Final = 2 * CHUNK_BYTES
"""While more than this many entries, or bytes of forms, wait for a look-up, no page is requested."""

JOINED: Final = 3 * CHUNK
"""At most this many entries whose contents are here are recorded together: a commit waits for the disk, and others wait
for the commit."""

UNDER_WAY: Final = 6 * CHUNK
"""Where contents are prefetched, at most about this many entries are in flight."""

PREFETCH_BYTES: Final = 2 * MAX_ANSWER
"""At most this many bytes of contents are requested and not yet recorded."""


FEW_BYTES: Final = 16 << 20
"""As long as more can come, less than this is not flushed."""


class Stage(Enum):
    """Where a chunk is. A `LOOKED_UP` chunk waits for room to prefetch, a `READY` one for the chunks before it."""

    LOOKING_UP = auto()
    LOOKED_UP = auto()
    PREFETCHING = auto()
    READY = auto()
    APPENDING = auto()


@dataclass(slots=True, kw_only=True, eq=False)
class Chunk:
    """Entries that are recorded together.

    `known` is what the ledger knew of them, `free` the room that it had, and `naming` the vault that it named. `wanted`
    holds the places of the entries whose contents are prefetched, `size` bytes in all, and `copies` the contents that
    came, by the entries' places. A chunk that `is_stale` shares an entry with an earlier one, so it is looked up again.
    """

    number: int
    entries: tuple[Listed, ...]
    stage: Stage = Stage.LOOKING_UP
    known: Mapping[tuple[str, str], Entry] = field(default_factory=dict)
    free: int | None = None
    naming: Naming = NOTHING_NAMED
    wanted: tuple[int, ...] = ()
    size: int = 0
    copies: Mapping[int, PrefetchedCopy] = field(default_factory=dict)
    is_stale: bool = False
    ids: frozenset[tuple[str, str]] = frozenset()


@dataclass(slots=True, kw_only=True)
class ChunksOnTheWay:
    """Entries that wait, and chunks under way, the oldest first.

    `is_bulk` says that the server sends contents in bulk. `numbers` counts chunks, including those of earlier listings.
    `began_us` is when the last chunk began. `conflicts` counts how often in a row another writer was faster.
    """

    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    is_bulk: bool = False
    waiting: deque[Listed] = field(default_factory=deque)
    under_way: deque[Chunk] = field(default_factory=deque)
    began_us: int = 0
    conflicts: int = 0
    _form_bytes: int = 0
    _asked: deque[Chunk] = field(default_factory=deque)
    _is_flushed: bool = True

    @property
    def head(self) -> Chunk | None:
        """The chunk that is recorded next."""
        return self.under_way[0] if self.under_way else None

    @property
    def is_empty(self) -> bool:
        """Whether everything that came is recorded."""
        return not self.waiting and not self.under_way

    @property
    def is_long(self) -> bool:
        """Whether so much waits that nothing should be added."""
        return len(self.waiting) > AHEAD or self._form_bytes > AHEAD_BYTES

    @property
    def can_begin(self) -> bool:
        """Whether entries wait and a further chunk can begin."""
        if not self.waiting or self._asked:
            return False
        if not self.is_bulk:
            return not self.under_way
        return not self._is_full and all(chunk.stage is not Stage.LOOKED_UP for chunk in self.under_way)

    @property
    def _is_full(self) -> bool:
        return sum(len(chunk.entries) for chunk in self.under_way) >= UNDER_WAY

    def add(self, entries: tuple[Listed, ...]) -> None:
        """Append entries to those that wait."""
        self.waiting.extend(entries)
        self._form_bytes += _form_bytes(entries)

    def begin(self, now_us: int) -> Chunk:
        """Join waiting entries into one chunk, as many as fit, because a transaction costs more than a page."""
        entries: list[Listed] = []
        size, waiting = 0, self.waiting
        while waiting and len(entries) < CHUNK:
            more = len(waiting[0].form)
            if entries and size + more > CHUNK_BYTES:
                break
            size += more
            entries.append(waiting.popleft())
        self._form_bytes -= size
        chunk = Chunk(number=next(self.numbers), entries=tuple(entries))
        if self.is_bulk:
            chunk.ids = frozenset([(listed.type, listed.id) for listed in entries])
            chunk.is_stale = not all(chunk.ids.isdisjoint(before.ids) for before in self.under_way)
        self.under_way.append(chunk)
        self._asked.append(chunk)
        self.began_us = now_us
        return chunk

    def look_again(self, chunk: Chunk) -> None:
        """Note that a chunk under way is looked up once more."""
        chunk.stage, chunk.is_stale = Stage.LOOKING_UP, False
        self._asked.append(chunk)

    def looked_up(self, happened: LookedUp, *, is_opaque: bool | None, min_free: int = 0) -> bool:
        """Take in what the ledger knows of the chunk that was looked up; return False if nobody asked.

        The contents to prefetch decide how far the chunk reaches; the rest becomes chunks after it. If the ledger has
        less than `min_free` bytes of room, nothing is prefetched, because it could not be recorded.
        """
        if not self._asked:
            return False
        chunk = self._asked.popleft()
        chunk.known, chunk.free, chunk.naming = happened.known, happened.free, happened.naming
        has_room = chunk.free is None or chunk.free >= min_free
        if chunk.copies or chunk.wanted or not self.is_bulk or not has_room:
            chunk.stage = Stage.READY
            return True
        at = self.under_way.index(chunk)
        self.under_way.remove(chunk)
        for part in reversed(list(self._parts(chunk, is_opaque=is_opaque))):
            self.under_way.insert(at, part)
        return True

    def next_prefetch(self) -> Chunk | None:
        """Return the next chunk whose contents may be asked for now; it is in flight from then on."""
        size = sum(chunk.size for chunk in self.under_way if chunk.stage in {Stage.PREFETCHING, Stage.READY})
        for chunk in self.under_way:
            if chunk.stage is Stage.LOOKED_UP:
                if size and size + chunk.size > PREFETCH_BYTES:
                    return None
                chunk.stage, self._is_flushed = Stage.PREFETCHING, False
                return chunk
        return None

    def prefetched(self, came: Mapping[int, Mapping[int, PrefetchedCopy]]) -> None:
        """Take in what came, by its place in `wanted`. A number that nobody waits for changes nothing."""
        for chunk in self.under_way:
            copies = came.get(chunk.number)
            if copies is not None and chunk.stage is Stage.PREFETCHING:
                chunk.copies = {chunk.wanted[at]: copy for at, copy in copies.items() if at < len(chunk.wanted)}
                chunk.stage = Stage.READY

    def next_ready(self) -> Chunk | None:
        """Return the oldest chunk if it is ready, joined with the ready ones after it, because an append costs more."""
        head = self.head
        if head is None or head.stage is not Stage.READY or head.is_stale:
            return head if head is not None and head.stage is Stage.READY else None
        chosen: list[Chunk] = []
        form_bytes = 0
        for chunk in self.under_way:
            form_bytes += _form_bytes(chunk.entries)
            is_fit = (
                sum(len(each.entries) for each in chosen) + len(chunk.entries) <= JOINED and form_bytes <= CHUNK_BYTES
            )
            if chosen and (not is_fit or chunk.stage is not Stage.READY or chunk.is_stale):
                break
            chosen.append(chunk)
        if len(chosen) > 1:
            for _ in chosen:
                self.under_way.popleft()
            self.under_way.appendleft(_joined(chosen))
        return self.head

    def wants_flush(self, *, is_over: bool) -> bool:
        """Whether prefetches are in flight, and no other can follow before they end. True only once.

        `is_over` says that no further entries will come.
        """
        in_flight = [chunk.size for chunk in self.under_way if chunk.stage is Stage.PREFETCHING]
        is_last = (is_over and not self.waiting) or (self._is_full and sum(in_flight) < FEW_BYTES)
        if self._is_flushed or not in_flight or not is_last or self._asked:
            return False
        self._is_flushed = True
        return True

    def forget_waiting(self) -> None:
        """Forget every chunk but the one that is being recorded."""
        kept = [chunk for chunk in self.under_way if chunk.stage is Stage.APPENDING]
        self.under_way = deque(kept)
        self.waiting.clear()
        self._asked.clear()
        self._form_bytes = 0

    def end(self) -> None:
        """Forget the oldest chunk, which has been recorded."""
        self.under_way.popleft()

    def _parts(self, chunk: Chunk, *, is_opaque: bool | None) -> Iterator[Chunk]:
        """Yield the chunk in parts, each with no more to prefetch than one answer can hold."""
        wanted: list[int] = []
        first = size = 0
        known = chunk.known
        for at, listed in enumerate(chunk.entries):
            entry = known.get((listed.type, listed.id)) if known else None
            if not can_be_sent(listed, is_opaque=is_opaque):
                continue
            if entry is not None and not (entry.element is not None and _has_other_content(entry.element, listed)):
                continue
            if wanted and size + (listed.size or 0) > MAX_ANSWER:
                yield self._part(chunk, first, at, wanted, size)
                first, wanted, size = at, [], 0
            wanted.append(at - first)
            size += listed.size or 0
        yield self._part(chunk, first, len(chunk.entries), wanted, size)

    def _part(self, chunk: Chunk, first: int, last: int, wanted: list[int], size: int) -> Chunk:
        return Chunk(
            number=chunk.number if first == 0 else next(self.numbers),
            entries=chunk.entries[first:last],
            stage=Stage.LOOKED_UP if wanted else Stage.READY,
            known=chunk.known,
            free=chunk.free,
            naming=chunk.naming,
            wanted=tuple(wanted),
            size=size,
            is_stale=chunk.is_stale,
            ids=chunk.ids,
        )


def _joined(chunks: list[Chunk]) -> Chunk:
    """Join several ready chunks into one."""
    known: dict[tuple[str, str], Entry] = {}
    copies: dict[int, PrefetchedCopy] = {}
    entries: list[Listed] = []
    wanted: list[int] = []
    for chunk in chunks:
        at = len(entries)
        known.update(chunk.known)
        copies.update((at + place, copy) for place, copy in chunk.copies.items())
        wanted.extend(at + place for place in chunk.wanted)
        entries.extend(chunk.entries)
    frees = [chunk.free for chunk in chunks if chunk.free is not None]
    return Chunk(
        number=chunks[0].number,
        entries=tuple(entries),
        stage=Stage.READY,
        known=known,
        free=min(frees, default=None),
        naming=chunks[-1].naming,
        wanted=tuple(wanted),
        size=sum(chunk.size for chunk in chunks),
        copies=copies,
        ids=frozenset().union(*(chunk.ids for chunk in chunks)),
    )


def can_be_sent(listed: Listed, *, is_opaque: bool | None) -> bool:
    """Return whether a server that sends contents in bulk can send this one, and the ledger may have it."""
    is_small = listed.size is not None and listed.size <= MAX_CONTENT
    has_tag = (listed.etag is not None and listed.etag.startswith('"')) or is_same_content(listed.form, listed.form)
    # A plain form holds the file's name, which must not reach the ledger of an encrypted replica.
    return is_small and bool(has_tag) and not (is_opaque and not listed.form.startswith(b'{"encrypted":'))


def _has_other_content(element: Element, listed: Listed) -> bool:
    """Return whether the list says that the content differs from the known one."""
    is_same = is_same_content(element.form, listed.form)
    if is_same is None:
        return element.etag is not None and listed.etag is not None and element.etag != listed.etag
    return not is_same


def _form_bytes(entries: tuple[Listed, ...] | list[Listed]) -> int:
    return sum([len(listed.form) for listed in entries])
