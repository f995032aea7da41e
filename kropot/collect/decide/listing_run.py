"""One listing while it runs: what must still be recorded, what was counted, what looks strange, what may be missing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from kropot.bitmap import Bitmap
from kropot.collect.decide.zone_change import Moves

if TYPE_CHECKING:
    from kropot.lister.conversation import Conversation, ListingResult, PageRequest
    from kropot.securecopy.wire import Listed
    from ledger.append import NewFact
    from ledger.events import ListingMode

CHUNK = 2000
"""At most this many entries go into one transaction, so that finished fetches need not wait long for theirs."""

CHUNK_BYTES = 16 << 20
"""Forms of more than this are not joined into one transaction."""

AHEAD = 2 * CHUNK
AHEAD_BYTES = 2 * CHUNK_BYTES
"""The next page is not requested while more than this many entries, or bytes of forms, wait to be recorded."""

MAX_MOVED = 1000
"""At most this many entries whose dates only moved are kept until it is known whether the server's zone changed."""


class Recording(Enum):
    """What the ledger is doing for the backlog."""

    NOTHING = auto()
    LOOKING_UP = auto()
    APPENDING = auto()


@dataclass(slots=True, kw_only=True)
class Backlog:
    """Entries that came and are not recorded yet, in chunks.

    `began_us` is when the last chunk began to be recorded; `facts` is what it tells. `conflicts` counts how often in a
    row somebody else was faster.
    """

    chunks: deque[tuple[Listed, ...]] = field(default_factory=deque)
    recording: Recording = Recording.NOTHING
    began_us: int = 0
    facts: tuple[NewFact, ...] = ()
    conflicts: int = 0

    @property
    def waiting(self) -> int:
        """How many entries wait."""
        return sum(map(len, self.chunks))

    @property
    def is_long(self) -> bool:
        """Whether so much waits that nothing should be added."""
        return self.waiting > AHEAD or sum(map(_form_bytes, self.chunks)) > AHEAD_BYTES

    def add(self, entries: tuple[Listed, ...]) -> None:
        """Put entries behind those that wait."""
        self.chunks.extend(entries[i : i + CHUNK] for i in range(0, len(entries), CHUNK))

    def begin(self, now_us: int) -> tuple[Listed, ...]:
        """Join what waits into one chunk, as far as it fits, and return it: a transaction costs more than a page."""
        count = size = form_bytes = 0
        for chunk in self.chunks:
            size, form_bytes = size + len(chunk), form_bytes + _form_bytes(chunk)
            if count and (size > CHUNK or form_bytes > CHUNK_BYTES):
                break
            count += 1
        if count > 1:
            self.chunks.appendleft(tuple(entry for _ in range(count) for entry in self.chunks.popleft()))
        self.recording, self.began_us = Recording.LOOKING_UP, now_us
        return self.chunks[0]

    def forget_waiting(self) -> None:
        """Forget every chunk but the one that is being recorded."""
        kept = [] if self.recording is Recording.NOTHING else [self.chunks[0]]
        self.chunks = deque(kept)

    def end(self) -> None:
        """Forget the chunk that is recorded now."""
        self.chunks.popleft()
        self.recording, self.facts = Recording.NOTHING, ()


@dataclass(slots=True, kw_only=True)
class ListingCounts:
    """What the entries of a listing were; `refused` counts plain entries of an encrypted source."""

    new: int = 0
    changed: int = 0
    reappeared: int = 0
    vanished: int = 0
    refused: int = 0


@dataclass(slots=True, kw_only=True)
class Shift:
    """Entries whose dates moved and nothing else.

    They are `kept` aside until it is clear whether the server's zone changed, unless the listing `is_believing` that
    they changed. `offsets` are the seconds by which a changed zone moved the dates.
    """

    is_believing: bool
    moved: Moves = field(default_factory=Moves)
    kept: list[Listed] = field(default_factory=list)
    is_kept_whole: bool = True
    is_settled: bool = False
    offsets: tuple[int, ...] = ()

    def keep(self, listed: Listed) -> None:
        """Keep an entry aside, if there is room."""
        if len(self.kept) < MAX_MOVED:
            self.kept.append(listed)
        else:
            self.is_kept_whole = False


@dataclass(slots=True, kw_only=True)
class Missing:
    """What a full listing did not show: `count` of `known` elements; `hold` says why that is not believed.

    Elements dated within `exempt` are not missing: the listing could not see them.
    """

    count: int = 0
    known: int = 0
    exempt: tuple[tuple[int, int], ...] = ()
    hold: str = ""


@dataclass(slots=True, kw_only=True)
class ListingRun:
    """One listing under way.

    `is_closed` says that everything before `start` is known to be complete. `position` is the ledger's head when it
    began and `known` counts the elements that the source had then. `seen` has the streams of those that it has shown;
    `present` counts them. `request` is a question that waits until the backlog is shorter. `result` is there once the
    server has nothing more to show. `lines` counts what it has shown, lines that could not be read included, and
    `growth` is about how many bytes of it are new in the ledger. `vault` is the one that all of its pages have to
    name, which the first page decides if the source has none (`is_vault_known`).
    """

    mode: ListingMode
    start: int | None
    position: int
    known: int
    began_us: int
    conversation: Conversation[ListingResult]
    shift: Shift
    is_closed: bool = False
    vault: bytes | None = None
    is_vault_known: bool = False
    request: PageRequest | None = None
    result: ListingResult | None = None
    lines: int = 0
    growth: int = 0
    seen: Bitmap = field(default_factory=Bitmap)
    present: int = 0
    backlog: Backlog = field(default_factory=Backlog)
    counts: ListingCounts = field(default_factory=ListingCounts)
    missing: Missing = field(default_factory=Missing)

    @property
    def rejected(self) -> int:
        """Lines that could not be taken in."""
        return self.counts.refused + (0 if self.result is None else self.result.rejected)


def _form_bytes(chunk: tuple[Listed, ...]) -> int:
    return sum(len(listed.form) for listed in chunk)
