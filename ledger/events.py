"""The facts: what was observed and what was done, each a frozen post-image of its subject (docs/format.md).

A fact about a subject carries that subject's whole new state, so the last fact of a stream says everything about it.
All times are integer microseconds since 1970-01-01 UTC (`..._us`); `date` alone is the remote server's own integer
seconds, which is data and never orders anything.

A new fact is one class here, marked with `@fact`. Its base class says what it is about. Its class variables say
whether it is critical, which schema version its payload has, and what it says of an object. The types of its fields
say their lengths and bounds. Everything else (bytes, projection, audit, replay, history) follows from the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, ClassVar, Literal, TypeVar, dataclass_transform

from ledger.fast_init import fast_init

NO_SOURCE = bytes(16)
"""The source of streams that belong to the ledger as a whole."""

LEDGER_KIND = "@ledger"
SOURCE_KIND = "@source"
INSTANCE_KIND = "@instance"
AUDIT_KIND = "@audit"

MAX_ID_BYTES = 512
"""Longer element ids are refused where they arrive, so that every database can index a stream key."""


class Subject(Enum):
    """What a fact is about. The value is the kind of its stream; an element's kind is the type in its server's list."""

    LEDGER = LEDGER_KIND
    INSTANCE = INSTANCE_KIND
    AUDIT = AUDIT_KIND
    SOURCE = SOURCE_KIND
    ELEMENT = "element"


@dataclass(frozen=True, slots=True)
class Length:
    """Marks a byte string that has exactly this many bytes."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Least:
    """Marks a number that may not be smaller; numbers without a mark start at 0, and all end at 2^63-1."""

    value: int


MIN_INT, MAX_INT = -(1 << 63), (1 << 63) - 1

Sha256 = Annotated[bytes, Length(32)]
Salt = Annotated[bytes, Length(32)]
Iv = Annotated[bytes, Length(16)]
Seconds = Annotated[int, Least(MIN_INT)]
"""Seconds of the remote server, and differences of them: they may be negative."""
Ordinal = Annotated[int, Least(1)]
"""A number that counts from 1."""

State = Literal["damaged", "lost", "vanished", "current", "pending"]
Damage = Literal["damaged", "lost"]
ListingMode = Literal["window", "full"]
ObjectState = Literal["sound", "damaged", "lost", "released"]


def state_of(damage: Damage | None, *, is_present: bool, is_current: bool) -> State:
    """Return an element's state: the first that applies of damaged or lost, vanished, current, pending.

    `is_current` is whether a copy of the newest revision is stored. This is the only definition of the state.
    """
    if damage is not None:
        return damage
    if not is_present:
        return "vanished"
    return "current" if is_current else "pending"


