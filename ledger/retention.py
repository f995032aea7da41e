"""The facts of retention: the policy, restore points that a person keeps, released copies, and freed bytes.

Like every fact, each holds the whole new state of its subject (docs/format.md, "Retention"). `@retention` says what
people decided, and `@freeing` how far bytes were freed. Both belong to the ledger as a whole.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Struct

from ledger.bounds import Length, Micros, Ordinal, Sha256
from ledger.events import NO_SOURCE, ElementFact, Fact, ObjectState, StreamKey, Subject, fact

RETENTION_KEY = StreamKey(source=NO_SOURCE, kind=Subject.RETENTION.value, id="")
FREEING_KEY = StreamKey(source=NO_SOURCE, kind=Subject.FREEING.value, id="")


class KeepRules(Struct, frozen=True, kw_only=True):
    """The rules for one source (its id, 16 bytes), or for every source without rules of its own (None).

    `last`, `daily`, `weekly`, `monthly` and `yearly` count rounds, days, and so on, or are 0 if the rule was not given.
    Spans are in seconds. If `vanished_s` is None, the last sound copy of a vanished element is kept forever.
    """

    source: Annotated[bytes, Length(16)] | None
    last: int
    within_s: int
    daily: int
    weekly: int
    monthly: int
    yearly: int
    vanished_s: int | None
    min_age_s: int


class Pin(Struct, frozen=True, kw_only=True):
    """A restore point that a person keeps against every policy: the state after the event at `position`."""

    position: Ordinal
    label: str


class Retention(Struct, frozen=True, kw_only=True):
    """What people decided: the rules, and the restore points that they keep.

    `signature` is a note over both, signed with the key for checkpoints, or None if there is no such key.
    """

    rules: tuple[KeepRules, ...]
    pins: tuple[Pin, ...]
    signature: str | None


class Freed(Struct, frozen=True, kw_only=True):
    """How far bytes were freed: every release up to position `to`, and `objects` with `bytes` since the beginning."""

    to: int
    objects: int
    bytes: int


class RetentionFact(Fact, frozen=True, kw_only=True):
    """A fact about a person's decision on retention, with everything decided so far."""

    SUBJECT: ClassVar[Subject] = Subject.RETENTION
    retention: Retention


class FreeingFact(Fact, frozen=True, kw_only=True):
    """A fact about how far bytes were freed. With `IS_OPEN`, objects that no event names can vanish at any moment."""

    SUBJECT: ClassVar[Subject] = Subject.FREEING
    IS_OPEN: ClassVar[bool] = False
    freed: Freed


@fact
class PolicySet(RetentionFact, frozen=True, kw_only=True):
    """A person gave the rules."""


@fact
class PointKept(RetentionFact, frozen=True, kw_only=True):
    """A person keeps a restore point against every policy."""


@fact
class PointLetGo(RetentionFact, frozen=True, kw_only=True):
    """A person no longer keeps a restore point."""


@fact
class FreeingBegan(FreeingFact, frozen=True, kw_only=True):
    """From now on, objects that no event names can vanish, so a collector looks again before it names one."""

    IS_OPEN: ClassVar[bool] = True


@fact
class FreeingEnded(FreeingFact, frozen=True, kw_only=True):
    """The bytes of every release up to `freed.to` are free, unless another copy needs them."""


class ReleaseFact(ElementFact, frozen=True, kw_only=True):
    """Retention let a copy go: from now on the absence of its object `sha256` is not damage.

    `policy` is the position of the decision that entails the release, for `reason` ("replaced" or "vanished"). The
    release was decided at `at_us` about the ledger up to position `decided`, and `by` says who ran it.
    """

    IS_CRITICAL: ClassVar[bool] = True
    OBJECT_STATE: ClassVar[ObjectState | None] = "released"
    sha256: Sha256
    policy: int
    decided: int
    at_us: Micros
    reason: str
    by: str


@fact
class CopyReleased(ReleaseFact, frozen=True, kw_only=True):
    """Retention let an older copy go. The element has another one, or already had none."""

    VERSION: ClassVar[int] = 2


@fact
class LastCopyReleased(ReleaseFact, frozen=True, kw_only=True):
    """Retention let the last copy of a vanished element go: the element no longer has one."""

    IS_PRESENT: ClassVar[bool | None] = False

    def contradiction(self) -> str | None:
        """Return how the fact contradicts itself, or None if it does not."""
        found = ElementFact.contradiction(self)
        return found if found is not None or self.element.copy is None else "its element still has a copy"


@fact
class ReleaseWithdrawn(ElementFact, frozen=True, kw_only=True):
    """A person took a release back before its bytes were freed: the object `sha256` is sound, and a copy again."""

    IS_CRITICAL: ClassVar[bool] = True
    OBJECT_STATE: ClassVar[ObjectState | None] = "sound"
    NAMES_OBJECT: ClassVar[bool] = True
    sha256: Sha256
