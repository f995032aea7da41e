"""Packs what is loose in the storage, one process of the ledger at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kropot.errors import LockedError
from kropot.objects.packs.packing import PackRule

if TYPE_CHECKING:
    from kropot.objects.opening import Storage
    from kropot.objects.packs.gather import GatherReport
    from ledger.log import Ledger

_NAME: Final = "storage:pack"
_LEASE_US: Final = 3600 * 1_000_000
"""A process that died in the midst of packing keeps others from it for so long."""


def gather(
    ledger: Ledger, storage: Storage, rule: PackRule | None = None, *, only_if_worth: bool = False
) -> GatherReport | None:
    """Gather loose small objects into packs; None if another process does, or nothing is to be done.

    With `only_if_worth`, a look at a few folders decides whether there is a pack's worth.

    Raises: StorageError, LedgerError.
    """
    rule = rule or PackRule()
    if rule.below == 0 or not ledger.work.reserve(_NAME, lease_us=_LEASE_US):
        return None
    try:
        with storage.gatherer(ledger.places, rule) as gatherer:
            if only_if_worth and not gatherer.is_worth():
                return None
            return gatherer.run()
    except LockedError:
        return None
    finally:
        ledger.work.unreserve(_NAME)
