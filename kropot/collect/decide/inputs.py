"""The inputs of a collector's decisions: everything that can happen to it.

kropot/collect/decide/actions.py says which input answers which action.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

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


class Started(Struct, frozen=True, kw_only=True):
    """The collector is ready: its name is registered and its leftovers are gone; `position` is the ledger's head."""

    position: int


class Tick(Struct, frozen=True, kw_only=True):
    """Time went by."""


class StopRequested(Struct, frozen=True, kw_only=True):
    """Somebody wants the collector to end: "term" politely, "int" from the keyboard."""

    how: Literal["term", "int"]


class Ousted(Struct, frozen=True, kw_only=True):
    """Another session has taken over this instance's name: nothing more may be written under it."""


class ListingBegan(Struct, frozen=True, kw_only=True):
    """The lease to list is held: the source as it is now, its stream's version, its elements, and the ledger's head.

    `closed` is the last second to which the server adds nothing, as it said at the last complete listing. It is None if
    that is unknown, or if anything but failed runs happened to the source since. `naming` says which vault its list
    names. A source that `is_blank` never had an element.
    """

    source: Source
    version: int
    known: int
    position: int
    closed: int | None = None
    naming: Naming = NOTHING_NAMED
    is_blank: bool = False


class ListingBusy(Struct, frozen=True, kw_only=True):
    """Another collector is listing this source; `source` is as it is now."""

    source: Source


class PageListed(Struct, frozen=True, kw_only=True):
    """A page came."""

    page: Page
    check: bool = False


class PageFailed(Struct, frozen=True, kw_only=True):
    """No page came."""

    trouble: Trouble
    check: bool = False


class PageRefused(Struct, frozen=True, kw_only=True):
    """The server does not accept the token."""

    check: bool = False


class LookedUp(Struct, frozen=True, kw_only=True):
    """What the ledger knows of the entries asked about, by type and id, and of the source.

    `free` is the room where the ledger is, in bytes (None: unknown). `naming` says which vault the source's list names.
    """

    known: Mapping[tuple[str, str], Entry]
    source: Source
    version: int
    free: int | None = None
    naming: Naming = NOTHING_NAMED


class PrefetchedCopy(Struct, frozen=True, kw_only=True):
    """A content that is durable under its SHA-256: its size in bytes, its IV if it has one, its place in a pack."""

    sha256: bytes
    size: int
    iv: bytes | None
    place: Placement | None = None


class Prefetched(Struct, frozen=True, kw_only=True):
    """The results of some `Prefetch` actions, by their numbers, and within each by the entries' places.

    A content that is missing there did not come.
    """

    copies: Mapping[int, Mapping[int, PrefetchedCopy]]


class SourceRead(Struct, frozen=True, kw_only=True):
    """The source as it is now, and its stream's version."""

    source: Source
    version: int


class Recorded(Struct, frozen=True, kw_only=True):
    """The facts are in the ledger; `dropped` are streams that had moved on, whose facts were left out.

    `position` is the ledger's new head.
    """

    about: About
    facts: tuple[NewFact, ...]
    dropped: frozenset[StreamKey] = frozenset()
    position: int = 0


class Conflicted(Struct, frozen=True, kw_only=True):
    """Nothing was recorded, since one of these streams had moved on."""

    about: About
    keys: frozenset[StreamKey]


class MissingCounted(Struct, frozen=True, kw_only=True):
    """How many entries of a stretch are `known` to be present, and how many of those a full listing did not show.

    `after` is where to continue, None after the last stretch.
    """

    missing: int
    known: int
    after: StreamKey | None


class MissingFound(Struct, frozen=True, kw_only=True):
    """Entries of a stretch that were not seen by a full listing; `after` as in `MissingCounted`."""

    entries: tuple[Entry, ...]
    after: StreamKey | None


class WorkTaken(Struct, frozen=True, kw_only=True):
    """Leased entries to fetch; `next_due_us` is when the next ones are due, if there are none now.

    `free` is the free room in bytes, in the storage or where the ledger is, whichever has less (None: unknown).
    `position` is the ledger's head.
    """

    entries: tuple[Entry, ...]
    next_due_us: int | None
    free: int | None
    position: int


class Received(Struct, frozen=True, kw_only=True):
    """The receipt for a content that passed all checks: staged but not durable yet. `iv` is its IV if it has one."""

    entry: Entry
    staged: Staged
    iv: bytes | None


class NotReceived(Struct, frozen=True, kw_only=True):
    """The receipt for a fetch that failed; nothing of it is staged.

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


class Fetched(Struct, frozen=True, kw_only=True):
    """Fetches that ended."""

    received: tuple[Received, ...] = ()
    failed: tuple[NotReceived, ...] = ()


class PublishDone(Struct, frozen=True, kw_only=True):
    """What became of a batch of staged contents, in its order."""

    batch: tuple[Received, ...]
    results: tuple[Published | PublishError, ...]


class GoneAnswered(Struct, frozen=True, kw_only=True):
    """Whether the server says that an element is gone; None if it did not say."""

    failed: NotReceived
    gone: bool | None


class Abandoned(Struct, frozen=True, kw_only=True):
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
