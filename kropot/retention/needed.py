"""Whether the ledger needs what lies under a key in a storage, for whoever is about to remove versions of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.rows import RELEASED

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.log import Ledger


def needed_in(ledger: Ledger) -> Callable[[str], bool]:
    """Return what says of a key in a storage whether the ledger needs what is there, or does not know what that is.

    Objects are needed while an element has a copy of them, packs while the ledger knows them.
    """

    def is_needed(key: str) -> bool:
        name = key.rpartition("/")[2].partition(".")[0]
        try:
            sha256 = bytes.fromhex(name)
        except ValueError:
            return True
        if key.startswith("packs/") or key.endswith(".pack"):
            return any(row.name == sha256 for row in ledger.places.packs())
        is_object = key.startswith(("objects/", "freed/", "quarantine/"))
        return not is_object or any(row.state != RELEASED for row in ledger.projection.named([sha256]))

    return is_needed
