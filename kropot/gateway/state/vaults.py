"""The vaults' rows, with their keys in sealed form only."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kropot.gateway.state import tables
from kropot.gateway.state.rows import VaultRow
from kropot.gateway.state.transactions import Transactions


class Vaults(Transactions):
    """The vaults of one gateway."""

    def vault(self, uid: bytes) -> VaultRow | None:
        """Return the vault with this id (16 bytes), or None."""
        with self.read() as at:
            row = at.execute(sa.select(tables.vault).where(tables.vault.c.uid == uid)).one_or_none()
        return None if row is None else _as_vault(row)

    def vaults(self) -> list[VaultRow]:
        """Return all vaults, oldest first."""
        with self.read() as at:
            return [_as_vault(row) for row in at.execute(sa.select(tables.vault).order_by(tables.vault.c.number))]

    def exchange_vault(self, row: VaultRow, sealed: bytes) -> bool:
        """Replace the sealed keys of a vault. Return False, and change nothing, if another command was faster."""
        with self.write() as at:
            kept = at.scalar(sa.select(tables.vault.c.sealed).where(tables.vault.c.number == row.number))
            if kept != row.sealed:
                return False
            at.execute(tables.vault.update().where(tables.vault.c.number == row.number).values(sealed=sealed))
            return True


def insert_vault(at: sa.Connection, row: VaultRow) -> None:
    """Store a new vault in an open transaction."""
    at.execute(tables.vault.insert().values(uid=row.uid, sealed=row.sealed, created_s=row.created_s))


def _as_vault(row: Any) -> VaultRow:
    return VaultRow(number=row.number, uid=row.uid, sealed=row.sealed, created_s=row.created_s)
