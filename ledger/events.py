"""The facts: what was observed and what was done, each a frozen post-image of its subject (docs/format.md).

A fact about a subject carries that subject's whole new state, so the last fact of a stream says everything about it.
All times are integer microseconds since 1970-01-01 UTC (`..._us`); `date` alone is the remote server's own integer
seconds, which is data and never orders anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ledger.fast_init import fast_init

NO_SOURCE = bytes(16)
"""The source of streams that belong to the ledger as a whole."""

LEDGER_KIND = "@ledger"
SOURCE_KIND = "@source"
INSTANCE_KIND = "@instance"
AUDIT_KIND = "@audit"

MAX_ID_BYTES = 512
"""Longer element ids are refused at the border: every database can then index a stream key."""

Damage = Literal["damaged", "lost"]
ListingMode = Literal["window", "full"]


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class StreamKey:
    """What a fact is about: `kind` is an element's type ("file"), or one of the `@` kinds of the ledger itself."""

    source: bytes
    kind: str
    id: str

    @property
    def stored(self) -> bytes:
        """Source (16 bytes), kind, 0x00, id in UTF-8: unique, and ordered as the state digest orders."""
        return self.source + self.kind.encode() + b"\x00" + self.id.encode()

    @classmethod
    def parse(cls, stored: bytes) -> StreamKey:
        """Undo `stored`."""
        kind, _, rest = stored[16:].partition(b"\x00")
        return cls(source=stored[:16], kind=kind.decode(), id=rest.decode())

    @property
    def is_element(self) -> bool:
        """Whether this is an element of a source, and not a subject of the ledger's own."""
        return not self.kind.startswith("@")


