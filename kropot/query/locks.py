"""How much of a storage in a bucket is locked, and what waits for locks to end, as `status` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kropot.objects.stores.waiting import NOTHING_WAITS
from kropot.query.space import FEW_ELEMENTS
from kropot.wording import SECOND_US, amount, instant, moment, number

if TYPE_CHECKING:
    from kropot.objects.opening import Storage
    from kropot.objects.stores.versioned import LockShare
    from kropot.objects.stores.waiting import LockedVersions
    from ledger.log import Ledger


def locks_of(ledger: Ledger, storage: Storage, *, everything: bool) -> LockShare | None:
    """Return what is locked; None if the storage keeps no versions.

    Look at every file if `everything` is true, or if there are few elements. Raises: StorageError.
    """
    is_few = sum(each.elements for each in ledger.tallies()) <= FEW_ELEMENTS
    versioned = storage.versioned()
    return None if versioned is None else versioned.share(everything=everything or is_few)


def locks_json(found: LockShare | None) -> dict[str, Any] | None:
    """Return the fields of the JSON answer."""
    if found is None:
        return None
    share = None if not found.bytes or found.locked is None else round(found.locked / found.bytes, 6)
    first = None if found.first_s is None else instant(int(found.first_s * SECOND_US))
    return {
        "lock_days": found.days,
        "bucket_days": found.bucket_days,
        "bytes": found.bytes,
        "locked": found.locked,
        "share": share,
        "first_ends": first,
        "erasures_waiting": found.waiting.json,
    }


def locks_text(found: LockShare | None) -> list[str]:
    """Return the locks as lines of text."""
    if found is None:
        return []
    lines = []
    if found.bytes is not None and found.locked is not None:
        share = found.locked / found.bytes if found.bytes else 0
        first = "" if found.first_s is None else f"; the first lock ends {moment(int(found.first_s * SECOND_US))}"
        lines.append(f"locked   {share:.1%} of {amount(found.bytes)}{first}")
    if found.is_told and found.days != found.bucket_days:
        says = "has no default lock" if found.bucket_days is None else f"locks for {number(found.bucket_days, 'day')}"
        mine = "is not set" if found.days is None else f"is {found.days}"
        lines.append(f"         the bucket {says}, and lock-days {mine} in the table [storage]: correct one of them")
    return [*lines, *waiting_text(found.waiting)]


def waiting_text(waiting: LockedVersions | None) -> list[str]:
    """Return what erasures left until locks end as a line of text; no line if nothing waits."""
    if waiting is None or waiting == NOTHING_WAITS:
        return []
    versions = number(waiting.versions, "older version")
    return [f"         {versions} of what was erased wait to be removed, until {moment(waiting.until_us)}"]
