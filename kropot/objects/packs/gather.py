"""Gather loose small objects into packs while collectors work: `kropotcli storage pack`, and automatic upkeep.

An object's own file is removed only after its pack is durable, its placement is committed, and the object was read back
from the pack. A reader that no longer finds the file looks for placements and packs, so it never misses the object. A
crash leaves both the file and the pack; the next run removes the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kropot.durable.errors import storage_error
from kropot.objects.packs.format import MOST_BYTES, MOST_OBJECTS, PackDamagedError
from kropot.objects.packs.reindex import placements_of
from kropot.objects.packs.writer import grouped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.durable.filesystem import FileSystem
    from kropot.objects.layout import Layout
    from kropot.objects.packs.folder import PackFolder
    from kropot.objects.packs.mend import Mender
    from kropot.objects.packs.packed import PackedObjects
    from kropot.objects.packs.packing import PackRule
    from kropot.objects.packs.writer import PackWriter, WholeObject
    from ledger.places import Placement, PlaceStore

GROUP_BYTES = 32 << 20
"""About how many bytes of objects go into a pack that is made here: memory holds them all."""

SAMPLED = (0x1D, 0x5B, 0xA3, 0xE6)
"""Which of the 256 folders are sampled: hashes are spread evenly, and counting all files would cost too much."""


@dataclass(slots=True, kw_only=True)
class GatherReport:
    """What was done: packs made, objects and bytes put into packs, files removed because a pack has their objects.

    `damaged` files do not match their names; they stay as they are. `adopted` packs were in the storage, but the
    ledger did not know them. `left` objects were not a pack's worth.
    """

    packs: int = 0
    objects: int = 0
    bytes: int = 0
    removed: int = 0
    damaged: int = 0
    adopted: int = 0
    left: int = 0


class Gatherer:
    """Packs loose objects in one storage, for one thread of a process that holds the instance's lock."""

    def __init__(
        self,
        layout: Layout,
        files: FileSystem,
        *,
        folder: PackFolder,
        packed: PackedObjects,
        places: PlaceStore,
        writer: PackWriter,
        rule: PackRule,
    ) -> None:
        """Touch nothing yet; `packed` looks objects up in `places`."""
        self._layout = layout
        self._files = files
        self._folder = folder
        self._packed = packed
        self._places = places
        self._writer = writer
        self._rule = rule

    def mender(self) -> Mender:
        """Return a mender for the packs."""
        from kropot.objects.packs.mend import Mender

        return Mender(self._folder, self._places, self._writer)

    def is_worth(self) -> bool:
        """Whether about a pack's worth of small objects is loose, judging by a few folders. Raises: StorageError."""
        objects = size = 0
        for first in SAMPLED:
            for _, each in self._walk(bytes([first]), bytes([first + 1])):
                if self._rule.takes(each):
                    objects, size = objects + 1, size + each
        share = 256 // len(SAMPLED)
        return self._rule.is_worth(objects * share, size * share)

    def run(self, *, stopped: Callable[[], bool] = lambda: False) -> GatherReport:
        """Gather everything that is a pack's worth; end between two packs when `stopped` returns true.

        Raises: StorageError; packs made until then stay.
        """
        report = GatherReport()
        self._adopt(report)
        for group in self._groups():
            if stopped():
                break
            if not self._rule.is_worth(len(group), sum(size for _, size in group)):
                report.left += len(group)
            else:
                self._pack(group, report)
        return report

    def _adopt(self, report: GatherReport) -> None:
        """Record the packs whose writers died before they could record them."""
        known = {row.name for row in self._places.packs()}
        unknown = [name for name in self._folder.names() if name not in known]
        self._folder.settle(unknown)
        for name in unknown:
            with contextlib.suppress(PackDamagedError):
                found = placements_of(self._folder, name)
                if found:
                    self._places.add(found)
                    report.adopted += 1

    def _groups(self) -> Iterator[list[tuple[bytes, int]]]:
        group: list[tuple[bytes, int]] = []
        within = 0
        for sha256, size in self._walk(b"", None):
            if not self._rule.takes(size):
                continue
            if group and (within + size > GROUP_BYTES or len(group) == MOST_OBJECTS):
                yield group
                group, within = [], 0
            group.append((sha256, size))
            within += size
        if group:
            yield group

    def _pack(self, group: list[tuple[bytes, int]], report: GatherReport) -> None:
        placed = self._packed.find([sha256 for sha256, _ in group])
        fresh: list[WholeObject] = []
        done: list[Placement] = []
        for sha256, _ in group:
            if sha256 in placed:
                done += placed[sha256]
            else:
                fresh += self._whole(sha256, report)
        whole: list[Placement] = []
        for objects in grouped(fresh):
            made = self._writer.write_one(objects)
            self._places.add(made)
            whole += made
        report.packs += len({one.pack for one in whole})
        report.objects += len(whole)
        report.bytes += sum(one.length for one in whole)
        self._remove([*done, *whole], report)

    def _whole(self, sha256: bytes, report: GatherReport) -> list[WholeObject]:
        """Return an object with its bytes; an empty list if its file is gone, damaged, or no longer small."""
        path = self._layout.object(sha256)
        try:
            fd = self._files.open_read(path)
            try:
                buffer = memoryview(bytearray(min(os.fstat(fd).st_size, MOST_BYTES) + 1))
                size = 0
                while size < len(buffer) and (count := self._files.read_into(fd, buffer[size:])):
                    size += count
            finally:
                self._files.close(fd)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(error, f"reading {path}") from error
        data = bytes(buffer[:size])
        if hashlib.sha256(data).digest() != sha256:
            report.damaged += 1
            return []
        return [(sha256, data)]

    def _remove(self, places: list[Placement], report: GatherReport) -> None:
        """Remove the files of objects that can be read from their packs."""
        for place in places:
            if self._packed.sound_place(place) is None:
                continue
            report.removed += self._unlink(place.sha256)

    # --- where the files are: a storage on another machine overrides these, and `_whole` ------------------------------

    def _walk(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int]]:
        return self._layout.walk(start, end)

    def _unlink(self, sha256: bytes) -> bool:
        path = self._layout.object(sha256)
        try:
            self._files.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, f"removing {path}") from error
        return True
