"""The actions that a collector asks for. The code that carries one out answers with an input (`inputs`).

Each action names the inputs that can answer it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.bitmap import Bitmap
    from kropot.collect.decide.inputs import About, NotReceived, Received
    from kropot.errors import Exit
    from kropot.lister.conversation import PageRequest
    from kropot.securecopy.wire import Listed
    from ledger.append import NewFact
    from ledger.events import StreamKey
    from ledger.places import Placement
    from ledger.replica import Entry


class BeginListing(Struct, frozen=True, kw_only=True):
    """Take the lease to list this source, and read the source: `ListingBegan` or `ListingBusy`."""


class EndListing(Struct, frozen=True, kw_only=True):
    """Let others list; nothing answers."""


class ListPage(Struct, frozen=True, kw_only=True):
    """Ask the server for a page: `PageListed`, `PageFailed` or `PageRefused`, with the same `check`."""

    ask: PageRequest
    check: bool = False


class LookUp(Struct, frozen=True, kw_only=True):
    """Read what the ledger knows of these entries: `LookedUp`.

    If they `are_new`, it should know none of them. If that is wrong, recording them conflicts, and they are looked up.
    """

    entries: tuple[Listed, ...]
    are_new: bool = False


class Prefetch(Struct, frozen=True, kw_only=True):
    """Fetch these entries' contents in bulk, and make them durable, before they are recorded: `Prefetched`.

    `number` is the chunk's number; the answer names it too.
    """

    number: int
    entries: tuple[Listed, ...]


class FlushPrefetched(Struct, frozen=True, kw_only=True):
    """Make prefetched contents durable soon, because no further `Prefetch` comes for now; nothing answers."""


class ReadSource(Struct, frozen=True, kw_only=True):
    """Read the source as it is now: `SourceRead`."""


class RecordFacts(Struct, frozen=True, kw_only=True):
    """Append the facts in one transaction: `Recorded` or `Conflicted`.

    With `drop`, facts about streams that have moved on are left out instead, and `Recorded` names the streams. Leases
    on the elements of "copies" and "failures" are given back. `places` say where copies are in packs. They are recorded
    in the same transaction, even those of facts that are left out.
    """

    about: About
    facts: tuple[NewFact, ...]
    drop: bool = False
    places: tuple[Placement, ...] = ()


class CountMissing(Struct, frozen=True, kw_only=True):
    """Count the entries that are not in `seen` (by stream) and are missing (`plan.is_missing`): `MissingCounted`.

    Only the next stretch of entries after `after` is read, so that nothing has to wait for all of them.
    """

    seen: Bitmap
    before: int
    exempt: tuple[tuple[int, int], ...]
    after: StreamKey | None


class FindMissing(Struct, frozen=True, kw_only=True):
    """Read the missing entries in a stretch after `after`, at most `limit`: `MissingFound`."""

    seen: Bitmap
    before: int
    exempt: tuple[tuple[int, int], ...]
    after: StreamKey | None
    limit: int


class TakeWork(Struct, frozen=True, kw_only=True):
    """Lease entries to fetch, at most `limit`: `WorkTaken`. With `early`, also those whose next try is not due yet.

    Nothing is leased if less than `min_free` bytes are free.
    """

    limit: int
    max_bytes: int
    min_free: int
    early: bool


class GiveBack(Struct, frozen=True, kw_only=True):
    """Give leases back, all those of this session if `keys` is None; nothing answers."""

    keys: tuple[StreamKey, ...] | None


class Fetch(Struct, frozen=True, kw_only=True):
    """Fetch these entries' contents: sooner or later a `Fetched` names each of them."""

    entries: tuple[Entry, ...]


class Publish(Struct, frozen=True, kw_only=True):
    """Make these contents durable under their names: `PublishDone`."""

    batch: tuple[Received, ...]


class AskGone(Struct, frozen=True, kw_only=True):
    """Ask the server whether this element is gone: `GoneAnswered`."""

    failed: NotReceived


class Beat(Struct, frozen=True, kw_only=True):
    """Say that this instance is alive, and prolong its leases; only `Ousted` may answer."""


class Abandon(Struct, frozen=True, kw_only=True):
    """Break off every transfer: `Abandoned`, after the `Fetched` of those that had ended."""


class Say(Struct, frozen=True, kw_only=True):
    """Tell the user; `fields` hold no names and no secrets."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    text: str
    fields: Mapping[str, object] = field(default_factory=dict)


class Finish(Struct, frozen=True, kw_only=True):
    """End the process with this exit code; leases and the name are given back."""

    code: Exit


Action = (
    BeginListing
    | EndListing
    | ListPage
    | LookUp
    | Prefetch
    | FlushPrefetched
    | ReadSource
    | RecordFacts
    | CountMissing
    | FindMissing
    | TakeWork
    | GiveBack
    | Fetch
    | Publish
    | AskGone
    | Beat
    | Abandon
    | Say
    | Finish
)
