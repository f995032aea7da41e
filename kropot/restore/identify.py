"""Identify a single sealed file: by the manifest of its export, or by its SHA-256 in the ledger."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.durable.dirfd import open_named
from kropot.errors import UsageError
from kropot.replay.copies import HeldCopy
from kropot.replay.fold import Standing, image
from kropot.restore.element_copy import judged
from kropot.restore.export import MANIFEST
from kropot.restore.opener import BUFFER
from kropot.restore.read_export import ExportedCopies
from kropot.sc2.layout import HEADER_BYTES, parse_header
from kropot.sc2.refused import RefusedError
from kropot.sc2.seal import read_exactly
from ledger.events import StreamKey

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from kropot.sc2.layout import ObjectHeader
    from ledger.log import Ledger

_DEPTH = 4
"""How many folders above an export's file the manifest can be."""


def hash_of(path: Path) -> tuple[bytes, int]:
    """Return the SHA-256 (32 bytes) and size (bytes) of a file. Raises: UsageError if it cannot be read."""
    digest = hashlib.sha256()
    size = 0
    try:
        with open_named(path) as file:
            while data := file.read(BUFFER):
                digest.update(data)
                size += len(data)
    except OSError as error:
        raise UsageError(
            f"the file {path} cannot be read ({error.strerror}): make it readable, or name another file"
        ) from None
    return digest.digest(), size


def in_export(path: Path) -> HeldCopy | None:
    """Return the manifest's copy for a file, None if no export lists it. Raises: UsageError for a broken manifest."""
    whole = path.resolve()
    for root in list(whole.parents)[:_DEPTH]:
        if not (root / os.fsdecode(MANIFEST)).is_file():
            continue
        parts = tuple(os.fsencode(part) for part in whole.relative_to(root).parts)
        copies = ExportedCopies(root)
        try:
            return next((held for held in copies.helds() if held.file == parts), None)
        finally:
            copies.close()
    return None


def in_ledger(ledger: Ledger, sha256: bytes) -> HeldCopy | None:
    """Return the copy that the ledger recorded with this SHA-256, as it was when stored; None if there is none."""
    row = next(ledger.copies(start=sha256, end=sha256), None)
    if row is None:
        return None
    event = ledger.log.events_at([row.position])[0]
    element = image(ledger, event)
    if element is None:
        return None
    key = StreamKey.parse(row.key)
    standing = Standing(key=key, element=element, position=event.seq, recorded_us=event.recorded_us)
    return judged(ledger, standing)


def header_of(source: BinaryIO) -> ObjectHeader | None:
    """Return the header of an open object of sc2, None for other objects. It proves nothing. The source is rewound."""
    source.seek(0)
    try:
        return parse_header(read_exactly(source, HEADER_BYTES))
    except RefusedError:
        return None
    finally:
        source.seek(0)


def in_header(path: Path, sha256: bytes, size: int) -> HeldCopy | None:
    """Return what an object of sc2 says about itself, None for other files. Its kit alone is enough to open it."""
    with open_named(path) as file:
        header = header_of(file)
    if header is None:
        return None
    key = StreamKey(source=header.source, kind="file", id=header.element_id)
    return replace(unknown(path, sha256, size, None), key=key)


def unknown(path: Path, sha256: bytes, size: int, iv: bytes | None) -> HeldCopy:
    """Return a copy for a file of which we know only its bytes, and the IV if one was given."""
    return HeldCopy(
        key=StreamKey(source=bytes(16), kind="file", id=path.name or "-"),
        form=b"{}",
        date=0,
        tz="",
        state="",
        sha256=sha256,
        size=size,
        iv=iv,
        is_older=False,
    )
