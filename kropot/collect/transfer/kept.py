"""What is noted beside the bytes of a content that broke off: whose they are, and what the server called them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgpack

from ledger.errors import DamagedRowError
from ledger.events import StreamKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptNote:
    """The element, and the strong ETag, the IV (16 bytes) if it is sealed, and the length in bytes of its content."""

    stream: StreamKey
    etag: str
    iv: bytes | None
    length: int

    def pack(self) -> bytes:
        """Return the note as bytes."""
        return bytes(msgpack.packb([self.stream.stored, self.etag, self.iv, self.length]))


def read_note(data: bytes) -> KeptNote | None:
    """Undo `KeptNote.pack`; None for anything else, which an earlier version or a fault of the disk may have left."""
    try:
        stored, etag, iv, length = msgpack.unpackb(data)
        for value, kind in ((stored, bytes), (etag, str), (iv or b"", bytes), (length, int)):
            if not isinstance(value, kind):
                return None
        return KeptNote(stream=StreamKey.parse(stored), etag=etag, iv=iv, length=length)
    except (ValueError, TypeError, msgpack.UnpackException, DamagedRowError):
        return None


def kept_name(stream: StreamKey) -> str:
    """Return the name under which the bytes of an element wait: 32 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(stream.stored).hexdigest()[:32]
