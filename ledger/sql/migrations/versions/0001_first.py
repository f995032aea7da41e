"""The first schema. It is empty: `ledger/sql/schema.py` creates new ledgers, and later revisions only ALTER them."""

from __future__ import annotations

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Change nothing: no ledger is older than this."""