def due_of(recorded_us: int, next_try_us: int | None) -> int:
    """Return when an element that is wanted is due: at its next try, or since `recorded_us` if no fetch failed yet.

    So a failing element neither waits behind all new elements nor keeps them waiting.
    """
    return recorded_us if next_try_us is None else next_try_us


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

    sha256: Sha256
    size: int
    iv: Iv | None
    revision: Ordinal
    instance: str


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Fetches of the current revision have failed `attempts` times since `since_us`; the next is due at `next_try_us`.

    `reason` is a stable word ("http_500", "truncated", ...); it never holds a name, an address or a secret.
    """

    reason: str
    attempts: Ordinal
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

    date: Seconds
    tz: str
    form: bytes
    revision: Ordinal
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
    def state(self) -> State:
        """The element's state (`state_of`)."""
        return state_of(self.damage, is_present=self.present, is_current=self.is_current)

    def due_us(self, recorded_us: int) -> int | None:
        """Return when a copy should be fetched, after an event recorded at `recorded_us`; None if none is wanted."""
        if not self.is_wanted:
            return None
        return due_of(recorded_us, None if self.failure is None else self.failure.next_try_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldListing:
    """A listing that was not believed, since `since_us`, for `reason`: `missing` of `known` elements were missing.

    The reason is "empty", "missing" or "misordered"; "too_many" or "too_large" for one that was given up before its
    end; or "accepted" once a person has looked at it.
    """

    reason: str
    missing: int
    known: int
    since_us: int

    @property
    def is_accepted(self) -> bool:
        """Whether the alarm is over, and the next full listing may declare as many elements vanished."""
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
    since: Seconds | None
    until: Seconds | None
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

    salt: Salt
    token_mac: Sha256
    urls: tuple[str, ...]
    opaque: bool | None
    zone: str | None
    cursor: Seconds | None
    zone_shifts: tuple[tuple[Seconds, ...], ...]
    listed_us: int | None
    full_listed_us: int | None
    held: HeldListing | None
    surge: Surge | None
    churn: tuple[tuple[int, int], ...]
    unlistable: tuple[Seconds, ...]

    @property
    def url(self) -> str:
        """The server's present address."""
        return self.urls[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRange:
    """Objects whose SHA-256 lies in [`start`, `end`] (32 bytes each) were read and compared by `at_us`.

    `position` is the ledger's position the walk was pinned to: an object named later is not covered.
    """

    start: Sha256
    end: Sha256
    position: int
    at_us: int


# --- the facts -------------------------------------------------------------------------------------------------------


class Fact:
    """What every fact class has. `TYPE` is its name in headers, for ever; `VERSION` its payload's schema version.

    Skipping an event with `IS_CRITICAL` would make a projection lie, so a program that does not know it stops.
    `OBJECT_STATE` is what the fact says of an object: that of the element's copy ("sound"), or its own `sha256`.
    """

    __slots__ = ()

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1
    SUBJECT: ClassVar[Subject]
    IS_CRITICAL: ClassVar[bool] = False
    ERASES: ClassVar[bool] = False
    OBJECT_STATE: ClassVar[ObjectState | None] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFact(Fact):
    """A fact about a source, with its whole new state."""

    SUBJECT: ClassVar[Subject] = Subject.SOURCE
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementFact(Fact):
    """A fact about an element, with its whole new state."""

    SUBJECT: ClassVar[Subject] = Subject.ELEMENT
    element: Element


FACTS: dict[str, type[Fact]] = {}
"""Every class of facts that this program knows, by its name in headers."""

_F = TypeVar("_F", bound=Fact)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def fact(cls: type[_F]) -> type[_F]:
    """Make a class a fact: a frozen dataclass with slots that every part of the ledger knows from now on.

    Raises:
        TypeError: if another fact has the name, or the fact says that an object is not sound, but not which.
    """
    made = fast_init(dataclass(frozen=True, slots=True, kw_only=True)(cls))
    if made.__name__ in FACTS:
        raise TypeError(f"two facts have the name {made.__name__}: give the new one another")
    if made.OBJECT_STATE not in {None, "sound"} and "sha256" not in made.__dataclass_fields__:  # type: ignore[attr-defined]
        raise TypeError(f"{made.__name__} says that an object is {made.OBJECT_STATE}: give it the field `sha256`")
    made.TYPE = made.__name__
    FACTS[made.TYPE] = made
    return made


@fact
class LedgerBegan(Fact):
    """The first event of every ledger: its random id (16 bytes) and salt (32 bytes), and the version that made it."""

    SUBJECT: ClassVar[Subject] = Subject.LEDGER
    ledger_id: Annotated[bytes, Length(16)]
    salt: Salt
    program: str


@fact
class InstanceBegan(Fact):
    """A collector of this name ran for the first time, or for the first time with this version or host."""

    SUBJECT: ClassVar[Subject] = Subject.INSTANCE
    program: str
    host: str


@fact
class AuditAdvanced(Fact):
    """An audit of contents came this far; `ranges` is the whole map of what was last read when, oldest first."""

    SUBJECT: ClassVar[Subject] = Subject.AUDIT
    ranges: tuple[AuditRange, ...]


@fact
class SourceBegan(SourceFact):
    """A token was used for the first time: a new source with elements of its own."""


@fact
class SourceRenamed(SourceFact):
    """The server moved; its elements are the same."""


@fact
class ListingAdvanced(SourceFact):
    """A page of a listing was recorded; a listing that is cut short goes on from here."""


@fact
class ListingCompleted(SourceFact):
    """A listing came to its end."""

    listing: Listing


@fact
class ListingHeldBack(SourceFact):
    """A listing missed too much, or showed too much, to be believed: nothing was declared vanished.

    `source.held` says why.
    """

    listing: Listing


@fact
class AlarmsAccepted(SourceFact):
    """A person looked at what was held back, or at a surge of changes, and accepted it."""


@fact
class ZoneChanged(SourceFact):
    """The server's zone changed: nearly all dates moved by `offsets` seconds, and no content did."""

    IS_CRITICAL: ClassVar[bool] = True
    offsets: tuple[Seconds, ...]


@fact
class RemoteObserved(ElementFact):
    """An element was seen for the first time."""


@fact
class RemoteChanged(ElementFact):
    """An element was seen with another date (or another claim of its content): a new revision."""


@fact
class RemoteVanished(ElementFact):
    """The source no longer has the element; its copies stay."""


@fact
class RemoteReappeared(ElementFact):
    """A vanished element is listed again, unchanged or as a new revision."""


@fact
class CopyStored(ElementFact):
    """A copy is durable in the object store under its SHA-256."""

    OBJECT_STATE: ClassVar[ObjectState | None] = "sound"


@fact
class FetchFailed(ElementFact):
    """A fetch gave nothing that can be believed (`element.failure` says why and when it is tried again)."""


@fact
class CopyDamaged(ElementFact):
    """The object of a copy is there but is not what was stored.

    `sha256` names the object: the present copy's, or that of an older version (then `element.damage` is unchanged).
    """

    OBJECT_STATE: ClassVar[ObjectState | None] = "damaged"
    sha256: Sha256


@fact
class CopyLost(ElementFact):
    """The object of a copy is gone from the store (`sha256` as in CopyDamaged)."""

    OBJECT_STATE: ClassVar[ObjectState | None] = "lost"
    sha256: Sha256


@fact
class CopyReleased(ElementFact):
    """Retention let go of an old copy's object: from here on its absence is not damage."""

    IS_CRITICAL: ClassVar[bool] = True
    OBJECT_STATE: ClassVar[ObjectState | None] = "released"
    sha256: Sha256


@fact
class PayloadErased(Fact):
    """Law or policy had this stream's payloads erased: every payload before this event is null, the proof stays."""

    SUBJECT: ClassVar[Subject] = Subject.ELEMENT
    IS_CRITICAL: ClassVar[bool] = True
    ERASES: ClassVar[bool] = True
    reason: str


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
