"""Where a ledger's signing key is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def default_key_path(ledger_id: bytes) -> Path:
    """Return where a ledger's signing key is kept unless the user names another file: never in the database."""
    import platformdirs

    return platformdirs.user_config_path("kropotcli") / f"checkpoint-{ledger_id.hex()}.key"
