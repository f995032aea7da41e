"""Signed checkpoints of a ledger's head: C2SP's `tlog-checkpoint`, a signed note with origin, size and root.

See https://c2sp.org/tlog-checkpoint. The origin names the ledger by its random id (docs/format.md, "Checkpoints").
"""

from __future__ import annotations

import base64
import binascii

from msgspec import Struct

from ledger.errors import BadCheckpointError
from ledger.merkle import HASH_BYTES
from ledger.note import SigningKey, VerifierKey, open_note, sign_note, unverified_text

__all__ = [
    "Checkpoint",
    "SigningKey",
    "VerifierKey",
    "open_checkpoint",
    "origin_of",
    "sign_checkpoint",
    "unverified_checkpoint",
]

_MAX_DIGITS = 19


class Checkpoint(Struct, frozen=True, kw_only=True):
    """The head of a ledger at one moment: it has `size` events, and their tree has this `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text to sign: three lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Parse `text`. Ignore further lines, which others may add.

        Raises:
            BadCheckpointError: of kind "malformed".
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):  # noqa: PLR2004 -- three lines and an empty end
            raise BadCheckpointError("this is not a checkpoint: origin, size and root must be on separate lines")
        origin, size, encoded = lines[:3]
        if not (size.isascii() and size.isdigit() and len(size) <= _MAX_DIGITS) or (size[0] == "0" and size != "0"):
            raise BadCheckpointError("this is not a checkpoint: its second line is not a size")
        try:
            root = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            root = b""
        if len(root) != HASH_BYTES or base64.b64encode(root).decode() != encoded:
            raise BadCheckpointError("this is not a checkpoint: its third line is not a root hash")
        return cls(origin=origin, size=int(size), root=root)


def origin_of(ledger_id: bytes) -> str:
    """Return the origin of this ledger's checkpoints."""
    return f"kropotcli/ledger/{ledger_id.hex()}"


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """Return the checkpoint as a signed note."""
    return sign_note(checkpoint.text, key)


def open_checkpoint(note: bytes, key: VerifierKey) -> Checkpoint:
    """Return the checkpoint that `key` signed.

    Raises:
        BadCheckpointError: as `ledger.note.open_note`, or if the signed text is not a checkpoint.
    """
    return Checkpoint.parse(open_note(note, key))


def unverified_checkpoint(note: bytes) -> Checkpoint:
    """Return the checkpoint in a note without checking its signature. It proves nothing, but can reveal a conflict.

    Raises:
        BadCheckpointError: of kind "malformed".
    """
    return Checkpoint.parse(unverified_text(note))
