"""Seal objects and list forms, whole or any range of them, in constant memory and without stored state. Pure."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kropot.errors import KropotError
from kropot.sc2.form import pad_form
from kropot.sc2.keyed import KeyedHash
from kropot.sc2.layout import CHUNK, LENGTH_BYTES, NONCE_BYTES, OVERHEAD, chunk_count, head_length, sealed_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from kropot.sc2.form import Form
    from kropot.sc2.vault import ObjectKeys, Vault

    ReadAt = Callable[[int, int], bytes]
    """Called with (offset, size); returns `size` bytes of the plain content from that offset."""

CONTENT: Final = b"\x01"
FORM: Final = b"\x02"
LIST_FORM: Final = b"\x03"
"""The kinds of sealed pieces. No kind can pass for another."""


class LengthChangedError(KropotError):
    """The content is not as long as the form says."""

    http_status = 503


class Pieces:
    """Seals and opens the pieces of one object: its forms and its chunks."""

    __slots__ = ("_aead", "_header", "_nonce")

    def __init__(self, keys: ObjectKeys) -> None:
        """Use the keys of one version of an element."""
        self._aead = AESGCM(keys.seal)
        self._nonce = KeyedHash(keys.nonce)
        self._header = hashlib.sha256(keys.head).digest()

    def seal(self, label: bytes, index: int, plain: bytes, *, last: bool) -> bytes:
        """Return nonce, ciphertext and tag. The nonce is derived from the plain bytes, so it repeats only with them."""
        place = _place(label, index, last=last)
        nonce = self._nonce(place + hashlib.sha256(plain).digest())[:NONCE_BYTES]
        return nonce + self._aead.encrypt(nonce, plain, place + self._header)

    def open(self, label: bytes, index: int, sealed: bytes | memoryview, *, last: bool) -> bytes:
        """Return the plain bytes. Raises: InvalidTag if they are not this piece of this object."""
        place = _place(label, index, last=last)
        return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place + self._header)


class Sealing:
    """One version of an element as an object: its length, and the bytes of any range of it.

    The vault, the form, the version and the plain content determine every byte. So anyone who keeps the form of the
    version's birth can seal the same object again, from any byte on. `header` and `length` (bytes) are known before
    the content is read.
    """

    def __init__(
        self,
        vault: Vault,
        form: Form,
        *,
        source: bytes,
        version: bytes,
        key_id: bytes | None = None,
        element: bytes | None = None,
        encoded: bytes | None = None,
    ) -> None:
        """Seal an element of a source (16 bytes) with the newest master, or with the one that `key_id` names.

        `element` is what `vault.element` returns for the form's path, and `encoded` is what `form.encode` returns, if
        the caller already has them.

        Raises:
            RefusedError: the form is too long, or the vault has no such master.
        """
        element = vault.element(form.path) if element is None else element
        keys = vault.keys(source=source, element=element, version=version, key_id=key_id)
        padded = pad_form(form.encode() if encoded is None else encoded)
        self.header = keys.header
        self.length = sealed_length(content=form.padded_length, form=len(padded))
        self._pieces = Pieces(keys)
        self._plain, self._padded = form.plain_length, form.padded_length
        self._chunks = chunk_count(self._padded)
        sealed = self._pieces.seal(FORM, 0, padded, last=True)
        self._head = keys.head + len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed
        self._begin = head_length(len(padded))

    def span(self, read_at: ReadAt, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the object's bytes from `start` to `stop`, which is its end by default.

        `read_at(offset, size)` MUST return exactly these bytes of the plain content: attributes first, holes left out.

        Raises:
            LengthChangedError: `read_at` returned a different number of bytes.
        """
        stop = self.length if stop is None else min(stop, self.length)
        at = start
        if at < stop and at < self._begin:
            yield self._head[at:stop]
            at = self._begin
        while at < stop:
            index = (at - self._begin) // (CHUNK + OVERHEAD)
            begin = self._begin + index * (CHUNK + OVERHEAD)
            chunk = self._chunk(read_at, index)
            yield chunk if begin == at and begin + len(chunk) <= stop else chunk[at - begin : stop - begin]
            at = begin + len(chunk)

    def stream(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield the object, reading the plain content from a file in pieces of 64 KiB.

        The last bytes are yielded only once the file has ended where the form says.

        Raises:
            LengthChangedError: the content is shorter or longer than the form says.
        """

        def read(offset: int, size: int) -> bytes:
            data = read_exactly(source, size)
            if offset + size == self._plain and source.read(1):
                raise LengthChangedError("the content is longer than its form says: read it again")
            return data

        return self.span(read)

    def whole(self, plain: bytes) -> bytes:
        """Return the object for a content that is in memory.

        Raises:
            LengthChangedError: the content is not as long as the form says.
        """
        if len(plain) != self._plain:
            raise LengthChangedError("the content is not as long as its form says: read it again")
        if self._chunks == 1:
            return self._head + self._pieces.seal(CONTENT, 0, plain.ljust(self._padded, b"\0"), last=True)
        return b"".join(self.span(lambda offset, size: plain[offset : offset + size]))

    def _chunk(self, read_at: ReadAt, index: int) -> bytes:
        """Return one sealed chunk. The zeros of the padding follow the plain content."""
        start = index * CHUNK
        stop = min(start + CHUNK, self._padded)
        size = max(0, min(stop, self._plain) - start)
        plain = read_at(start, size) if size or index == 0 else b""
        if len(plain) != size:
            raise LengthChangedError("the content is shorter than its form says: read it again")
        return self._pieces.seal(CONTENT, index, plain.ljust(stop - start, b"\0"), last=index + 1 == self._chunks)


def seal_list_form(
    vault: Vault,
    form: Form,
    *,
    source: bytes,
    version: bytes,
    key_id: bytes | None = None,
    element: bytes | None = None,
    encoded: bytes | None = None,
) -> str:
    """Return the text of a sealed form for a list: base64 of a header and the sealed form.

    `element` is the element's id, if the caller knows it. `encoded`, if given, is sealed instead of `form`.

    Raises:
        RefusedError: the form is too long, or the vault has no such master.
    """
    element = vault.element(form.path) if element is None else element
    keys = vault.keys(source=source, element=element, version=version, key_id=key_id)
    padded = pad_form(form.encode() if encoded is None else encoded)
    return b64encode(keys.head + Pieces(keys).seal(LIST_FORM, 0, padded, last=True)).decode()


def read_exactly(source: BinaryIO, size: int) -> bytes:
    """Return `size` bytes, or fewer at the end. Some streams return fewer bytes than requested before their end."""
    data = source.read(size)
    while len(data) < size:
        more = source.read(size - len(data))
        if not more:
            break
        data += more
    return data


def _place(label: bytes, index: int, *, last: bool) -> bytes:
    """Return the place of a piece: label (1 byte), index (8), whether it is the last (1)."""
    return label + index.to_bytes(8, "big") + (b"\x01" if last else b"\x00")
