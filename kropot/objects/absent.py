"""A storage whose objects are all away at once: rather a disk that is not mounted than a loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kropot.errors import KropotError
from kropot.objects.layout import Layout
from ledger.rows import RELEASED

if TYPE_CHECKING:
    from ledger.log import Ledger


class StorageAwayError(KropotError):
    """There is no folder of objects where the ledger's are to be; nothing is believed of it."""


def demand_objects(storage: Path, ledger: Ledger) -> None:
    """Return if there is a folder of objects below `storage`, or the ledger names none.

    MUST be called before anything is made there, or recorded as lost: an audit would otherwise record every copy as
    lost, for ever, and a collector would begin a second storage below the place where a disk is to be mounted.

    Raises: StorageAwayError.
    """
    folder = Layout(str(storage.absolute())).objects
    if Path(folder).is_dir() or all(row.state == RELEASED for row in ledger.copies()):
        return
    raise StorageAwayError(
        f"there is no folder {folder}, and the ledger names objects in it: is the disk mounted, and --storage-path the"
        " right one? Nothing was recorded. If they are lost for good, make that folder: `kropotcli verify --repair`"
        " then records each of them as lost and has it fetched again"
    )
