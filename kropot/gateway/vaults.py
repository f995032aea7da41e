"""Makes, finds and rotates the vaults of a gateway. Their keys are stored sealed and bound to the vault's id."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kropot.errors import KropotError, UsageError
from kropot.gateway.state import VaultRow
from kropot.sc2.kit import OwnerKit, read_fields
from kropot.sc2.vault import MAX_MASTERS, Vault
from kropot.securecopy.wire import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.gateway.keys import MasterKey
    from kropot.gateway.revocations import Revocations
    from kropot.gateway.state import State


class RetiredMasterError(KropotError):
    """The newest master that the database has for a vault was retired, so nothing may be sealed with it."""

    http_status = 503


class HeldVault(Struct, frozen=True, kw_only=True):
    """A vault that the gateway holds: its number in the database, when it was made, and its keys."""

    number: int
    created_s: int
    vault: Vault


class VaultBook:
    """All vaults of one gateway."""

    def __init__(
        self,
        state: State,
        master: MasterKey,
        revocations: Revocations,
        *,
        clock_s: Callable[[], int] = lambda: int(time.time()),
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Use the vaults in `state`. A master that `revocations` names as retired no longer seals anything."""
        self._state = state
        self._master = master
        self._revocations = revocations
        self._clock_s = clock_s
        self._entropy = entropy
        self._opened: dict[bytes, tuple[bytes, Vault]] = {}

    def make(self) -> tuple[Vault, VaultRow]:
        """Return a new vault, and its row, which still has to be stored."""
        vault = Vault.make(entropy=self._entropy)
        return vault, VaultRow(number=0, uid=vault.id, sealed=self._sealed(vault), created_s=self._clock_s())

    def held(self, uid: bytes) -> HeldVault:
        """Return the vault with this id (16 bytes).

        Raises:
            UsageError: there is none.
            WrongKeyError: its keys were sealed with another master key, or for another vault, or are damaged.
        """
        row = self._state.vault(uid)
        if row is None:
            raise UsageError(f"the gateway's database has no vault {uid.hex()}: use a newer copy of the database")
        return self._open(row)

    def all(self) -> list[HeldVault]:
        """Return all vaults, oldest first."""
        return [self._open(row) for row in self._state.vaults()]

    def named(self, beginning: str) -> HeldVault:
        """Return the only vault whose id begins with these hexadecimal digits.

        Raises:
            UsageError: none does, or several do.
        """
        wanted = beginning.lower()
        found = [row for row in self._state.vaults() if wanted and row.uid.hex().startswith(wanted)]
        if len(found) != 1:
            which = "no vault has" if not found else f"{len(found)} vaults have"
            raise UsageError(
                f"{which} an id that begins with {beginning[:40]!a}: find the id with `kropotcli gateway vault list`"
            )
        return self._open(found[0])

    def refuse_retired(self, vault: Vault) -> None:
        """Refuse to seal with a master that was retired: the database is an older copy, or somebody changed it.

        Raises:
            RetiredMasterError: the vault's newest master was retired.
            RevocationsError: this is unknown, because the folder of revoked tokens cannot be read.
        """
        if self._revocations.has(self._mark_of(vault.key_ids[-1])):
            raise RetiredMasterError(
                f"the database has only retired masters of the vault {vault.id.hex()}, so it is an older copy: put the "
                "newer one back, or make a new master with `kropotcli gateway vault rotate`"
            )

    def rotate(self, beginning: str, keep_kit: Callable[[OwnerKit], Path]) -> tuple[HeldVault, Path]:
        """Give a vault a new master that seals all versions born from now on. Return the vault and its new kit's path.

        `keep_kit` gets the kit first: without it, nobody could open what the new master seals.

        Raises:
            UsageError: there is no such vault, or it has as many masters as it can have.
            KropotError: another command changed the vault meanwhile.
            RevocationsError: it is rotated, but an older copy of the database would bring the old master back.
            OSError: the kit could not be written, so nothing was changed.
        """
        before = self.named(beginning)
        if len(before.vault.masters) >= MAX_MASTERS:
            raise UsageError(
                f"the vault {before.vault.id.hex()} already has {MAX_MASTERS} masters: make a token with a new vault"
            )
        vault = before.vault.with_new_master(entropy=self._entropy)
        row = self._state.vault(vault.id)
        path = keep_kit(OwnerKit(vault=vault))
        is_same = row is not None and self._open(row) == before
        if row is None or not is_same or not self._state.exchange_vault(row, self._sealed(vault)):
            path.unlink(missing_ok=True)
            raise KropotError("another command changed the vault at the same time, so nothing was done: try again")
        self._revocations.keep(self._mark_of(before.vault.key_ids[-1]))
        return HeldVault(number=before.number, created_s=before.created_s, vault=vault), path

    def _sealed(self, vault: Vault) -> bytes:
        plain = canonical_json(OwnerKit(vault=vault).fields())
        return self._master.seal(plain, bound_to=_binding(vault.id), entropy=self._entropy)

    def _open(self, row: VaultRow) -> HeldVault:
        """Return a vault. Its keys are opened again only if they change."""
        kept = self._opened.get(row.uid)
        if kept is None or kept[0] != row.sealed:
            fields: dict[str, Any] = json.loads(self._master.open(row.sealed, bound_to=_binding(row.uid)))
            vault = read_fields(fields, "in the gateway's database").vault
            if vault is None:
                raise KropotError(f"the gateway's database holds no keys of the vault {row.uid.hex()}")
            kept = self._opened[row.uid] = (row.sealed, vault)
        return HeldVault(number=row.number, created_s=row.created_s, vault=kept[1])

    def _mark_of(self, key_id: bytes) -> bytes:
        """Return the keyed hash under which the folder of revoked tokens names a retired master."""
        return self._master.lookup(f"retired master {key_id.hex()}")


def _binding(uid: bytes) -> bytes:
    """Return what a vault's sealed keys are bound to. Tokens are bound to 32 bytes, so neither passes for the other."""
    return b"vault" + uid