# --- the subjects ----------------------------------------------------------------------------------------------------


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A stored copy: the object's SHA-256 (32 bytes), its size in bytes, the 16-byte IV where it is encrypted.

    `revision` is the element's revision that was fetched; `instance` is the collector that stored it.
    """

    sha256: bytes
    size: int
    iv: bytes | None
    revision: int
    instance: str


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Fetches of the current revision have failed `attempts` times since `since_us`; the next is due at `next_try_us`.

    `reason` is a stable word ("http_500", "truncated", ...); it never holds a name, an address or a secret.
    """

    reason: str
    attempts: int
    since_us: int
    next_try_us: int


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """Everything known about one element.

    `form` is the listing's form as canonical JSON bytes, as it was when this revision was first seen. `revision`
    counts from 1 and grows with every observed change. `epoch` is the number of zone changes of the source that `date`
    has seen. `size` and `etag` are the server's claims, where it makes any.
    """

    date: int
    tz: str
    form: bytes
    revision: int
    present: bool
    epoch: int
    size: int | None
    etag: str | None
    copy: Copy | None
    damage: Damage | None
    failure: Failure | None

    @property
    def is_current(self) -> bool:
        """Whether a sound copy of the newest revision is stored."""
        return self.copy is not None and self.damage is None and self.copy.revision == self.revision

    @property
    def is_wanted(self) -> bool:
        """Whether a copy should be fetched: the source has it, and no sound copy of this revision is stored."""
        return self.present and not self.is_current

    @property
    def state(self) -> str:
        """One of "damaged", "lost", "vanished", "current", "pending", the first that applies."""
        if self.damage is not None:
            return self.damage
        if not self.present:
            return "vanished"
        return "current" if self.is_current else "pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldListing:
    """A vanishing that was not believed: `missing` of `known` elements, since `since_us`, for `reason`.

    The reason is "empty", "missing", "misordered", or "accepted" once a person has looked at it.
    """

    reason: str
    missing: int
    known: int
    since_us: int

    @property
    def is_accepted(self) -> bool:
        """Whether it is no alarm any more, and the next full listing may declare as many elements vanished."""
        return self.reason == "accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surge:
    """More changes than life explains: `changed` of `known` elements within 24 hours, noticed at `since_us`."""

    changed: int
    known: int
    since_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a listing found: counts of entries seen, and of those new, changed, reappeared, vanished and unreadable.

    `since` and `until` are the range in the server's seconds, None where open.
    """

    mode: ListingMode
    since: int | None
    until: int | None
    seen: int
    new: int
    changed: int
    reappeared: int
    vanished: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Everything known about one source: a server as seen through one token.

    `salt` (32 bytes) keys the stream digests and `token_mac`, HMAC-SHA-256(salt, "token" 0x00 token). `urls` holds the
    server's addresses, the present one last. `cursor` is the newest listed second, None before the first listing.
    `zone_shifts` has, for each zone change, the offsets in seconds by which dates moved. `churn` holds pairs (hour
    since 1970, changed elements) of the last 24 hours. `unlistable` names seconds that the server cannot list.
    `opaque` is whether ids and contents are encrypted by the server; None until seen.
    """

    salt: bytes
    token_mac: bytes
    urls: tuple[str, ...]
    opaque: bool | None
    zone: str | None
    cursor: int | None
    zone_shifts: tuple[tuple[int, ...], ...]
    listed_us: int | None
    full_listed_us: int | None
    held: HeldListing | None
    surge: Surge | None
    churn: tuple[tuple[int, int], ...]
    unlistable: tuple[int, ...]

    @property
    def url(self) -> str:
        """The server's present address."""
        return self.urls[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRange:
    """Objects whose SHA-256 lies in [`start`, `end`] (32 bytes each) were read and compared by `at_us`.

    `position` is the ledger's position the walk was pinned to: an object named later is not covered.
    """

    start: bytes
    end: bytes
    position: int
    at_us: int


# --- the facts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerBegan:
    """The first event of every ledger: its random id (16 bytes) and salt (32 bytes), and the version that made it."""

    TYPE: ClassVar[str] = "LedgerBegan"
    VERSION: ClassVar[int] = 1
    ledger_id: bytes
    salt: bytes
    program: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceBegan:
    """A collector of this name ran for the first time, or for the first time with this version or host."""

    TYPE: ClassVar[str] = "InstanceBegan"
    VERSION: ClassVar[int] = 1
    program: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBegan:
    """A token was used for the first time: a new source with elements of its own."""

    TYPE: ClassVar[str] = "SourceBegan"
    VERSION: ClassVar[int] = 1
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRenamed:
    """The server moved; its elements are the same."""

    TYPE: ClassVar[str] = "SourceRenamed"
    VERSION: ClassVar[int] = 1
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingAdvanced:
    """A page of a listing was recorded; a listing that is cut short goes on from here."""

    TYPE: ClassVar[str] = "ListingAdvanced"
    VERSION: ClassVar[int] = 1
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingCompleted:
    """A listing came to its end."""

    TYPE: ClassVar[str] = "ListingCompleted"
    VERSION: ClassVar[int] = 1
    source: Source
    listing: Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingHeldBack:
    """A full listing missed too much to be believed: nothing was declared vanished (`source.held` says why)."""

    TYPE: ClassVar[str] = "ListingHeldBack"
    VERSION: ClassVar[int] = 1
    source: Source
    listing: Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmsAccepted:
    """A person looked at what was held back, or at a surge of changes, and accepted it."""

    TYPE: ClassVar[str] = "AlarmsAccepted"
    VERSION: ClassVar[int] = 1
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneChanged:
    """The server's zone changed: nearly all dates moved by `offsets` seconds, and no content did."""

    TYPE: ClassVar[str] = "ZoneChanged"
    VERSION: ClassVar[int] = 1
    source: Source
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteObserved:
    """An element was seen for the first time."""

    TYPE: ClassVar[str] = "RemoteObserved"
    VERSION: ClassVar[int] = 1
    element: Element


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteChanged:
    """An element was seen with another date (or another claim of its content): a new revision."""

    TYPE: ClassVar[str] = "RemoteChanged"
    VERSION: ClassVar[int] = 1
    element: Element


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteVanished:
    """The source no longer has the element; its copies stay."""

    TYPE: ClassVar[str] = "RemoteVanished"
    VERSION: ClassVar[int] = 1
    element: Element


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteReappeared:
    """A vanished element is listed again, unchanged or as a new revision."""

    TYPE: ClassVar[str] = "RemoteReappeared"
    VERSION: ClassVar[int] = 1
    element: Element


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStored:
    """A copy is durable in the object store under its SHA-256."""

    TYPE: ClassVar[str] = "CopyStored"
    VERSION: ClassVar[int] = 1
    element: Element


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed:
    """A fetch gave nothing that can be believed (`element.failure` says why and when it is tried again)."""

    TYPE: ClassVar[str] = "FetchFailed"
    VERSION: ClassVar[int] = 1
    element: Element


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDamaged:
    """The object of a copy is there but is not what was stored.

    `sha256` names the object: the present copy's, or that of an older version (then `element.damage` is unchanged).
    """

    TYPE: ClassVar[str] = "CopyDamaged"
    VERSION: ClassVar[int] = 1
    element: Element
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLost:
    """The object of a copy is gone from the store (`sha256` as in CopyDamaged)."""

    TYPE: ClassVar[str] = "CopyLost"
    VERSION: ClassVar[int] = 1
    element: Element
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReleased:
    """Retention let go of an old copy's object: its absence is no damage from here on."""

    TYPE: ClassVar[str] = "CopyReleased"
    VERSION: ClassVar[int] = 1
    element: Element
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadErased:
    """Law or policy had this stream's payloads erased: every payload before this event is null, the proof stays."""

    TYPE: ClassVar[str] = "PayloadErased"
    VERSION: ClassVar[int] = 1
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditAdvanced:
    """An audit of contents came this far; `ranges` is the whole map of what was last read when, oldest first."""

    TYPE: ClassVar[str] = "AuditAdvanced"
    VERSION: ClassVar[int] = 1
    ranges: tuple[AuditRange, ...]


LedgerFact = LedgerBegan | InstanceBegan | AuditAdvanced
SourceFact = (
    SourceBegan | SourceRenamed | ListingAdvanced | ListingCompleted | ListingHeldBack | AlarmsAccepted | ZoneChanged
)
ElementFact = (
    RemoteObserved
    | RemoteChanged
    | RemoteVanished
    | RemoteReappeared
    | CopyStored
    | FetchFailed
    | CopyDamaged
    | CopyLost
    | CopyReleased
    | PayloadErased
)
Fact = LedgerFact | SourceFact | ElementFact

CRITICAL: frozenset[str] = frozenset({"PayloadErased", "CopyReleased", "ZoneChanged"})
"""Types whose events carry the critical flag: skipping one would make a projection lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownFact:
    """A fact of a type or schema that this version does not know: kept and proved, not understood."""

    type_name: str
    schema_version: int
    critical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedFact:
    """A fact whose payload was erased by law or policy."""

    type_name: str
    schema_version: int
