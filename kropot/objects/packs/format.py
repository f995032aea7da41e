"""The bytes of a pack: objects back to back, an index sorted by SHA-256, a footer (docs/format.md, "Packs"). Pure."""

from __future__ import annotations

import hashlib
import struct
from itertools import accumulate, starmap
from operator import ge, itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from kropot.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC: Final = b"KROPACK1"
MOST_BYTES: Final = 64 << 20
"""The most bytes of objects in one pack."""

MOST_OBJECTS: Final = 65_536

ENTRY: Final = struct.Struct(">32sQQ")
FOOTER: Final = struct.Struct(">8sQ32s")
SHA256_BYTES: Final = 32
_RANGE = itemgetter(1, 2)


class PackDamagedError(IntegrityError):
    """A file is not the pack that its name says."""

    def __init__(self, name: bytes, what: str) -> None:
        """Remember the pack's name (32 bytes) and what is wrong, as the rest of a sentence."""
        super().__init__(f"the pack {name.hex()} is damaged: {what}")
        self.name = name
        self.what = what


class PackEntry(NamedTuple):
    """An object in a pack: its SHA-256, where it begins, and its length in bytes."""

    sha256: bytes
    offset: int
    length: int


class Footer(NamedTuple):
    """What the footer says: where the objects end and the index begins, the number of objects, the index's SHA-256."""

    data_end: int
    objects: int
    digest: bytes


def lay_out(objects: Sequence[tuple[bytes, int]]) -> list[PackEntry]:
    """Return where objects, given by SHA-256 and length in bytes, are in a pack that holds them in this order."""
    lengths = [length for _, length in objects]
    offsets = accumulate(lengths, initial=0)
    return list(map(PackEntry._make, zip([sha256 for sha256, _ in objects], offsets, lengths, strict=False)))


def index_of(entries: Sequence[PackEntry]) -> bytes:
    """Return the index of these objects.

    Raises: ValueError if there are no objects, too many objects or bytes, or if one object occurs twice.
    """
    size = sum([length for _, _, length in entries])
    if not 0 < len(entries) <= MOST_OBJECTS or size > MOST_BYTES or len({entry[0] for entry in entries}) < len(entries):
        raise ValueError(f"{len(entries)} objects of {size} bytes do not make a pack")
    return b"".join(starmap(ENTRY.pack, sorted(entries)))


def name_of(index: bytes) -> bytes:
    """Return the name of the pack with this index."""
    return hashlib.sha256(index).digest()


def footer_of(index: bytes) -> bytes:
    """Return the footer that follows this index."""
    return FOOTER.pack(MAGIC, len(index), name_of(index))


def parse_footer(footer: bytes, size: int, name: bytes) -> Footer:
    """Return what the footer of the pack `name` says; the pack's file has `size` bytes.

    Raises: PackDamagedError, before a damaged footer can cause a large read.
    """
    if len(footer) != FOOTER.size:
        raise PackDamagedError(name, f"it has {size} bytes, too few for a footer")
    magic, length, digest = FOOTER.unpack(footer)
    if magic != MAGIC:
        raise PackDamagedError(name, "it does not end with the footer of a pack")
    if digest != name:
        raise PackDamagedError(name, "its footer belongs to another pack")
    objects, rest = divmod(length, ENTRY.size)
    data_end = size - FOOTER.size - length
    if rest or not 0 < objects <= MOST_OBJECTS or not 0 <= data_end <= MOST_BYTES:
        raise PackDamagedError(name, f"its footer claims an index of {length} bytes in a file of {size}")
    return Footer(data_end, objects, digest)


def parse_index(index: bytes, footer: Footer, name: bytes) -> list[PackEntry]:
    """Return the objects of the pack `name`, in the order of SHA-256, after checking the whole index.

    Raises: PackDamagedError.
    """
    if len(index) != footer.objects * ENTRY.size or name_of(index) != name:
        raise PackDamagedError(name, "its index has another SHA-256 than its name")
    entries = list(map(PackEntry._make, ENTRY.iter_unpack(index)))
    names = [entry[0] for entry in entries]
    if any(map(ge, names, names[1:])):
        raise PackDamagedError(name, "its index is not sorted")
    end = 0
    for _, offset, length in sorted(entries, key=_RANGE):
        if offset != end:
            raise PackDamagedError(name, f"its objects do not follow each other at byte {min(offset, end)}")
        end += length
    if end != footer.data_end:
        raise PackDamagedError(name, f"its objects end at byte {end}, and its index begins at byte {footer.data_end}")
    return entries
