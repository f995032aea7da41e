"""Packs loose objects in the storage, for a command and for upkeep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.errors import LockedError

if TYPE_CHECKING:
    from kropot.objects.opening import Storage
    from kropot.objects.packs.gather import GatherReport
    from kropot.objects.packs.packing import PackRule
    from ledger.log import Ledger


def gather(ledger: Ledger, storage: Storage, rule: PackRule, *, only_if_worth: bool = False) -> GatherReport | None:
    """Gather small loose objects into packs; return None if another process does, or if it is not worth it.

    With `only_if_worth`, a look at a few folders decides whether there is enough for a pack.

    Raises: StorageError, LedgerError.
    """
    try:
        with storage.gatherer(ledger.places, rule) as gatherer:
            if only_if_worth and not gatherer.is_worth():
                return None
            return gatherer.run()
    except LockedError:
        return None
