"""The default path of a ledger's signing key."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def default_key_path(ledger_id: bytes) -> Path:
    """Return the default path of a ledger's signing key. The key is never kept in the database."""
    import platformdirs

    return platformdirs.user_config_path("kropotcli") / f"checkpoint-{ledger_id.hex()}.key"
