"""The inputs of a collector's decisions: everything that can happen to it.

kropot/collect/decide/actions.py says which input answers which action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ledger.fast_init import fast_init
from ledger.vaults import NOTHING_NAMED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.lister.conversation import Trouble
    from kropot.objects.store import Published, PublishError, Staged
    from kropot.securecopy.wire import Page
    from ledger.append import NewFact
    from ledger.events import Source, StreamKey
    from ledger.places import Placement
    from ledger.replica import Entry
    from ledger.vaults import Naming

About = Literal["page", "listing", "sweep", "copies", "failures"]
"""What facts are recorded for: a page's entries, a listing's end, vanished elements, results of fetches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The collector is ready: its name is registered and its leftovers are gone; `position` is the ledger's head."""

    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time went by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """Somebody wants the collector to end: "term" politely, "int" from the keyboard."""

    how: Literal["term", "int"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ousted:
    """Another session has taken over this instance's name: nothing more may be written under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingBegan:
    """The lease to list is held: the source as it is now, its stream's version, its elements, and the ledger's head.

    `closed` is the last second to which the server adds nothing, as it said at the last complete listing. It is None if
    that is not known, or if anything happened to the source since.
    `naming` says which vault its list names. A source that `is_blank` never had an element.
    """

    source: Source
    version: int
    known: int
    position: int
    closed: int | None = None
    naming: Naming = NOTHING_NAMED
    is_blank: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingBusy:
    """Another collector is listing this source; `source` is as it is now."""

    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class PageListed:
    """A page came."""

    page: Page
    check: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFailed:
    """No page came."""

    trouble: Trouble
    check: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRefused:
    """The server does not accept the token."""

    check: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedUp:
    """What the ledger knows of the entries asked about, by type and id; and of the source.

    `free` is the room where the ledger is, in bytes (None: unknown). `naming` says which vault the source's list names.
    """

    known: Mapping[tuple[str, str], Entry]
    source: Source
    version: int
    free: int | None = None
    naming: Naming = NOTHING_NAMED


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchedCopy:
    """A content that is durable under its SHA-256: its size in bytes, its IV if it has one, its place in a pack."""

    sha256: bytes
    size: int
    iv: bytes | None
    place: Placement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefetched:
    """What became of some `Prefetch`, by their numbers, and there by the places of the entries.

    What is missing there did not come.
    """

    copies: Mapping[int, Mapping[int, PrefetchedCopy]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRead:
    """The source as it is now, and its stream's version."""

    source: Source
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The facts are in the ledger; `dropped` are streams that had moved on, whose facts were left out.

    `position` is the ledger's new head.
    """

    about: About
    facts: tuple[NewFact, ...]
    dropped: frozenset[StreamKey] = frozenset()
    position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflicted:
    """Nothing was recorded, since one of these streams had moved on."""

    about: About
    keys: frozenset[StreamKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingCounted:
    """How many entries of a range are `known` to be present, and how many of those a full listing did not show.

    `after` is where to go on, None when this was the last stretch.
    """

    missing: int
    known: int
    after: StreamKey | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingFound:
    """Entries of a stretch that were not seen by a full listing; `after` as in `MissingCounted`."""

    entries: tuple[Entry, ...]
    after: StreamKey | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTaken:
    """Leased entries to fetch; `next_due_us` is when the next ones are due, if there are none now.

    `free` is the room in bytes where there is least, in the storage or where the ledger is (None: unknown).
    `position` is the ledger's head.
    """

    entries: tuple[Entry, ...]
    next_due_us: int | None
    free: int | None
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The receipt for a content that nothing speaks against. It is staged but not durable yet; `iv` if it is sealed."""

    entry: Entry
    staged: Staged
    iv: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReceived:
    """The receipt for a fetch that failed; nothing of it is left behind.

    `reason` is a stable word without names or secrets, and `status` the HTTP status if the server answered. `refused`
    says that the server refused the token (401, 403). `storage` says that the object store failed: then `detail` is a
    sentence for the log, and the failure does not count against the element.
    """

    entry: Entry
    reason: str
    status: int | None = None
    refused: bool = False
    storage: bool = False
    detail: str = ""


Receipt = Received | NotReceived


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Fetches that ended."""

    received: tuple[Received, ...] = ()
    failed: tuple[NotReceived, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishDone:
    """What became of a batch of staged contents, in its order."""

    batch: tuple[Received, ...]
    results: tuple[Published | PublishError, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoneAnswered:
    """Whether the server says that an element is gone; None where it cannot be told."""

    failed: NotReceived
    gone: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """Every transfer was broken off; these were still under way."""

    entries: tuple[Entry, ...]


Input = (
    Started
    | Tick
    | StopRequested
    | Ousted
    | ListingBegan
    | ListingBusy
    | PageListed
    | PageFailed
    | PageRefused
    | LookedUp
    | Prefetched
    | SourceRead
    | Recorded
    | Conflicted
    | MissingCounted
    | MissingFound
    | WorkTaken
    | Fetched
    | PublishDone
    | GoneAnswered
    | Abandoned
)
