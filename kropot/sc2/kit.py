"""What a kit holds: everything that opens a vault, and keys of CBC tokens. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from kropot.errors import UsageError
from kropot.sc2.layout import VAULT_BYTES
from kropot.sc2.vault import KEY_BYTES, MAX_MASTERS, Vault
from kropot.secret import guard, repr_without
from kropot.securecopy.sealing import Kit
from kropot.securecopy.wire import canonical_json
from ledger.errors import BadCheckpointError
from ledger.note import VerifierKey

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = "kropotcli-kit-v2"
MAX_KIT: Final = 256 << 10
"""The longest kit that is read, in bytes."""

MAX_CBC: Final = 256
_MAX_TEXT: Final = 4096
_VAULT_FIELDS: Final = frozenset({"vault", "id_key", "etag_key", "masters"})
_FIELDS: Final = _VAULT_FIELDS | {"format", "cbc", "verifier"}
_CBC_FIELDS: Final = frozenset({"passphrase", "method", "digest", "rounds", "stored_salt"})


class CbcKey(Struct, frozen=True, kw_only=True):
    """The key of one CBC token. `stored_salt` allows comparing an id with the path in its form; None if unknown."""

    kit: Kit
    stored_salt: str | None = None

    __repr__ = repr_without("stored_salt")


class OwnerKit(Struct, frozen=True, kw_only=True):
    """Everything that a kit holds: a vault or None, the keys of CBC tokens, and the gateway's verifier key or None."""

    vault: Vault | None = None
    cbc: tuple[CbcKey, ...] = ()
    verifier: str | None = None

    def __post_init__(self) -> None:
        """Refuse a kit that opens nothing or that could not be read back. Keep its keys out of all output."""
        if self.vault is None and not self.cbc:
            raise UsageError("a kit without a vault and without a token's key opens nothing")
        if len(self.cbc) > MAX_CBC:
            raise UsageError(f"a kit holds the keys of {MAX_CBC} CBC tokens at most: use more than one kit")
        texts = [text for each in self.cbc for text in (each.kit.passphrase, each.stored_salt) if text is not None]
        if not all(0 < len(text) <= _MAX_TEXT and _is_text(text) for text in texts):
            raise UsageError(f"a passphrase or salt in a kit has 1 to {_MAX_TEXT} characters")
        if self.verifier is not None and not _is_verifier(self.verifier):
            raise UsageError("the verifier key in the kit is not valid")
        for each in self.cbc:
            guard(each.kit.passphrase)
        if self.vault is not None:
            for key in (self.vault.id_key, self.vault.etag_key, *self.vault.masters):
                guard(key.hex())

    def encode(self) -> bytes:
        """Return the kit as canonical JSON and a newline. It shows all keys; `lock` hides them behind a passphrase."""
        return canonical_json({"format": FORMAT, **self.fields()}) + b"\n"

    def fields(self) -> dict[str, Any]:
        """Return the kit's fields as they are in JSON."""
        shown: dict[str, Any] = {}
        if self.vault is not None:
            shown["vault"] = self.vault.id.hex()
            shown["id_key"] = self.vault.id_key.hex()
            shown["etag_key"] = self.vault.etag_key.hex()
            shown["masters"] = [master.hex() for master in self.vault.masters]
        if self.cbc:
            shown["cbc"] = [_shown_cbc(each) for each in self.cbc]
        if self.verifier is not None:
            shown["verifier"] = self.verifier
        return shown


def read_fields(found: Mapping[str, Any], name: str) -> OwnerKit:
    """Return the kit whose JSON has these fields. Raises: UsageError."""
    if unknown := found.keys() - _FIELDS:
        raise UsageError(f"the kit {name} has unknown fields ({', '.join(sorted(unknown))[:100]!a}): it was altered")
    vault = None
    if found.keys() & _VAULT_FIELDS:
        masters = found.get("masters")
        if not isinstance(masters, list) or not 1 <= len(masters) <= MAX_MASTERS:
            raise UsageError(f"the kit {name} has no list of 1 to {MAX_MASTERS} masters")
        vault = Vault(
            id=hex_field(found, "vault", VAULT_BYTES, name),
            id_key=hex_field(found, "id_key", KEY_BYTES, name),
            etag_key=hex_field(found, "etag_key", KEY_BYTES, name),
            masters=tuple(hex_field({"masters": each}, "masters", KEY_BYTES, name) for each in masters),
        )
    tokens = found.get("cbc", [])
    if not isinstance(tokens, list):
        raise UsageError(f"the kit {name} does not have a list as cbc")
    verifier = found.get("verifier")
    if not isinstance(verifier, str | None):
        raise UsageError(f"the kit {name} does not have a text as verifier")
    try:
        return OwnerKit(vault=vault, cbc=tuple(_read_cbc(each) for each in tokens), verifier=verifier)
    except UsageError as error:
        raise UsageError(f"the kit {name} cannot be used: {error}") from None


def load_object(text: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in a kit. Raises: UsageError if there is none, or a field occurs twice."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise UsageError(f"the kit {name} is not valid JSON: give the file that the gateway wrote") from None
    if not isinstance(found, dict):
        raise UsageError(f"the kit {name} is not a JSON object: give the file that the gateway wrote")
    return found


def hex_field(found: Mapping[str, Any], field_name: str, size: int, name: str) -> bytes:
    """Return a field of `size` bytes, which are hexadecimal digits in the JSON. Raises: UsageError."""
    value = found.get(field_name)
    try:
        data = bytes.fromhex(value) if isinstance(value, str) and len(value) == 2 * size else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise UsageError(f"the kit {name} has no {2 * size} hexadecimal digits as {field_name}")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found


def _shown_cbc(key: CbcKey) -> dict[str, Any]:
    kit = key.kit
    shown: dict[str, Any] = {"passphrase": kit.passphrase, "digest": kit.digest, "method": kit.method}
    shown["rounds"] = kit.rounds
    if key.stored_salt is not None:
        shown["stored_salt"] = key.stored_salt
    return shown


def _read_cbc(found: object) -> CbcKey:
    if not isinstance(found, dict) or not _CBC_FIELDS - {"stored_salt"} <= found.keys() <= _CBC_FIELDS:
        raise UsageError("an entry of cbc is not the key of a token")
    texts = {field_name: value for field_name, value in found.items() if field_name != "rounds"}
    if not all(isinstance(value, str) for value in texts.values()) or type(found["rounds"]) is not int:
        raise UsageError("a field in cbc has the wrong type")
    kit = Kit(texts["passphrase"], method=texts["method"], digest=texts["digest"], rounds=found["rounds"])
    return CbcKey(kit=kit, stored_salt=texts.get("stored_salt"))


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_verifier(text: str) -> bool:
    try:
        VerifierKey.parse(text)
    except BadCheckpointError:
        return False
    return len(text) <= _MAX_TEXT
