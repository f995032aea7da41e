"""The facts: what was observed and what was done. Each holds the new state of its subject (docs/format.md).

A fact carries the whole new state of its subject, so the last fact of a stream says everything about the subject.
All times are integer microseconds since 1970-01-01 UTC (`..._us`). Only `date` is in the remote server's own integer
seconds. It is data, and nothing is ordered by it.

A new fact is one class here, marked with `@fact`. Its base class says what it is about. Its class variables say
whether it is critical, which schema version its payload has, and what it says about an object. The types of its fields
give their lengths and bounds. Everything else (bytes, projection, audit, replay, history) follows from the class.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, ClassVar, Literal, TypeVar

from msgspec import Struct

from ledger.bounds import Iv, Length, Micros, NotEmpty, Ordinal, Salt, Seconds, Sha256
from ledger.errors import DamagedRowError
from ledger.lthash import ErasedRow  # noqa: TC001 -- the codec reads the hints
from ledger.states import Damage, State, due_of, state_of

NO_SOURCE = bytes(16)
"""The source of streams that belong to the ledger as a whole."""

LEDGER_KIND = "@ledger"
SOURCE_KIND = "@source"
INSTANCE_KIND = "@instance"
AUDIT_KIND = "@audit"

MAX_ID_BYTES = 512
"""The longest element id, in bytes, so that every database can index a stream key."""

MAX_KEY_BYTES = 600
"""The longest stream key in bytes (`StreamKey.stored`)."""


class Subject(Enum):
    """What a fact is about. The value is its stream's kind; for an element, that is its type in the server's list."""

    LEDGER = LEDGER_KIND
    INSTANCE = INSTANCE_KIND
    AUDIT = AUDIT_KIND
    RETENTION = "@retention"
    FREEING = "@freeing"
    DRILL = "@drill"
    SOURCE = SOURCE_KIND
    KEEPING = "@keeping"
    VAULT = "@vault"
    ELEMENT = "element"


ListingMode = Literal["window", "full"]
ObjectState = Literal["sound", "damaged", "lost", "released"]


class StreamKey(Struct, frozen=True, kw_only=True, order=True):
    """The subject of a fact. `kind` is an element's type ("file"), or one of the `@` kinds of the ledger itself."""

    source: bytes
    kind: str
    id: str

    @property
    def stored(self) -> bytes:
        """Source (16 bytes), kind, 0x00, id in UTF-8. It is unique, and sorts in the order of the state digest."""
        return self.source + self.kind.encode() + b"\x00" + self.id.encode()

    @classmethod
    def parse(cls, stored: bytes) -> StreamKey:
        """Parse `stored`. Raises: DamagedRowError if it is not UTF-8."""
        kind, _, rest = stored[16:].partition(b"\x00")
        try:
            return cls(source=stored[:16], kind=kind.decode(), id=rest.decode())
        except UnicodeDecodeError:
            raise DamagedRowError(f"the stream key {stored.hex()} is not valid UTF-8") from None

    @property
    def is_element(self) -> bool:
        """Whether this is an element of a source, and not a subject of the ledger itself."""
        return not self.kind.startswith("@")


class Copy(Struct, frozen=True, kw_only=True):
    """A stored copy: the object's SHA-256 (32 bytes), its size in bytes, and its IV (16 bytes) if it is encrypted.

    `revision` is the element's revision that was fetched; `instance` is the collector that stored it.
    """

    sha256: Sha256
    size: int
    iv: Iv | None
    revision: Ordinal
    instance: str


class Failure(Struct, frozen=True, kw_only=True):
    """Fetches of the current revision have failed `attempts` times since `since_us`. The next is due at `next_try_us`.

    `reason` is a stable word ("http_500", "truncated", ...). It never holds a name, an address or a secret.
    """

    reason: str
    attempts: Ordinal
    since_us: Micros
    next_try_us: Micros


class Element(Struct, frozen=True, kw_only=True):
    """Everything known about one element.

    `form` is the listing's form as canonical JSON bytes, as it was at the last change. `revision` counts from 1 and
    grows with every change, unless the server vouches for the content. `epoch` is the number of the source's zone
    changes that `date` accounts for. `size` (bytes) and `etag` are the server's claims, or None.
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


class HeldListing(Struct, frozen=True, kw_only=True):
    """A listing that is held back for `reason` since `since_us`: it misses `missing` of `known` elements.

    The reason is "empty", "missing" or "misordered"; "too_many" or "too_large" if the listing was given up before its
    end; or "accepted" once a person has accepted it.
    """

    reason: str
    missing: int
    known: int
    since_us: Micros

    @property
    def is_accepted(self) -> bool:
        """Whether a person has answered the alarm, so that the next full listing may mark as many as vanished."""
        return self.reason == "accepted"


class Surge(Struct, frozen=True, kw_only=True):
    """Unusually many changes: `changed` of `known` elements within 24 hours, noticed at `since_us`."""

    changed: int
    known: int
    since_us: Micros


class Unserved(Struct, frozen=True, kw_only=True):
    """How many entries of its source a server says that it does not serve. An excluded folder counts once."""

    sockets: int
    pipes: int
    devices: int
    links: int
    unreadable: int
    unsettled: int
    excluded: int


class Listing(Struct, frozen=True, kw_only=True):
    """What a listing found: how many elements it saw, and how many of them were new, changed, reappeared or vanished.

    `rejected` counts unreadable entries of the list. `since` and `until` are the range in the server's seconds, or None
    if that end is open. `unserved`, `unscanned_since` (since when the server has failed to scan its source) and
    `closed` (the second up to which it adds nothing more) are None if it does not say.
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
    unserved: Unserved | None = None
    unscanned_since: Seconds | None = None
    closed: Seconds | None = None


