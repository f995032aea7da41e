"""The tables of packs and of placements in them (docs/decisions/0025-packs.md)."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, MetaData, Table, UniqueConstraint

from ledger.sql.schema import number, octets, text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create two empty tables, unless an interrupted upgrade left them on a database that cannot undo CREATE TABLE."""
    metadata = MetaData()
    Table(
        "pack",
        metadata,
        Column("number", number(), primary_key=True, autoincrement=False),
        Column("place", text(255), nullable=False),
        Column("name", octets(32), nullable=True),
        Column("objects", number(), nullable=False),
        Column("bytes", number(), nullable=False),
        UniqueConstraint("place", "name", name="pack_place_name"),
    )
    Table(
        "placement",
        metadata,
        Column("sha256", octets(32), primary_key=True),
        Column("pack", number(), primary_key=True, autoincrement=False),
        Column("start", number(), nullable=False),
        Column("length", number(), nullable=False),
        sqlite_with_rowid=False,
    )
    metadata.create_all(op.get_bind())
