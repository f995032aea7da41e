"""The signature over people's decisions about retention, made with the key for checkpoints (docs/format.md)."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import msgpack

from ledger.errors import BadCheckpointError
from ledger.note import open_note, sign_note
from ledger.retention import Retention
from ledger.shape import shapes_of

if TYPE_CHECKING:
    from ledger.note import SigningKey, VerifierKey


def signed(retention: Retention, ledger_id: bytes, key: SigningKey) -> Retention:
    """Return the decision with the key's signature over its rules and pins."""
    note = sign_note(_text(retention, ledger_id), key).decode()
    return Retention(rules=retention.rules, pins=retention.pins, signature=note)


def is_signed(retention: Retention, ledger_id: bytes, key: VerifierKey) -> bool:
    """Return whether the key signed exactly these rules and pins, for this ledger."""
    if retention.signature is None:
        return False
    try:
        return open_note(retention.signature.encode(), key) == _text(retention, ledger_id)
    except (BadCheckpointError, UnicodeEncodeError):
        return False


def _text(retention: Retention, ledger_id: bytes) -> str:
    """Return the text to sign. Its second line is not a number, so nobody can take it for a checkpoint."""
    unsigned = Retention(rules=retention.rules, pins=retention.pins, signature=None)
    shown = shapes_of([Retention])[Retention].show(unsigned)
    digest = hashlib.sha256(msgpack.packb(shown, use_bin_type=True)).digest()
    return f"kropotcli/retention/{ledger_id.hex()}\nretention\n{base64.b64encode(digest).decode()}\n"
