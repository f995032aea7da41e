"""The guards tie the head to the events, and guard `batch` everywhere (docs/decisions/0008-guards-of-the-ledger.md)."""

from __future__ import annotations

from alembic import op

from ledger.sql.guards import renew

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Replace the old triggers with the newest ones. No table and no row changes."""
    renew(op.get_bind())
