"""The table of further storages (docs/decisions/0041-further-storages.md)."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, MetaData, Table

from ledger.sql.schema import number, octets, text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create an empty table, unless an interrupted upgrade left it on a database that cannot undo CREATE TABLE."""
    metadata = MetaData()
    Table(
        "further_storage",
        metadata,
        Column("id", octets(16), primary_key=True),
        Column("address", text(4096), nullable=False),
        Column("position", number(), nullable=False),
        Column("freed", number(), nullable=False),
        Column("kept_us", number(), nullable=False),
    )
    metadata.create_all(op.get_bind())
