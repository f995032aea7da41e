"""The note beside the bytes of a content that broke off: whose they are, and what the server called them."""

from __future__ import annotations

import hashlib

import msgpack
from msgspec import Struct

from ledger.errors import DamagedRowError
from ledger.events import StreamKey


class KeptNote(Struct, frozen=True, kw_only=True):
    """The element, and what is known of its content: strong ETag, IV (16 bytes) if it has one, and length in bytes.

    `sealed` is the clear header (144 bytes) with which an object of `sc2` begins.
    """

    stream: StreamKey
    etag: str
    iv: bytes | None
    length: int
    sealed: bytes | None = None

    def pack(self) -> bytes:
        """Return the note as bytes."""
        return bytes(msgpack.packb([self.stream.stored, self.etag, self.iv, self.length, self.sealed]))


def read_note(data: bytes) -> KeptNote | None:
    """Undo `KeptNote.pack`; return None for anything else, which an earlier version or a disk fault may have left."""
    try:
        stored, etag, iv, length, *rest = msgpack.unpackb(data)
        (sealed,) = rest or (None,)  # older notes have no such field
        for value, kind in ((stored, bytes), (etag, str), (iv or b"", bytes), (length, int), (sealed or b"", bytes)):
            if not isinstance(value, kind):
                return None
        return KeptNote(stream=StreamKey.parse(stored), etag=etag, iv=iv, length=length, sealed=sealed)
    except (ValueError, TypeError, msgpack.UnpackException, DamagedRowError):
        return None


def kept_name(stream: StreamKey) -> str:
    """Return the name under which the bytes of an element wait: 32 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(stream.stored).hexdigest()[:32]
