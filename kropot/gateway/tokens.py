"""The tokens: creates, finds, lists and revokes them. Their secrets are stored sealed."""

from __future__ import annotations

import hmac
import json
import os
import time
import uuid
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from kropot.errors import KropotError, UsageError, WrongKeyError
from kropot.gateway.ivs import IV_KEY_BYTES
from kropot.gateway.revocations import Revocations, RevocationsError
from kropot.gateway.state import TokenExistsError
from kropot.gateway.token import Token, as_token
from kropot.gateway.tokenspec import (
    CIPHER,
    DIGEST,
    KEY,
    PADDING,
    PADME,
    ROUNDS,
    SALT,
    TokenSealing,
    TokenSpec,
    VaultSealing,
    parse_spec,
    shown_time,
)
from kropot.gateway.vaults import VaultBook
from kropot.logs import log
from kropot.sc2.kit import OwnerKit
from kropot.sc2.kits import STORED_SALT
from kropot.sc2.layout import METHOD as SC2
from kropot.secret import repr_without
from kropot.securecopy.sealing import METHOD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.gateway.keys import MasterKey
    from kropot.gateway.state import State, TokenRow


ROUNDS_OF_MADE_KEYS: Final = 4
"""PBKDF2 rounds for a key of 256 random bits. Nobody can guess such a key, so more rounds would only cost time."""

REMEMBERED_S: Final = 1.0
"""How long a token is trusted before the next look-up. Revocations by other processes apply within a second."""

_MOST_REMEMBERED = 4096
_LONGEST_TOKEN = 512


class Created(Struct, frozen=True, kw_only=True):
    """A new token. If its key was to be kept, also the kit and the path of its file.

    The kit of a CBC token is the request's JSON with the key in it; a token of sc2 has a `vault_kit` instead. `warning`
    says what is weak about a passphrase that was given.
    """

    token: Token
    warning: str | None
    kit: dict[str, Any] | None
    kit_path: Path | None
    vault_kit: OwnerKit | None

    __repr__ = repr_without("kit", "vault_kit")


