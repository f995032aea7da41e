"""A further storage's description of itself, in its own file (docs/format.md, "Further storages"). Pure."""

from __future__ import annotations

import json
from typing import Final

from msgspec import Struct

KEY: Final = "further.json"
MOST_BYTES: Final = 4096
_FORMAT: Final = "kropotcli further storage 1"
_ID_BYTES: Final = 16


class Description(Struct, frozen=True, kw_only=True):
    """The ids of the ledger and the storage (16 bytes each), and up to which position the storage is in step."""

    ledger: bytes
    id: bytes
    position: int

    @property
    def stored(self) -> bytes:
        """The file's bytes."""
        told = {"format": _FORMAT, "ledger": self.ledger.hex(), "id": self.id.hex(), "position": self.position}
        return json.dumps(told, indent=1).encode() + b"\n"


def parse(data: bytes) -> Description | None:
    """Return the description in a file, None if it is not one."""
    try:
        told = json.loads(data)
        ledger, id_ = bytes.fromhex(told["ledger"]), bytes.fromhex(told["id"])
        found = Description(ledger=ledger, id=id_, position=told["position"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    is_sound = (
        told.get("format") == _FORMAT
        and len(found.ledger) == len(found.id) == _ID_BYTES
        and type(found.position) is int
        and found.position >= 0
    )
    return found if is_sound else None
