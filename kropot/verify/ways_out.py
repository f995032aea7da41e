"""What a bad copy means: one state, one sentence, one way out. A pure table; nothing here reads or asks anything."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from ledger.audit import Severity
    from ledger.states import Damage

Found = Literal["damaged", "lost", "unreadable", "sound", "not_read"]
"""What this run found. "not_read": a copy that is known to be bad, whose content this run did not read."""

Role = Literal["newest", "outdated", "older", "replaced"]
"""What the copy is to its element. "outdated": the newest copy, but the source already has a newer revision.

"older": a copy of an older revision. "replaced": a sound copy of the same revision was stored later.
"""

Reach = Literal["open", "refused", "past", "retired"]
"""Whether the copy's source can be asked. "past": another token took it over. "retired": a person retired it."""

Unrecorded = Literal["mass", "no_record", "read_only", "bad_ledger"]
"""Why a run records nothing."""

WHY_UNRECORDED: dict[Unrecorded, str] = {
    "mass": "so much is newly missing or damaged that the storage may not be mounted, or may be the wrong one; if it is"
    " the right one, --repair records the damage and fetches the copies again",
    "no_record": "--no-record was given",
    "read_only": "the database is read-only",
    "bad_ledger": "verify records nothing in a ledger that has errors",
}


class Way(Enum):
    """The way out. The value is the sentence that says it, empty if there is nothing to do."""

    NONE = ""
    NOTHING = "the same revision was fetched again and is sound: you need to do nothing"
    DISMISSED = "a person dismissed this element: `kropotcli source dismiss --undo` takes that back"
    AGAIN = "the next `kropotcli collect` with this source's token fetches it again; `verify --repair` does so now"
    NOW = "a line at the end of this run says whether it was fetched again"
    FAILS = "collectors try to fetch it again, but have failed so far: `kropotcli ls --failing` says when they try next"
    RECORD = (
        "run `kropotcli verify` without --no-record: it records this, and then `kropotcli collect` fetches it again"
    )
    WRITABLE = (
        "run `kropotcli verify` where the database can be written: it records this, and then `kropotcli collect` "
        "fetches it again"
    )
    LEDGER = "look at the findings about the ledger first; until then nothing is recorded or fetched again"
    MOUNT = (
        "nothing was recorded, because the storage may not be mounted: mount it, or correct --storage-path, and verify "
        "again; if this is the right storage, use --repair"
    )
    MEND = "fix the reason why it cannot be read, then verify again"
    READ = "run `kropotcli verify` without --quick and --budget to read it"
    REFUSED = (
        "the server refuses the token of this source, so it cannot be fetched again with it: collect with a token that "
        "the server accepts, or put the object back under its name from another backup"
    )
    PAST = (
        "another token has taken over this source, so no collector fetches it again: the newer source has its own "
        "copy; if not, collect once with the older token, or put the object back under its name from another backup"
    )
    RETIRED = (
        "its source is retired, so it cannot be fetched again: look for the object in another backup, and put it back "
        "under its name, or dismiss the element with `kropotcli source dismiss`"
    )
    GONE = (
        "the source no longer has this element, so it cannot be fetched again: look for the object in another backup, "
        "and put it back under its name, or dismiss the element with `kropotcli source dismiss`"
    )
    OUTDATED = (
        "the source has a newer revision, and the next `kropotcli collect` fetches that; this older revision cannot be "
        "fetched again: look for the object in another backup, and put it back under its name"
    )
    OLD = (
        "this is an older revision, which the source no longer offers, so it cannot be fetched again: look for the "
        "object in another backup, and put it back under its name"
    )


IS_FETCHED_AGAIN = frozenset({Way.AGAIN, Way.NOW, Way.FAILS})
"""The ways in which a collector fetches the copy again without a person's help."""

_NOTES = frozenset({Way.NONE, Way.NOTHING, Way.DISMISSED})
"""The ways that need no more action."""


