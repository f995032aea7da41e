"""Reads kits of every format: open ones, locked ones, and those made before sc2. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kropot.errors import UsageError
from kropot.restore.kits import read_kit
from kropot.sc2.kit import FORMAT, MAX_KIT, CbcKey, OwnerKit, load_object, read_fields
from kropot.sc2.passphrase import LockedKit, read_locked

if TYPE_CHECKING:
    from collections.abc import Mapping

STORED_SALT: Final = "secureCopyStoredSalt"
"""The field where an older kit can have its token's stored salt, next to the key or under `data`."""

_MAX_SALT: Final = 4096


def parse_kit(text: bytes, *, name: str) -> OwnerKit | LockedKit:
    """Return what a kit holds, or a locked kit that only its passphrase opens (`LockedKit.open`).

    Kits made before sc2 are still read: each possible reading of their passphrase becomes a `CbcKey`. `name` is the
    file's name, for messages. No message contains a key.

    Raises:
        UsageError: it is not a kit, or a field is missing, unknown or has an impossible value.
    """
    if len(text) > MAX_KIT:
        raise UsageError(f"the kit {name} has {len(text)} bytes, so it is not a kit")
    found = load_object(text, name)
    if "format" not in found:
        return _read_old(text, found, name)
    if found["format"] != FORMAT:
        raise UsageError(
            f"the kit {name} has a format that this version does not know: use the kropotcli that wrote it, or a newer "
            "one"
        )
    if "wrapped" in found:
        return read_locked(found, name)
    return read_fields(found, name)


def _read_old(text: bytes, found: Mapping[str, Any], name: str) -> OwnerKit:
    """Read a kit made before sc2: the JSON request that made a token."""
    kits = read_kit(text, name=name)
    below = found.get("data")
    salt = found.get(STORED_SALT, below.get(STORED_SALT) if isinstance(below, dict) else None)
    if salt is not None and not (isinstance(salt, str) and 0 < len(salt) <= _MAX_SALT and salt.isascii()):
        raise UsageError(f"the kit {name} does not have a text as {STORED_SALT}")
    return OwnerKit(cbc=tuple(CbcKey(kit=kit, stored_salt=salt) for kit in kits))