class Source(Struct, frozen=True, kw_only=True):
    """Everything known about one source: a server as seen through one token.

    `salt` (32 bytes) keys the stream digests and `token_mac`, HMAC-SHA-256(salt, "token" 0x00 token). `urls` holds the
    server's addresses, the current one last. `cursor` is the newest listed second, None before the first listing.
    `zone_shifts` has, for each zone change, the offsets in seconds by which dates moved. `churn` holds pairs (hour
    since 1970, changed elements) of the last 24 hours. `unlistable` names seconds that the server cannot list.
    `opaque` says whether the server encrypts ids and contents. It is None until that is known.
    """

    salt: Salt
    token_mac: Sha256
    urls: Annotated[tuple[str, ...], NotEmpty()]
    opaque: bool | None
    zone: str | None
    cursor: Seconds | None
    zone_shifts: tuple[tuple[Seconds, ...], ...]
    listed_us: Micros | None
    full_listed_us: Micros | None
    held: HeldListing | None
    surge: Surge | None
    churn: tuple[tuple[int, int], ...]
    unlistable: tuple[Seconds, ...]

    @property
    def url(self) -> str:
        """The server's current address."""
        return self.urls[-1]


class Keeping(Struct, frozen=True, kw_only=True):
    """What people decided about a source: its label, and since when it is retired or in use. None means no decision."""

    label: str | None = None
    retired_us: Micros | None = None
    in_use_us: Micros | None = None


class AuditRange(Struct, frozen=True, kw_only=True):
    """All containers from `start` to `end` (32 bytes each, both included) were read and compared by `at_us`.

    The audit covered the ledger up to `position`. It does not cover an object that was named later.
    """

    start: Sha256
    end: Sha256
    position: int
    at_us: Micros


# --- the facts -------------------------------------------------------------------------------------------------------


class Fact(Struct, frozen=True):
    """The base of every fact class. `TYPE` is its permanent name in headers. `VERSION` is its payload's schema version.

    Skipping an event with `IS_CRITICAL` would make a projection wrong, so a program that does not know it stops.
    `OBJECT_STATE` is what the fact says about an object: the object of the element's copy ("sound"), or the one that
    its own `sha256` names (`NAMES_OBJECT`). A fact with `BEGINS` is the first of its stream, and no other fact about
    this kind of subject is.
    """

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1
    SUBJECT: ClassVar[Subject]
    IS_CRITICAL: ClassVar[bool] = False
    ERASES: ClassVar[bool] = False
    OBJECT_STATE: ClassVar[ObjectState | None] = None
    NAMES_OBJECT: ClassVar[bool] = False
    BEGINS: ClassVar[bool] = False

    def contradiction(self) -> str | None:
        """Return how the fact contradicts itself, as the end of a sentence, or None if it does not.

        `append` refuses such a fact, and the audit reports it.
        """
        return None


class SourceFact(Fact, frozen=True, kw_only=True):
    """A fact about a source, with its whole new state."""

    SUBJECT: ClassVar[Subject] = Subject.SOURCE
    source: Source


class KeepingFact(Fact, frozen=True, kw_only=True):
    """A fact about a person's decision on a source, with everything decided so far."""

    SUBJECT: ClassVar[Subject] = Subject.KEEPING
    keeping: Keeping


