"""The default path of a ledger's signing key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.user_folders import config_folder

if TYPE_CHECKING:
    from pathlib import Path


def default_key_path(ledger_id: bytes) -> Path | None:
    """Return the default path of a ledger's signing key, None for a user without a home.

    The key is never kept in the database.
    """
    folder = config_folder()
    return None if folder is None else folder / f"checkpoint-{ledger_id.hex()}.key"
