"""The layout of sealed objects: header, lengths, padding. Pure, and without keys, so that a keeper can use it too.

docs/format.md, "Sealed objects", defines the bytes.
"""

from __future__ import annotations

import binascii
import struct
from typing import Final, NamedTuple

from kropot.sc2.refused import Reason, RefusedError

METHOD: Final = "sc2"
"""The name of this sealing in tokens, and in `Accept`."""

MEDIA_TYPE: Final = "application/vnd.kropot.sc2"
"""A collector MUST name it in `Accept` to get sealed objects; the answer has it as `Content-Type`."""

CHUNK: Final = 65_536
"""The number of plain bytes in every chunk but the last."""

NONCE_BYTES: Final = 12
OVERHEAD: Final = NONCE_BYTES + 16
"""How many bytes sealing adds to a form or a chunk: the nonce before it, the tag after it."""

VAULT_BYTES: Final = 16
SOURCE_BYTES: Final = 16
ELEMENT_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
VERSION_BYTES: Final = 32

MAX_CONTENT: Final = 1 << 48
"""The longest plain content, padding included, in bytes: 256 TiB, in 2^32 chunks."""

FORM_SIZES: Final = (256, 512, 1024, 2048, 4096, 8192, 16_384)
"""The lengths that a padded form can have."""

_MAGIC: Final = b"kr-sc2"
_SUITE: Final = 1
_NO_COMPRESSION: Final = 0
_HEADER: Final = struct.Struct(">6sBB16s16s32s8s32s32s")
_LEAST_PADDED: Final = 256
ETAG_BYTES: Final = 16
"""How much of the commitment an entity tag shows."""

HEADER_BYTES: Final = _HEADER.size
HEADER_BEGINNING: Final = _MAGIC + bytes([_SUITE, _NO_COMPRESSION])
"""The first bytes of every header that this program can read. The vault's id follows."""

BOUND_BYTES: Final = HEADER_BYTES - 32
"""The keys are derived from this many bytes of the header: everything before the commitment."""

LENGTH_BYTES: Final = 2

LIST_BEGINNING: Final = "a3Itc2My"
"""How the text of a sealed form in a list begins: the first six bytes of its header in base64."""

_LIST_TEXT: Final = frozenset(-(-(HEADER_BYTES + size + OVERHEAD) // 3) * 4 for size in FORM_SIZES)


class ObjectHeader(NamedTuple):
    """The clear header of an object. A keeper can read it; only the owner can make one.

    `vault` and `source` have 16 bytes, `element` and `version` 32, `key_id` 8 and `commitment` 32.
    """

    vault: bytes
    source: bytes
    element: bytes
    key_id: bytes
    version: bytes
    commitment: bytes

    @property
    def etag(self) -> str:
        """The entity tag of the object, with its quotes. It differs for each version and each key."""
        return f'"{self.commitment[:ETAG_BYTES].hex()}"'

    @property
    def element_id(self) -> str:
        """The element's id as it appears in a list."""
        return self.element.hex()

    def encode(self) -> bytes:
        """Return the header's 144 bytes."""
        return bound_part(*self[:-1]) + self.commitment


def bound_part(vault: bytes, source: bytes, element: bytes, key_id: bytes, version: bytes) -> bytes:
    """Return the 112 bytes of a header before its commitment. Raises ValueError for a part of the wrong length."""
    is_fit = len(vault) == VAULT_BYTES and len(source) == SOURCE_BYTES and len(element) == ELEMENT_BYTES
    if not (is_fit and len(key_id) == KEY_ID_BYTES and len(version) == VERSION_BYTES):
        lengths = tuple(map(len, (vault, source, element, key_id, version)))
        raise ValueError(f"the parts of a header have wrong lengths: {lengths}")
    return _HEADER.pack(_MAGIC, _SUITE, _NO_COMPRESSION, vault, source, element, key_id, version, b"")[:BOUND_BYTES]


def parse_header(data: bytes) -> ObjectHeader:
    """Return the header at the beginning of an object. It proves nothing by itself.

    Raises:
        RefusedError: there is no header, or it is of a version that this program cannot read.
    """
    if len(data) < HEADER_BYTES:
        raise RefusedError(Reason.CUT, f"the object has only {len(data)} bytes and ends within its header")
    magic, suite, compression, *fields = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise RefusedError(Reason.HEADER, "the object does not begin as a sealed object of sc2 does")
    if suite != _SUITE or compression != _NO_COMPRESSION:
        raise RefusedError(
            Reason.HEADER,
            f"the object says suite {suite} and compression {compression}, which this version cannot read: it was "
            "altered, or a newer kropotcli made it",
        )
    vault, source, element, key_id, version, commitment = fields
    return ObjectHeader(
        vault=vault, source=source, element=element, key_id=key_id, version=version, commitment=commitment
    )


def list_form_bytes(text: str) -> bytes:
    """Return the bytes of a sealed form's text in a list: a header and the sealed form. They prove nothing yet.

    `parse_header` reads their header, so that a keeper can compare version and id with the list's line.

    Raises:
        RefusedError: the text is not a sealed form of sc2.
    """
    if len(text) not in _LIST_TEXT:
        raise RefusedError(Reason.FORM, f"a text of {len(text)} characters is not a sealed form of sc2")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise RefusedError(Reason.FORM, "the sealed form is not base64 text") from None


def is_list_form(text: str) -> bool:
    """Whether the text of a sealed form begins like one of sc2. A CBC form never begins like that."""
    return text.startswith(LIST_BEGINNING)


def form_length(data: bytes) -> int:
    """Return the length of the sealed form from the two bytes before it.

    Raises:
        RefusedError: no sealed form has this length.
    """
    if len(data) < LENGTH_BYTES:
        raise RefusedError(Reason.CUT, "the object ends before its form")
    length = int.from_bytes(data[:LENGTH_BYTES], "big")
    if length - OVERHEAD not in FORM_SIZES:
        raise RefusedError(Reason.FORM, f"the object claims a form of {length} bytes, which no sealed form has")
    return length


def padded_form_size(size: int) -> int:
    """Return the padded length of a form of `size` bytes. Raises ValueError if it is too long."""
    for padded in FORM_SIZES:
        if size + LENGTH_BYTES <= padded:
            return padded
    raise ValueError(f"a form of {size} bytes is too long")


def padded_content_size(size: int) -> int:
    """Return the padded length of a content ("padme"). It shows the size only roughly and adds at most 12 percent.

    Contents below 256 bytes, folders, links and empty files all look alike.
    """
    size = max(size, _LEAST_PADDED)
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return size + mask & ~mask


def chunk_count(content: int) -> int:
    """Return the number of chunks for a content of this many plain bytes. Empty content has one empty chunk."""
    return max(1, -(-content // CHUNK))


def sealed_length(*, content: int, form: int) -> int:
    """Return the length of an object: `content` plain bytes (padding included) and a padded form of `form` bytes."""
    return head_length(form) + content + OVERHEAD * chunk_count(content)


def head_length(form: int) -> int:
    """Return the offset of the first chunk in an object whose padded form has `form` bytes."""
    return HEADER_BYTES + LENGTH_BYTES + form + OVERHEAD