class ElementFact(Fact, frozen=True, kw_only=True):
    """A fact about an element, with its whole new state.

    `IS_PRESENT` says whether the source has the element after this fact, or is None if both are possible. `HOLDS` names
    the fields of the element that this fact MUST fill. With `IS_DISMISSED`, the element raises no alarm after it.
    """

    SUBJECT: ClassVar[Subject] = Subject.ELEMENT
    IS_PRESENT: ClassVar[bool | None] = None
    HOLDS: ClassVar[tuple[str, ...]] = ()
    IS_DISMISSED: ClassVar[bool] = False
    element: Element

    def contradiction(self) -> str | None:
        """Return how the fact contradicts itself, or None if it does not."""
        element = self.element
        copy, present = element.copy, self.IS_PRESENT
        for name in self.HOLDS:
            if getattr(element, name) is None:
                return f"it has no {name}"
        if present is not None and element.present is not present:
            return f"it says that the source {'has' if element.present else 'does not have'} the element"
        if copy is None:
            return None if element.damage is None else "it has damage, but no copy"
        if copy.revision > element.revision:
            return f"its copy is of revision {copy.revision}, but the element is at {element.revision}"
        if element.damage is not None and self.OBJECT_STATE == "sound" and not self.NAMES_OBJECT:
            return f"it says that its copy is {element.damage}"
        return None


class ObjectFact(ElementFact, frozen=True, kw_only=True):
    """A fact about one of an element's objects: it is not what was stored, or it is gone.

    `sha256` names the object: the present copy's, or that of an older version (then `element.damage` is unchanged).
    """

    HOLDS: ClassVar[tuple[str, ...]] = ("copy",)
    sha256: Sha256

    def contradiction(self) -> str | None:
        """Return how the fact contradicts itself, or None if it does not."""
        found = ElementFact.contradiction(self)
        copy, damage, state = self.element.copy, self.element.damage, self.OBJECT_STATE
        if found is None and copy is not None and copy.sha256 == self.sha256 and damage != state:
            found = f"the object of its copy is {state}, but it says that the copy is {damage or 'sound'}"
        return found


FACTS: dict[str, type[Fact]] = {}
"""Every fact class that this program knows, by its name in headers."""

_F = TypeVar("_F", bound=Fact)


def fact(cls: type[_F]) -> type[_F]:
    """Register a class as a fact, known to every part of the ledger.

    Raises:
        TypeError: if another fact has this name, or the fact says that an object is not sound but has no `sha256`.
    """
    if cls.__name__ in FACTS:
        raise TypeError(f"two facts have the name {cls.__name__}: give the new one another name")
    if cls.OBJECT_STATE not in {None, "sound"} and "sha256" not in cls.__struct_fields__:
        raise TypeError(f"{cls.__name__} says that an object is {cls.OBJECT_STATE}: give it the field `sha256`")
    cls.TYPE = cls.__name__
    cls.NAMES_OBJECT = cls.NAMES_OBJECT or cls.OBJECT_STATE not in {None, "sound"}
    FACTS[cls.TYPE] = cls
    return cls


@fact
class LedgerBegan(Fact, frozen=True, kw_only=True):
    """The first event of every ledger: its random id (16 bytes) and salt (32 bytes), and the version that made it."""

    SUBJECT: ClassVar[Subject] = Subject.LEDGER
    ledger_id: Annotated[bytes, Length(16)]
    salt: Salt
    program: str


@fact
class InstanceBegan(Fact, frozen=True, kw_only=True):
    """A collector with this name ran for the first time, or for the first time with this version or host."""

    SUBJECT: ClassVar[Subject] = Subject.INSTANCE
    program: str
    host: str


@fact
class AuditAdvanced(Fact, frozen=True, kw_only=True):
    """An audit of contents advanced. `ranges` is the whole map of what was read when, oldest first.

    The map is about containers: a pack has its own name, and a file that holds one object has the object's name.
    """

    SUBJECT: ClassVar[Subject] = Subject.AUDIT
    VERSION: ClassVar[int] = 2
    ranges: tuple[AuditRange, ...]


@fact
class DrillHeld(Fact, frozen=True, kw_only=True):
    """A person opened randomly picked copies of the source with a kit: `opened` of them opened, `failed` did not."""

    SUBJECT: ClassVar[Subject] = Subject.DRILL
    opened: int
    failed: int


@fact
class SourceBegan(SourceFact, frozen=True, kw_only=True):
    """A token was used for the first time: it is a new source with its own elements."""

    BEGINS: ClassVar[bool] = True


@fact
class SourceRenamed(SourceFact, frozen=True, kw_only=True):
    """The server moved to another address. Its elements are the same."""


@fact
class ListingAdvanced(SourceFact, frozen=True, kw_only=True):
    """A page of a listing was recorded. If the listing is interrupted, it continues from here."""


@fact
class ListingCompleted(SourceFact, frozen=True, kw_only=True):
    """A listing was completed."""

    VERSION: ClassVar[int] = 4
    listing: Listing


@fact
class ListingHeldBack(SourceFact, frozen=True, kw_only=True):
    """A listing missed too many elements, or showed too many, to be believed. Nothing was marked as vanished.

    `source.held` says why.
    """

    VERSION: ClassVar[int] = 4
    listing: Listing


@fact
class AlarmsAccepted(SourceFact, frozen=True, kw_only=True):
    """A person looked at a listing that was held back, or at a surge of changes, and accepted it."""


