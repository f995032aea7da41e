"""A vault: the key domain that tokens may share. Ids, versions and each object's keys are derived from it. Pure."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.errors import UsageError
from kropot.sc2.keyed import KeyedHash, keyed_hash
from kropot.sc2.layout import KEY_ID_BYTES, VAULT_BYTES, ObjectHeader, bound_part
from kropot.sc2.refused import NoKeyError, Reason, RefusedError
from kropot.secret import repr_without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KEY_BYTES: Final = 32
MAX_MASTERS: Final = 256

_HASH: Final = "sha256"
_KEY_ID: Final = b"kropot sc2 key id"
_ELEMENT: Final = b"element"
_VERSION: Final = b"version"
_COMMITMENT: Final = b"kropot sc2 commitment\x01"
_NONCES: Final = b"kropot sc2 nonces\x01"
_SEALING: Final = b"kropot sc2 sealing\x01"


class ObjectKeys(Struct, frozen=True, kw_only=True):
    """The keys of one version of one element: `seal` for AES-256-GCM, `nonce` for its nonces. `head` is its header."""

    header: ObjectHeader
    head: bytes
    seal: bytes
    nonce: bytes

    __repr__ = repr_without("head", "seal", "nonce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """The keys of a vault: `id` (16 bytes), two keys for life, and the content masters (32 bytes each, oldest first).

    The newest master seals; all of them open. Raises UsageError for keys of a wrong length or number.
    """

    id: bytes
    id_key: bytes = field(repr=False)
    etag_key: bytes = field(repr=False)
    masters: tuple[bytes, ...] = field(repr=False)
    key_ids: tuple[bytes, ...] = field(init=False, repr=False)
    _ids: KeyedHash = field(init=False, repr=False, compare=False)
    _etags: KeyedHash = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the keys, and compute the ids of the masters."""
        keys = (self.id_key, self.etag_key, *self.masters)
        if len(self.id) != VAULT_BYTES or any(len(key) != KEY_BYTES for key in keys):
            raise UsageError(f"a vault's id has {VAULT_BYTES} bytes, and each of its keys {KEY_BYTES}")
        if not 1 <= len(self.masters) <= MAX_MASTERS or len(set(keys)) != len(keys):
            raise UsageError(f"a vault has 1 to {MAX_MASTERS} content masters, and no key twice")
        named = tuple(hmac.digest(master, _KEY_ID + self.id, _HASH)[:KEY_ID_BYTES] for master in self.masters)
        object.__setattr__(self, "key_ids", named)
        object.__setattr__(self, "_ids", KeyedHash(self.id_key))
        object.__setattr__(self, "_etags", KeyedHash(self.etag_key))

    @classmethod
    def make(cls, *, entropy: Callable[[int], bytes] = os.urandom) -> Vault:
        """Return a new vault with one content master."""
        return cls(
            id=entropy(VAULT_BYTES),
            id_key=entropy(KEY_BYTES),
            etag_key=entropy(KEY_BYTES),
            masters=(entropy(KEY_BYTES),),
        )

    def with_new_master(self, *, entropy: Callable[[int], bytes] = os.urandom) -> Vault:
        """Return the vault with one more master, which seals from now on. Older kits do not open what it seals."""
        return replace(self, masters=(*self.masters, entropy(KEY_BYTES)))

    def element(self, path: bytes) -> bytes:
        """Return the id (32 bytes) of the element with this path."""
        return self._ids(_ELEMENT + path)

    def version(self, nonce: bytes) -> bytes:
        """Return the version (32 bytes) for a nonce of the catalogue. Another vault gives the nonce another version."""
        return self._etags(_VERSION + nonce)

    def keys(self, *, source: bytes, element: bytes, version: bytes, key_id: bytes | None = None) -> ObjectKeys:
        """Return the keys that seal one version of an element, from the newest master or the one with this id.

        Under another master, a version has another entity tag, and so is another object.

        Raises:
            NoKeyError: this vault has no master with this id.
        """
        return self._keys(self.id, source, element, self.key_ids[-1] if key_id is None else key_id, version)

    def keys_of(self, header: ObjectHeader) -> ObjectKeys:
        """Return the keys that open an object with this header. This proves that the header is as its sealer wrote it.

        Raises:
            NoKeyError: the object belongs to another vault, or this one has no such master.
            RefusedError: the header was altered, or commits to another key.
        """
        if header.vault != self.id:
            raise NoKeyError(
                Reason.VAULT, f"it belongs to the vault {header.vault.hex()}: give the kit of that vault with --key"
            )
        found = self._keys(*header[:-1])
        if not hmac.compare_digest(found.header.commitment, header.commitment):
            raise RefusedError(Reason.COMMITMENT, "its header was altered, or it was sealed with another key")
        return found

    def _keys(self, vault: bytes, source: bytes, element: bytes, key_id: bytes, version: bytes) -> ObjectKeys:
        """Derive keys from a master and the whole header before the commitment (HKDF-SHA256, RFC 5869).

        No two headers share a key, so a nonce can repeat only for the same bytes in the same place of the same object.
        """
        if key_id not in self.key_ids:
            raise NoKeyError(
                Reason.KEY, f"this kit of the vault {self.id.hex()} has no key {key_id.hex()}: give a newer kit"
            )
        bound = bound_part(vault, source, element, key_id, version)
        expand = KeyedHash(keyed_hash(bound, self.masters[self.key_ids.index(key_id)]))
        commitment = expand(_COMMITMENT)
        return ObjectKeys(
            header=ObjectHeader(vault, source, element, key_id, version, commitment),
            head=bound + commitment,
            seal=expand(_SEALING),
            nonce=expand(_NONCES),
        )


def keyring(vaults: Iterable[Vault]) -> dict[bytes, Vault]:
    """Return vaults by their ids. An older and a newer kit of one vault are merged.

    Raises:
        UsageError: two kits of the same vault have different keys for life.
    """
    ring: dict[bytes, Vault] = {}
    for each in vaults:
        held = ring.setdefault(each.id, each)
        if (held.id_key, held.etag_key) != (each.id_key, each.etag_key):
            raise UsageError(f"two kits of the vault {each.id.hex()} have different keys: one of them is forged")
        masters = tuple(dict.fromkeys((*held.masters, *each.masters)))
        if masters != held.masters:
            ring[each.id] = replace(held, masters=masters)
    return ring
