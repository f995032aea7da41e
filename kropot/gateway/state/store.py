"""The gateway's database, as the rest of the gateway uses it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kropot.gateway.state import tables
from kropot.gateway.state.files import Files
from kropot.gateway.state.rows import ServedSourceRow, TokenExistsError, TokenRow, VaultRow
from kropot.gateway.state.vaults import Vaults, insert_vault


class State(Files, Vaults):
    """The database of one gateway: the catalogue, the source, the vaults and the tokens.

    The caller passes the time in. Nothing here reads a clock.
    """

    # --- the master key's check, the source ---------------------------------------------------------------------------

    def key_check(self) -> bytes | None:
        """Return the `MasterKey.check` that the database is bound to, or None if it is not bound yet."""
        with self.read() as at:
            return at.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == "key_check"))

    def keep_key_check(self, check: bytes) -> None:
        """Bind the database to a master key. Later calls change nothing."""
        with self.write() as at:
            if at.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == "key_check")) is None:
                at.execute(tables.meta.insert().values(name="key_check", value=check))

    def source(self) -> ServedSourceRow:
        """Return the source's current row."""
        with self.read() as at:
            row = at.execute(sa.select(tables.source).where(tables.source.c.number == 1)).one()
        return ServedSourceRow(uid=row.uid, root=row.root, last_date=row.last_date, is_ready=row.is_ready)

    def keep_root(self, root: bytes) -> None:
        """Store the path of the source."""
        with self.write() as at:
            at.execute(tables.source.update().values(root=root))

    def mark(self) -> bytes | None:
        """Return the `FolderSource.mark` of the folder that last held files, or None."""
        return self.value("mark")

    def keep_mark(self, mark: bytes) -> None:
        """Store a `FolderSource.mark`."""
        self.keep_value("mark", mark)

    def unserved(self) -> bytes | None:
        """Return what the last whole scan did not serve, as it was stored."""
        return self.value("unserved")

    def keep_unserved(self, value: bytes) -> None:
        """Store what a whole scan did not serve."""
        self.keep_value("unserved", value)

    def value(self, name: str) -> bytes | None:
        """Return a small value that was stored under a name of up to 32 characters, or None."""
        with self.read() as at:
            return at.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == name))

    def keep_value(self, name: str, value: bytes) -> None:
        """Store a small value under a name of up to 32 characters."""
        with self.write() as at:
            at.execute(tables.meta.delete().where(tables.meta.c.name == name))
            at.execute(tables.meta.insert().values(name=name, value=value))

    # --- tokens -------------------------------------------------------------------------------------------------------

    def add_token(self, lookup: bytes, sealed: bytes, now_s: int, new_vault: VaultRow | None = None) -> int:
        """Store a token, and the vault that was made for it. Return the token's number.

        Raises:
            TokenExistsError: a token with this id exists already.
        """
        try:
            with self.write() as at:
                if new_vault is not None:
                    insert_vault(at, new_vault)
                made = at.execute(tables.token.insert().values(lookup=lookup, sealed=sealed, created_s=now_s))
                key = made.inserted_primary_key
        except sa.exc.IntegrityError:
            raise TokenExistsError("a token with this id already exists: choose another id, or none") from None
        return 0 if key is None else int(key[0])

    def token(self, lookup: bytes) -> TokenRow | None:
        """Return the token with this keyed hash, or None."""
        with self.read() as at:
            row = at.execute(sa.select(tables.token).where(tables.token.c.lookup == lookup)).one_or_none()
        return None if row is None else _as_token(row)

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, oldest first."""
        with self.read() as at:
            return [_as_token(row) for row in at.execute(sa.select(tables.token).order_by(tables.token.c.number))]

    def revoke(self, number: int, now_s: int) -> None:
        """Revoke a token for good. A second call does not change the time."""
        with self.write() as at:
            at.execute(
                tables.token.update()
                .where(tables.token.c.number == number, tables.token.c.revoked_s.is_(None))
                .values(revoked_s=now_s)
            )


def _as_token(row: Any) -> TokenRow:
    return TokenRow(
        number=row.number, lookup=row.lookup, sealed=row.sealed, created_s=row.created_s, revoked_s=row.revoked_s
    )
