"""Copy a storage to another one, of any kind: objects and packs first, and then the history that names them.

A file with the right name and size in the target was copied before, so an interrupted run continues. Every object is
compared with its SHA-256 on its way: damage is not spread, but reported.
"""

from __future__ import annotations

import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from kropot.durable.errors import StorageError, storage_error
from kropot.errors import IntegrityError
from kropot.objects.stores.files import MARKER, PIECE, NoSuchKeyError
from kropot.objects.stores.judging import digest_of, name_in, wrong_with
from kropot.objects.stores.objects import MARKER_TEXT
from kropot.objects.stores.reading import RemoteReader
from kropot.objects.stores.segments import RemoteSegments
from kropot.segments import FOLDER as SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeVar

    from kropot.objects.stores.files import RemoteFiles, RemoteStat

    T = TypeVar("T")

AT_ONCE: Final = 4
MOST_TOLD: Final = 20
_GROUP: Final = 64


@dataclass(slots=True, kw_only=True)
class StorageCopyReport:
    """How many files and bytes were copied, and how many were there already; `checked` of these were read there.

    `damaged` files are damaged in the source: objects, which were not copied, and packs, which were, because others of
    their objects might be sound. `told` says what is wrong with the first ones.
    """

    files: int = 0
    bytes: int = 0
    there: int = 0
    checked: int = 0
    replaced: int = 0
    damaged: int = 0
    told: list[str] = field(default_factory=list)


class StorageCopy:
    """Copies from one place to another; with `verify`, everything in the target is read back and compared."""

    def __init__(
        self,
        source: RemoteFiles,
        target: RemoteFiles,
        *,
        verify: bool,
        progress: Callable[[int, int], None],
        only_sound: bool = False,
    ) -> None:
        """Touch nothing yet. `progress` is called with the number of files looked at, and of bytes copied.

        With `only_sound`, a pack is not copied if any of its objects is damaged.
        """
        self._source = source
        self._target = target
        self._verify = verify
        self._progress = progress
        self._only_sound = only_sound
        self._looked = 0

    def run(self) -> StorageCopyReport:
        """Copy everything.

        Raises: IntegrityError if the target holds another or a longer history; StorageError. Files copied until then
        are there the next time.
        """
        self._demand_same_history()
        report = StorageCopyReport()
        self.all_of(("objects", "packs", SEGMENTS), report)
        if self._target.stat(MARKER) is None:
            self._target.put(MARKER, MARKER_TEXT)
        return report

    def all_of(
        self, kinds: Sequence[str], report: StorageCopyReport, *, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Copy every file of these kinds, and count them; return False if `stopped`. Raises: StorageError."""
        return all(self._several(self._paired(kind), self._one, report, stopped) for kind in kinds)

    def these(
        self, keys: Iterable[str], report: StorageCopyReport, *, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Copy those files under these keys that are there; return False if `stopped`. Raises: StorageError."""
        return self._several(keys, self._if_there, report, stopped)

    def _several(
        self,
        what: Iterable[T],
        work: Callable[[T], StorageCopyReport],
        report: StorageCopyReport,
        stopped: Callable[[], bool],
    ) -> bool:
        wanted = iter(what)
        while group := list(islice(wanted, _GROUP)):
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copy") as pool:
                for outcome in pool.map(lambda one: StorageCopyReport() if stopped() else work(one), group):
                    _count(report, outcome)
            if stopped():
                return False
            self._looked += len(group)
            self._progress(self._looked, report.bytes)
        return True

    def _if_there(self, key: str) -> StorageCopyReport:
        stat = self._source.stat(key)
        return StorageCopyReport() if stat is None else self._one((stat, self._target.stat(key)))

    def _demand_same_history(self) -> None:
        here = RemoteSegments(self._source, writing=False).newest()
        there = RemoteSegments(self._target, writing=False).newest()
        if there is None:
            return
        if here is None or here.ledger_id != there.ledger_id:
            raise IntegrityError(
                f"{self._target.place} holds the history of another ledger ({there.ledger_id.hex()}), so nothing was "
                "copied: name an empty place"
            )
        if there.last > here.last:
            raise IntegrityError(
                f"{self._target.place} holds the history up to event {there.last}, but {self._source.place} only up to "
                f"event {here.last}, so nothing was copied: are FROM and TO in the right order?"
            )

    def _paired(self, kind: str) -> Iterator[tuple[RemoteStat, RemoteStat | None]]:
        """Yield each file of the source, with the file of the same key in the target, in the order of keys."""
        targets = self._target.walk(kind)
        there = next(targets, None)
        for stat in self._source.walk(kind):
            while there is not None and there.key < stat.key:
                there = next(targets, None)
            if kind == SEGMENTS or name_in(stat.key) is not None:
                yield stat, there if there is not None and there.key == stat.key else None

    def _one(self, pair: tuple[RemoteStat, RemoteStat | None]) -> StorageCopyReport:
        """Copy a file, unless it is already there."""
        stat, there = pair
        done = StorageCopyReport()
        if there is not None and there.size == stat.size:
            if not self._verify or self._is_same(stat):
                done.there, done.checked = 1, int(self._verify)
                return done
            done.replaced = 1
        try:
            with tempfile.SpooledTemporaryFile(PIECE) as spooled:
                file = cast("BinaryIO", spooled)
                digest = self._fetched(stat, file)
                wrong = wrong_with(stat.key, digest, file)
                if wrong is not None:
                    done.damaged, done.told = 1, [wrong]
                    if self._only_sound or stat.key.startswith("objects/"):
                        return done
                self._target.put_file(stat.key, file)
                if self._verify and self._digest(self._target, stat) != digest:
                    raise StorageError(
                        f"{self._target.place}/{stat.key} has different bytes than were sent: run the command again"
                    )
        except NoSuchKeyError:
            return StorageCopyReport()  # a collector packed it, or wrote a longer segment; the next run looks again
        except OSError as error:
            raise storage_error(error, f"keeping {stat.key} in {tempfile.gettempdir()} until it is sent") from error
        done.files, done.bytes = 1, stat.size
        done.checked = int(self._verify)
        return done

    def _fetched(self, stat: RemoteStat, file: BinaryIO) -> bytes:
        self._source.fetch(stat.key, file)
        return digest_of(file)

    def _is_same(self, stat: RemoteStat) -> bool:
        """Whether the target's bytes are right: those of an object match its name, others are the source's."""
        try:
            digest = self._digest(self._target, stat)
            name = name_in(stat.key)
            if stat.key.startswith("objects/") and name is not None:
                return digest == name
            return digest == self._digest(self._source, stat)
        except NoSuchKeyError:
            return False

    def _digest(self, files: RemoteFiles, stat: RemoteStat) -> bytes:
        digest = hashlib.sha256()
        reader = RemoteReader(files, stat.key, stat.size)
        while piece := reader.read(PIECE):
            digest.update(piece)
        reader.close()
        return digest.digest()


def _count(report: StorageCopyReport, done: StorageCopyReport) -> None:
    for name in ("files", "bytes", "there", "checked", "replaced", "damaged"):
        setattr(report, name, getattr(report, name) + getattr(done, name))
    report.told += done.told[: max(MOST_TOLD - len(report.told), 0)]
