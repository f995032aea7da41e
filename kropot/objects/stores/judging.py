"""Judge by its bytes alone whether a file of a storage is what its key says."""

from __future__ import annotations

import hashlib
import io
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

from kropot.durable.errors import storage_error
from kropot.objects.layout import is_object
from kropot.objects.packs.format import FOOTER, PackDamagedError, parse_footer, parse_index
from kropot.objects.stores.files import PIECE, NoSuchKeyError
from kropot.segments import FOLDER as SEGMENTS
from kropot.segments import told_by
from ledger.errors import MalformedSegmentError
from ledger.transfer.segments import SEGMENT_EVENTS, whole_reach

if TYPE_CHECKING:
    from kropot.objects.packs.format import PackEntry
    from kropot.objects.stores.files import RemoteFiles


def name_in(key: str) -> bytes | None:
    """Return the SHA-256 in a key, None if it is not the key of an object or a pack."""
    parts = key.split("/")
    if len(parts) == 3 and len(parts[1]) == 2 and is_object(parts[2], parts[1]):  # noqa: PLR2004 -- kind/ab/<64 hex>
        return bytes.fromhex(parts[2])
    return None


def digest_of(file: BinaryIO) -> bytes:
    """Return the SHA-256 of a whole file."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.digest()


def wrong_with(key: str, digest: bytes, file: BinaryIO) -> str | None:
    """Return what is wrong with an object, a pack or a segment that has this SHA-256; None if nothing is.

    Other files cannot be judged, so nothing is wrong with them.
    """
    if key.startswith(f"{SEGMENTS}/"):
        return _wrong_segment(key, file)
    name = name_in(key)
    if name is None:
        return None
    if key.startswith("objects/"):
        return None if digest == name else f"{key} has the SHA-256 {digest.hex()}"
    try:
        entries = pack_entries(name, file)
    except PackDamagedError as error:
        return str(error)
    bad = 0
    for entry in sorted(entries, key=lambda each: each.offset):
        file.seek(entry.offset)
        bad += hashlib.sha256(file.read(entry.length)).digest() != entry.sha256
    return f"{key} has {bad} damaged objects" if bad else None


def is_sound(files: RemoteFiles, key: str) -> bool:
    """Fetch a file; return whether it is there, and is what its key says. Raises: StorageError."""
    try:
        with tempfile.SpooledTemporaryFile(PIECE) as spooled:
            file = cast("BinaryIO", spooled)
            files.fetch(key, file)
            return wrong_with(key, digest_of(file), file) is None
    except NoSuchKeyError:
        return False
    except OSError as error:
        raise storage_error(error, f"keeping {key} in {tempfile.gettempdir()}") from error


def pack_entries(name: bytes, file: BinaryIO) -> list[PackEntry]:
    """Return the entries in the index of a whole pack. Raises: PackDamagedError."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - FOOTER.size, 0))
    footer = parse_footer(file.read(FOOTER.size), size, name)
    file.seek(footer.data_end)
    return parse_index(file.read(size - FOOTER.size - footer.data_end), footer, name)


def _wrong_segment(key: str, file: BinaryIO) -> str | None:
    told = told_by(key.rpartition("/")[2], SEGMENT_EVENTS)
    if told is None:
        return None
    try:
        last = whole_reach(file).last
    except MalformedSegmentError as error:
        return f"{key}: {error.why}"
    return None if last == told.last else f"{key} ends at event {last}"
