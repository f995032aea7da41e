"""The first schema. Empty: a new ledger is made from `ledger/sql/schema.py` and stamped; later revisions only ALTER."""

from __future__ import annotations

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Change nothing: no ledger is older than this."""
