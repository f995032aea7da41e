"""Detects a storage that lacks all objects at once: its disk is more likely not mounted than lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.errors import KropotError
from ledger.rows import RELEASED

if TYPE_CHECKING:
    from kropot.objects.opening import Storage
    from ledger.log import Ledger


class StorageAwayError(KropotError):
    """The storage has no place for objects although the ledger names some, so the storage is not trusted."""


def demand_objects(storage: Storage, ledger: Ledger) -> None:
    """Return if the storage has a place for objects, or the ledger names none.

    Call this before anything is made in the storage or recorded as lost. Otherwise an audit would record every copy as
    lost, and a collector would start a second storage under the empty mount point.

    Raises: StorageAwayError.
    """
    if storage.has_objects or all(row.state == RELEASED for row in ledger.copies()):
        return
    best = max(ledger.work.further(), key=lambda row: row.position, default=None)
    others = "" if best is None else f"; or go on with the further storage: --storage-path {best.address}"
    raise StorageAwayError(
        f"{storage.absence} `kropotcli verify --repair` then records each of them as lost, and it is fetched "
        f"again{others}"
    )
