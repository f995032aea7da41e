"""Make the tokens of a keeper, find them by their keyed hashes, and revoke them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.errors import UsageError, WrongKeyError
from kropot.keeper.state import KeeperState, KeeperTokenRow
from kropot.keeper.visitor import Role, Visitor
from kropot.serving.keyfile import read_key, write_new_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TOKEN_BYTES: Final = 32
_LONGEST: Final = 256
_KEY: Final = "keeper's key"


class MadeToken(Struct, frozen=True, kw_only=True):
    """A new token. Only this holds its text, because the database has just a keyed hash of it."""

    text: str
    row: KeeperTokenRow


class KeeperTokens:
    """All tokens of one keeper."""

    def __init__(
        self, state: KeeperState, key: bytes, *, clock_s: Callable[[], int] = lambda: int(time.time())
    ) -> None:
        """Use the tokens in `state`, whose hashes were made with `key` (32 bytes).

        Raises: WrongKeyError if they were made with another key.
        """
        self._state = state
        self._key = key
        self._clock_s = clock_s
        check = hmac.digest(key, b"check", hashlib.sha256)
        known = state.key_check()
        if not known:
            state.keep_key_check(check)
        elif not hmac.compare_digest(known, check):
            raise WrongKeyError(
                f"the tokens in {state.path} were made with a different key than the one beside it: put the right key "
                "file back"
            )

    def make(
        self,
        role: Role,
        *,
        label: str | None = None,
        expires_s: int | None = None,
        sources: tuple[bytes, ...] | None = None,
    ) -> MadeToken:
        """Make a token and store its hash. `sources` (16 bytes each) bind it; None means all.

        Raises: UsageError if `sources` are given for a role other than owner.
        """
        if sources is not None and role is not Role.OWNER:
            raise UsageError(f"only an owner's token is bound to sources, and this role is {role}: leave out --source")
        text = secrets.token_urlsafe(_TOKEN_BYTES)
        mac = self._mac(text)
        self._state.add(mac, role=str(role), label=label, sources=sources, now_s=self._clock_s(), expires_s=expires_s)
        row = self._state.find(mac)
        if row is None:
            raise UsageError(f"the token that was made is not in {self._state.path}: another program changes this file")
        return MadeToken(text=text, row=row)

    def visitor(self, text: str) -> Visitor | None:
        """Return the visitor whom this token admits, None if the token is not valid."""
        if len(text) > _LONGEST:
            return None
        mac = self._mac(text)
        row = self._state.find(mac)
        if row is None or not hmac.compare_digest(row.mac, mac) or self.status(row) != "active":
            return None
        sources = None if row.sources is None else frozenset(row.sources)
        return Visitor(number=row.number, role=Role(row.role), label=row.label, sources=sources)

    def all(self) -> list[KeeperTokenRow]:
        """Return all tokens, the oldest first."""
        return self._state.all()

    def revoke(self, number: int) -> KeeperTokenRow:
        """Revoke a token. A running keeper rejects it at once. Raises: UsageError for an unknown number."""
        if not self._state.revoke(number, self._clock_s()):
            raise UsageError(f"there is no token with the number {number}: find it with `kropotcli keeper token list`")
        return next(row for row in self._state.all() if row.number == number)

    def status(self, row: KeeperTokenRow) -> str:
        """Return whether a token is `active`, `expired` or `revoked`."""
        if row.revoked_s is not None:
            return "revoked"
        return "expired" if row.expires_s is not None and row.expires_s <= self._clock_s() else "active"

    def _mac(self, text: str) -> bytes:
        return hmac.digest(self._key, b"token\x00" + text.encode("utf-8", "surrogatepass"), hashlib.sha256)


def open_tokens(path: Path, *, create: bool = False) -> KeeperTokens:
    """Open the tokens in the database at `path`, with the key in the file next to it (its name with .key added).

    With `create`, missing files are created, but not a key that the database already refers to.

    Raises:
        NoLedgerError: there is no database.
        WrongKeyError: the key is missing, or is the wrong one.
        UsageError, KeeperStateError: the key file, or the database, cannot be used.
    """
    state = KeeperState(path, create=create)
    key_file = path.with_name(path.name + ".key")
    if key_file.exists():
        return KeeperTokens(state, read_key(key_file, _KEY))
    if not create or state.key_check():
        raise WrongKeyError(
            f"the key {key_file} is missing, and the tokens in {path} are valid only with it: put the file back, or "
            "move the database away and make new tokens"
        )
    try:
        return KeeperTokens(state, write_new_key(key_file))
    except FileExistsError:
        # Another process was faster.
        return KeeperTokens(state, read_key(key_file, _KEY))
    except OSError as error:
        raise UsageError(
            f"the key {key_file} cannot be written ({error.strerror}): name another file with --state"
        ) from error