class TokenBook:
    """All tokens of one gateway."""

    def __init__(
        self,
        state: State,
        master: MasterKey,
        *,
        clock_s: Callable[[], int] = lambda: int(time.time()),
        monotonic: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
        revocations: Revocations | None = None,
    ) -> None:
        """Use the tokens in `state`. A token that is in `revocations` is revoked, whatever the database says.

        Raises:
            WrongKeyError: the database was made with another master key.
        """
        self._state = state
        self._master = master
        self._clock_s = clock_s
        self._monotonic = monotonic
        self._entropy = entropy
        self._revocations = revocations or Revocations(None)
        self._remembered: dict[bytes, tuple[float, Token]] = {}
        self.vaults = VaultBook(state, master, self._revocations, clock_s=clock_s, entropy=entropy)
        check = state.key_check()
        if check is None:
            state.keep_key_check(master.check)
            check = state.key_check() or b""
        if not hmac.compare_digest(check, master.check):
            raise WrongKeyError(
                f"the master key does not belong to the gateway's database {state.place}: use the key that the "
                "database was made with"
            )

    def source_root(self) -> bytes | None:
        """Return the path of the folder that these tokens give access to, or None if it was never served."""
        return self._state.source().root

    def create(
        self,
        value: Any,
        keep_kit: Callable[[dict[str, Any] | OwnerKit], Path] | None = None,
        *,
        keeps_given_key: bool = False,
        vault: str | None = None,
    ) -> Created:
        """Create the token that decoded JSON asks for.

        If the gateway makes the key, it first passes the kit to `keep_kit`, which returns its path. Without a kept key,
        the token would seal copies that nobody can open. With `keeps_given_key`, a given key is kept as well. `vault`
        is the beginning of the id of an existing vault; without it, a token of sc2 gets a new one.

        Raises:
            SpecError: the request is not valid.
            UsageError: there is no such vault, or the token needs none.
            TokenExistsError: a token with this id exists already, or one existed and was revoked.
            OSError: the kit could not be written, so no token was created.
        """
        now_s = self._clock_s()
        spec = parse_spec(value, now_s=now_s, rounds_of_made_keys=ROUNDS_OF_MADE_KEYS)
        token_id = spec.id or str(uuid.UUID(bytes=self._entropy(16), version=4)).upper()
        lookup = self._master.lookup(token_id)
        if self._revocations.has(lookup):
            raise TokenExistsError("a token with this id was revoked: choose another id, or none")
        record = self._record(spec, token_id, lookup)
        kit, vault_kit, new_vault = None, None, None
        if isinstance(spec.sealing, VaultSealing):
            if vault is None:
                opened, new_vault = self.vaults.make()
            else:
                opened = self.vaults.named(vault).vault
            record["vault"] = opened.id.hex()
            if new_vault is not None or keeps_given_key:
                vault_kit = OwnerKit(vault=opened)
        elif vault is not None:
            raise UsageError("only tokens of sc2 have a vault: remove --vault or the secureCopy... fields")
        elif spec.sealing is not None and (spec.sealing.passphrase is None or keeps_given_key):
            kit = kit_of(record)
        sealed = self._master.seal(json.dumps(record).encode(), bound_to=lookup, entropy=self._entropy)
        kept = kit or vault_kit
        path = None if kept is None or keep_kit is None else keep_kit(kept)
        try:
            number = self._state.add_token(lookup, sealed, now_s, new_vault)
        except KropotError:
            if path is not None:
                path.unlink(missing_ok=True)
            raise
        return Created(
            token=self._as_token(record, number=number, revoked_s=None),
            warning=spec.sealing.warning if isinstance(spec.sealing, TokenSealing) else None,
            kit=kit,
            kit_path=path,
            vault_kit=vault_kit,
        )

    def find(self, presented: str) -> Token | None:
        """Return the token with this id, even if it is expired or revoked, or None if there is none."""
        return self.remembered(presented) or self.load(presented)

    def remembered(self, presented: str) -> Token | None:
        """Return the token if it was looked up within the last second, without using the database."""
        lookup = self._lookup(presented)
        found = None if lookup is None else self._remembered.get(lookup)
        if found is None or self._monotonic() - found[0] > REMEMBERED_S:
            return None
        return found[1] if hmac.compare_digest(found[1].id.encode(), presented.encode()) else None

    def load(self, presented: str) -> Token | None:
        """Look up a token in the database."""
        lookup = self._lookup(presented)
        asked = self._monotonic()
        row = None if lookup is None else self._state.token(lookup)
        if row is None or lookup is None:
            return None
        token = self._open(row)
        if not hmac.compare_digest(token.id.encode(), presented.encode()):
            return None
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[lookup] = (asked, token)
        return token

    def all(self) -> list[Token]:
        """Return all tokens, oldest first."""
        return [self._open(row) for row in self._state.tokens()]

    def revoke(self, which: str) -> Token:
        """Revoke the token with this id, or with this number as in `all`.

        Raises:
            UsageError: there is no such token.
            RevocationsError: it is revoked, but only in the database.
        """
        found = self.load(which)
        if found is None and which.isascii() and which.isdigit():
            found = next((token for token in self.all() if token.number == int(which)), None)
        if found is None:
            raise UsageError("no token has this id or number: find its number with `kropotcli gateway token list`")
        self._state.revoke(found.number, self._clock_s())
        self._remembered.clear()
        self._revocations.keep(self._master.lookup(found.id))
        return found

    def agree_on_revocations(self) -> None:
        """Copy revocations from the database to the folder, and from the folder to the database.

        Another user might have revoked a token with another folder, or the database might be an older copy.

        Raises:
            RevocationsError: the folder cannot be read. A folder that cannot be written to is only logged.
        """
        again, is_kept = 0, True
        for row in self._state.tokens():
            is_here = self._revocations.has(row.lookup)
            if row.revoked_s is None and is_here:
                self._state.revoke(row.number, self._clock_s())
                again += 1
            elif row.revoked_s is not None and not is_here and is_kept:
                try:
                    self._revocations.keep(row.lookup)
                except RevocationsError as error:
                    log.warning("revocations_not_kept", reason=str(error))
                    is_kept = False
        if again:
            log.warning(
                "tokens_revoked_again", count=again, hint="the database is an older copy, or somebody changed it"
            )

    def _lookup(self, presented: str) -> bytes | None:
        """Return the keyed hash of a presented text, or None if the text cannot be a token."""
        if not 0 < len(presented) <= _LONGEST_TOKEN or not presented.isascii():
            return None
        return self._master.lookup(presented)

    def _open(self, row: TokenRow) -> Token:
        record = json.loads(self._master.open(row.sealed, bound_to=row.lookup))
        revoked_s = row.revoked_s
        if revoked_s is None and self._revocations.has(row.lookup):
            revoked_s = row.created_s
        return self._as_token(record, number=row.number, revoked_s=revoked_s)

    def _as_token(self, record: dict[str, Any], *, number: int, revoked_s: int | None) -> Token:
        held = self.vaults.held(bytes.fromhex(record["vault"])) if "vault" in record else None
        return as_token(record, number=number, revoked_s=revoked_s, held=held)

    def _record(self, spec: TokenSpec, token_id: str, lookup: bytes) -> dict[str, Any]:
        """Return the record of a token that the database keeps sealed."""
        data: dict[str, Any] = {
            "tags": list(spec.tags),
            "allowedMimeTypes": list(spec.mime_types),
            "maxAllowedFileSize": spec.max_file_size,
            "allowedIpAddresses": list(spec.ip_addresses),
            "allowedUserAgents": list(spec.user_agents),
            KEY: "",
            CIPHER: "",
            DIGEST: "",
            ROUNDS: 0,
            SALT: "",
        }
        stored = {KEY: "", SALT: ""}
        if isinstance(spec.sealing, VaultSealing):
            data |= {CIPHER: SC2} | ({PADDING: PADME} if spec.sealing.padding else {})
        elif spec.sealing is not None:
            data[KEY] = spec.sealing.passphrase or self._entropy(32).hex()
            data[SALT] = spec.sealing.salt or self._entropy(16).hex()
            data |= {CIPHER: METHOD, DIGEST: spec.sealing.digest, ROUNDS: spec.sealing.rounds}
            stored = {
                name: b64encode(
                    self._master.seal(data[name].encode(), bound_to=lookup + name.encode(), entropy=self._entropy)
                ).decode()
                for name in (KEY, SALT)
            }
        return {
            "id": token_id,
            "roles": list(spec.roles),
            "expires_s": spec.expires_s,
            "data": data,
            "stored": stored,
            "iv_key": self._entropy(IV_KEY_BYTES).hex(),
        }


def shown_token(token: Token, *, now_s: int) -> dict[str, Any]:
    """Return the token as the answer to its creation shows it: with key and salt in sealed form only."""
    return {
        "id": token.id,
        "active": token.revoked_s is None,
        "expired": now_s >= token.expires_s,
        "expires": shown_time(token.expires_s),
        "data": token.shown,
        "roles": sorted(token.roles),
        "idIsCensored": False,
    }


def censored(token_id: str) -> str:
    """Return the part of a token's id that can be shown: enough to tell tokens apart, not enough to use one."""
    return f"{token_id[:8]}-****"


def kit_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the kit: the complete documented JSON, with the key in clear text.

    With the stored salt, a restore can compare each element's id with the path in its form.
    """
    return {
        "id": record["id"],
        "roles": record["roles"],
        "expires": shown_time(record["expires_s"]),
        "data": record["data"],
        STORED_SALT: record["stored"][SALT],
    }
