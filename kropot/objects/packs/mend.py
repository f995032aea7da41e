"""Mend packs, and what the ledger says about them, where one of the two still knows what the other has lost.

A pack's name is the SHA-256 of its index. So the name proves an index that is made from placements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.durable.errors import storage_error
from kropot.objects.packs.format import PackDamagedError, PackEntry, index_of, name_of
from kropot.objects.packs.reindex import placements_of

if TYPE_CHECKING:
    from kropot.objects.packs.folder import PackFolder
    from kropot.objects.packs.writer import PackWriter
    from ledger.places import PlaceStore


class Mender:
    """Mends one storage, for one thread of a process that gathers in it."""

    def __init__(self, folder: PackFolder, places: PlaceStore, writer: PackWriter) -> None:
        """Touch nothing yet."""
        self._folder = folder
        self._places = places
        self._writer = writer

    def rewrite(self, name: bytes) -> str | None:
        """Rewrite a pack with the index that the ledger's placements give; return why not, None if it was done.

        Its objects stay as they are, sound or not; bytes that are missing because the file ends early become zeros.

        Raises: StorageError.
        """
        entries = [PackEntry(one.sha256, one.offset, one.length) for one in self._places.walk() if one.pack == name]
        entries.sort(key=lambda entry: entry[1:])
        try:
            is_proved = name_of(index_of(entries)) == name
        except ValueError:
            is_proved = False
        if not is_proved:
            return "the ledger does not know the place of every object in it"
        pack = self._folder.open(name)
        if pack is None:
            return "it is gone"
        try:
            objects = [(sha256, pack.read(offset, length).ljust(length, b"\0")) for sha256, offset, length in entries]
        except OSError as error:
            raise storage_error(error, f"reading the pack {pack.path}") from error
        self._writer.write_one(objects)
        self._folder.renewed(pack)
        return None

    def index(self, name: bytes) -> str | None:
        """Replace the ledger's placements in a pack with those of its index; return why not, None if it was done.

        Raises: StorageError.
        """
        try:
            found = placements_of(self._folder, name)
        except PackDamagedError as error:
            return str(error)
        if found is None:
            self._places.forget(name)
        else:
            kept = self._places.dropped([one.sha256 for one in found])
            self._places.replace(name, found)
            for sha256, pack in kept:
                if pack == name:
                    self._places.drop(sha256, name)
        return None