@fact
class RunFailed(SourceFact, frozen=True, kw_only=True):
    """A run of the collector `instance` ended without success, for `reason`, a stable word ("refused", ...)."""

    instance: str
    reason: str


@fact
class ZoneChanged(SourceFact, frozen=True, kw_only=True):
    """The server's zone changed: nearly all dates moved by `offsets` seconds, but no content changed."""

    IS_CRITICAL: ClassVar[bool] = True
    offsets: tuple[Seconds, ...]


@fact
class SourceLabelled(KeepingFact, frozen=True, kw_only=True):
    """A person gave the source a label, or removed it."""


@fact
class SourceRetired(KeepingFact, frozen=True, kw_only=True):
    """A person said that nothing is collected from the source any more. Its copies stay."""


@fact
class SourceResumed(KeepingFact, frozen=True, kw_only=True):
    """A person said that the source is in use: it is not retired, and no other source has taken its place so far."""


@fact
class VaultNamed(Fact, frozen=True, kw_only=True):
    """The source's list named its vault, or a further token of this vault continues the source.

    `token_macs` has the further tokens, the newest last, each made like the `Source.token_mac` of the first one.
    """

    SUBJECT: ClassVar[Subject] = Subject.VAULT
    vault: Annotated[bytes, Length(16)]
    token_macs: tuple[Sha256, ...]


@fact
class RemoteObserved(ElementFact, frozen=True, kw_only=True):
    """An element was seen for the first time."""

    IS_PRESENT: ClassVar[bool | None] = True


@fact
class RemoteChanged(ElementFact, frozen=True, kw_only=True):
    """An element has another date: a new revision, unless the server says that the content is the same."""


@fact
class RemoteVanished(ElementFact, frozen=True, kw_only=True):
    """The source no longer has the element. Its copies stay."""

    IS_PRESENT: ClassVar[bool | None] = False


@fact
class RemoteReappeared(ElementFact, frozen=True, kw_only=True):
    """A vanished element is listed again, unchanged or as a new revision."""

    IS_PRESENT: ClassVar[bool | None] = True


@fact
class CopyStored(ElementFact, frozen=True, kw_only=True):
    """A copy is durable in the storage, under its SHA-256."""

    OBJECT_STATE: ClassVar[ObjectState | None] = "sound"
    HOLDS: ClassVar[tuple[str, ...]] = ("copy",)


@fact
class RemoteCopied(RemoteObserved, frozen=True, kw_only=True):
    """An element was seen for the first time, and its copy is durable already: a RemoteObserved and a CopyStored."""

    OBJECT_STATE: ClassVar[ObjectState | None] = "sound"
    HOLDS: ClassVar[tuple[str, ...]] = ("copy",)


@fact
class FetchFailed(ElementFact, frozen=True, kw_only=True):
    """A fetch did not return valid content (`element.failure` says why, and when the next try is due)."""

    HOLDS: ClassVar[tuple[str, ...]] = ("failure",)


@fact
class ElementDismissed(ElementFact, frozen=True, kw_only=True):
    """A person said that nothing can be done about the element. It raises no alarm until there is news of it."""

    IS_DISMISSED: ClassVar[bool] = True


@fact
class DismissedFetchFailed(FetchFailed, frozen=True, kw_only=True):
    """A fetch of a dismissed element failed again. It stays dismissed."""

    IS_DISMISSED: ClassVar[bool] = True


@fact
class DismissalWithdrawn(ElementFact, frozen=True, kw_only=True):
    """A person took a dismissal back: the element raises alarms again."""


@fact
class CopyDamaged(ObjectFact, frozen=True, kw_only=True):
    """The object of a copy is there but is not what was stored."""

    OBJECT_STATE: ClassVar[ObjectState | None] = "damaged"


@fact
class CopyLost(ObjectFact, frozen=True, kw_only=True):
    """The object of a copy is gone from the storage."""

    OBJECT_STATE: ClassVar[ObjectState | None] = "lost"


@fact
class PayloadErased(Fact, frozen=True, kw_only=True):
    """The stream's payloads before this event were erased and are null. The proof stays whole. See docs/format.md."""

    VERSION: ClassVar[int] = 2
    SUBJECT: ClassVar[Subject] = Subject.ELEMENT
    IS_CRITICAL: ClassVar[bool] = True
    ERASES: ClassVar[bool] = True
    reason: str
    blocked: bool = False
    rows: tuple[ErasedRow, ...] = ()


class UnknownFact(Struct, frozen=True, kw_only=True):
    """A fact of a type or schema that this version does not know. It is kept and proved, but not understood."""

    type_name: str
    schema_version: int
    critical: bool


class ErasedFact(Struct, frozen=True, kw_only=True):
    """A fact whose payload was erased by law or policy."""

    type_name: str
    schema_version: int
