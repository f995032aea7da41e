"""The gateway's database as the rest of the gateway knows it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kropot.gateway.state import tables
from kropot.gateway.state.files import Files
from kropot.gateway.state.rows import ServedSourceRow, TokenExistsError, TokenRow


class State(Files):
    """The database behind one gateway: besides the catalogue, its source and its tokens.

    Whoever calls passes the time in; nothing here reads a clock.
    """

    # --- the master key's check, the source ---------------------------------------------------------------------------

    def key_check(self) -> bytes | None:
        """Return what `MasterKey.check` was when the database was made, None before that."""
        with self.read() as at:
            return at.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == "key_check"))

    def keep_key_check(self, check: bytes) -> None:
        """Bind the database to a master key, once."""
        with self.write() as at:
            if at.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == "key_check")) is None:
                at.execute(tables.meta.insert().values(name="key_check", value=check))

    def source(self) -> ServedSourceRow:
        """Return the source as it stands."""
        with self.read() as at:
            row = at.execute(sa.select(tables.source).where(tables.source.c.number == 1)).one()
        return ServedSourceRow(uid=row.uid, root=row.root, last_date=row.last_date, is_ready=row.is_ready)

    def keep_root(self, root: bytes) -> None:
        """Write down where the source is."""
        with self.write() as at:
            at.execute(tables.source.update().values(root=root))

    def mark(self) -> bytes | None:
        """Return `Tree.mark` of the folder when files were last seen in it."""
        with self.read() as at:
            return at.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == "mark"))

    def keep_mark(self, mark: bytes) -> None:
        """Write `Tree.mark` down."""
        with self.write() as at:
            at.execute(tables.meta.delete().where(tables.meta.c.name == "mark"))
            at.execute(tables.meta.insert().values(name="mark", value=mark))

    # --- tokens -------------------------------------------------------------------------------------------------------

    def add_token(self, lookup: bytes, sealed: bytes, now_s: int) -> int:
        """Keep a token; return its number.

        Raises:
            TokenExistsError: there is one of this id.
        """
        try:
            with self.write() as at:
                made = at.execute(tables.token.insert().values(lookup=lookup, sealed=sealed, created_s=now_s))
                key = made.inserted_primary_key
        except sa.exc.IntegrityError:
            raise TokenExistsError("there is a token of this id already") from None
        return 0 if key is None else int(key[0])

    def token(self, lookup: bytes) -> TokenRow | None:
        """Return the token of this keyed hash."""
        with self.read() as at:
            row = at.execute(sa.select(tables.token).where(tables.token.c.lookup == lookup)).one_or_none()
        return None if row is None else _as_token(row)

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, oldest first."""
        with self.read() as at:
            return [_as_token(row) for row in at.execute(sa.select(tables.token).order_by(tables.token.c.number))]

    def revoke(self, number: int, now_s: int) -> None:
        """Revoke a token for good; the first time counts."""
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