class BadCopy(Struct, frozen=True, kw_only=True):
    """Everything that decides what is said about one copy of one element.

    `detail` is what the reader saw. `recorded` is what the ledger knew about it before this run. `unrecorded` is why
    this run did not record what is new, None if it did. `is_present`: the source has the element. `failure` is why
    fetching it again has failed so far. `is_dismissed`: a person said that nothing can be done about the element.
    `repairs`: this run fetches again what it can.
    """

    found: Found
    detail: str = ""
    recorded: Damage | None = None
    role: Role = "newest"
    is_present: bool = True
    reach: Reach = "open"
    failure: str | None = None
    is_dismissed: bool = False
    unrecorded: Unrecorded | None = None
    repairs: bool = False

    @property
    def is_new(self) -> bool:
        """Whether this run found damage that the ledger did not know."""
        return self.recorded is None and self.found in {"damaged", "lost"}


class Words(Struct, frozen=True, kw_only=True):
    """What is said about a copy: the finding's kind, severity and detail, and the way out."""

    kind: str
    severity: Severity
    detail: str
    way: Way


def explain(copy: BadCopy) -> Words:
    """Return what is said about a copy. The same state gives the same words, whatever led the run to it."""
    way = way_out(copy)
    if copy.found == "sound":
        detail = f"the object was recorded as {copy.recorded}, but is sound now"
        return Words(kind="recovered_object", severity="note", detail=detail, way=way)
    state = copy.recorded if copy.found == "not_read" else copy.found
    return Words(
        kind="replaced_object" if way is Way.NOTHING else f"{state}_object",
        severity="note" if way in _NOTES else "error",
        detail=_detail(copy, way),
        way=way,
    )


def way_out(copy: BadCopy) -> Way:
    """Return the way out. The first reason that rules out a better one decides."""
    return _at_hand(copy) or _lasting(copy) or _fetching(copy)


def _at_hand(copy: BadCopy) -> Way | None:
    """Return the way out if the matter is closed or needs a look first; None if the copy is bad and that matters."""
    if copy.found == "sound":
        return Way.NONE
    if copy.is_new and copy.unrecorded == "mass":
        return Way.MOUNT
    if copy.found == "unreadable":
        return Way.MEND
    if copy.role == "replaced":
        return Way.NOTHING
    if copy.found == "not_read" and copy.detail:
        return Way.READ
    return Way.DISMISSED if copy.is_dismissed and not copy.is_new else None


def _lasting(copy: BadCopy) -> Way | None:
    """Return the way out if no fetch can bring the copy back, None if a fetch can."""
    if copy.role == "older":
        return Way.OLD
    by_reach: dict[Reach, Way] = {"retired": Way.RETIRED, "past": Way.PAST}
    if copy.reach in by_reach:
        return by_reach[copy.reach]
    if not copy.is_present:
        return Way.GONE
    if copy.role == "outdated":
        return Way.OUTDATED
    return Way.REFUSED if copy.reach == "refused" else None


def _fetching(copy: BadCopy) -> Way:
    """Return the way out if a fetch can bring the copy back: who has to do what before that."""
    ways: dict[Unrecorded, Way] = {"no_record": Way.RECORD, "read_only": Way.WRITABLE}
    if copy.unrecorded == "bad_ledger":
        return Way.LEDGER
    if copy.is_new and copy.unrecorded in ways:
        return ways[copy.unrecorded]
    if copy.repairs:
        return Way.NOW
    return Way.FAILS if copy.failure is not None else Way.AGAIN


def _detail(copy: BadCopy, way: Way) -> str:
    """Return what was found and what was known, and why fetching fails if that decides the way out."""
    if copy.found == "not_read":
        seen = copy.detail or "this run did not look at it again"
        text = f"recorded as {copy.recorded}; {seen}"
    elif copy.recorded is None:
        text = copy.detail
    else:
        text = f"{copy.detail} (already recorded as {copy.recorded})"
    return f"{text}; fetching it again fails: {copy.failure}" if way is Way.FAILS else text
