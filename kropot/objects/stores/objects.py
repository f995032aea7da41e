"""The object store on another machine: objects as files under `objects/ab/<sha256>`, small ones in packs.

An object waits here until its SHA-256 is known: small ones in memory, others in an unnamed file, which disappears with
the process. Then it is written once, under its own name, so nothing unfinished is ever seen there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from heapq import merge
from typing import TYPE_CHECKING, BinaryIO, cast

from msgspec.structs import replace

from kropot.durable.errors import DiscardedError, StorageError, storage_error
from kropot.objects.layout import is_object
from kropot.objects.packs.packed import PackedObjects
from kropot.objects.packs.packing import Packing, PackRule
from kropot.objects.store import Leftover, ObjectMissingError, Published, PublishError, Staged
from kropot.objects.stores.files import MARKER, PIECE, NoSuchKeyError, VersionedFiles
from kropot.objects.stores.packs import RemotePacks, RemotePackWriter, pack_key
from kropot.objects.stores.reading import RemoteReader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from kropot.objects.bulk.protocol import BulkReader, Recall
    from kropot.objects.freeing import Freeable
    from kropot.objects.instance import InstanceLock
    from kropot.objects.packs.accounts import PackAccounts
    from kropot.objects.packs.packed import PackPlaces
    from kropot.objects.store import TakenUp
    from kropot.objects.stores.files import RemoteFiles
    from kropot.objects.stores.locks import LockRule
    from ledger.places import Placement

HELD_BYTES = 256 << 10
"""A staged object of at most this many bytes stays in memory."""

MANY = 2
"""This many small objects of a batch are a pack's worth, because requests cost more than bytes."""

WRITERS = 4
"""How many objects to write at the same time as files of their own."""

MARKER_TEXT = b"A storage of KropotCLI. While this file is here, an empty storage is not taken for one that is away.\n"
_SHA256 = 32


def object_key(sha256: bytes) -> str:
    """Return the key of an object's own file. Raises: ValueError if `sha256` is not 32 bytes."""
    if len(sha256) != _SHA256:
        raise ValueError("an object's name is a SHA-256 of 32 bytes")
    return f"objects/{sha256[:1].hex()}/{sha256.hex()}"


def loose_objects(files: RemoteFiles, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int]]:
    """Yield (SHA-256, size) of the objects that are files of their own, start <= SHA-256 < end, in order."""
    after = f"objects/{start[:1].hex()}/{start.hex()}"[:-1] if start else ""
    for stat in files.walk("objects", after):
        folder, _, name = stat.key.removeprefix("objects/").partition("/")
        if not is_object(name, folder):
            continue
        sha256 = bytes.fromhex(name)
        if end is not None and sha256 >= end:
            return
        if sha256 >= start:
            yield sha256, stat.size


class Waiting:
    """What `Staged.pending` is here: an object's bytes, in memory or in an unnamed file, until they are dropped."""

    __slots__ = ("_data", "_file")

    def __init__(self, data: bytes | None, file: BinaryIO | None = None) -> None:
        """Take either bytes or a file."""
        self._data = data
        self._file = file

    @property
    def is_gone(self) -> bool:
        """Whether the bytes were dropped."""
        return self._data is None and self._file is None

    def file(self) -> BinaryIO:
        """Return a file to read the bytes from, at its beginning. Raises: StorageError."""
        if self._file is None:
            return io.BytesIO(self.whole())
        self._file.seek(0)
        return self._file

    def whole(self) -> bytes:
        """Return all bytes. Raises: StorageError."""
        if self._file is not None:
            try:
                self._file.seek(0)
                return self._file.read()
            except OSError as error:
                raise storage_error(error, "reading a staged object") from error
        if self._data is None:
            raise DiscardedError("the staged bytes are gone; they will be fetched again")
        return self._data

    def drop(self) -> None:
        """Forget the bytes."""
        file, self._file, self._data = self._file, None, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


class RemoteObjects:
    """An object store on another machine; nothing is written or locked before `lock`.

    One thread may publish while others stage.
    """

    durable_by = "the store's acknowledgement, then size and digest as it reports them"

    def __init__(
        self,
        files: RemoteFiles,
        instance: str,
        *,
        lock: InstanceLock,
        places: PackPlaces | None = None,
        pack: PackRule | None = None,
        locks: LockRule | None = None,
    ) -> None:
        """Ask nothing yet. `lock` is this machine's; across machines, the lease in the ledger keeps others out.

        `locks` says how long the store locks written files, None if it locks nothing.
        """
        rule = pack or PackRule()
        self._files = files
        self._instance = instance
        self._lock = lock
        self._locks = locks
        self._marking = threading.Lock()
        self._publishing = threading.Lock()
        self._is_marked = False
        self._packs = RemotePacks(files)
        self._packed = PackedObjects(self._packs, places)
        self._packing = Packing(
            replace(rule, many=min(rule.many, MANY)),
            self._packed,
            RemotePackWriter(files),
            read=lambda staged: _waiting(staged).whole(),
            # A request per object would undo what packs save; an object that is there twice does no harm.
            with_files=lambda _: (),
            set_aside=self.set_aside,
        )

    def lock(self) -> None:
        """Lock the instance's name on this machine, and mark the storage. Raises: LockedError, StorageError."""
        with self._marking:
            self._lock.acquire()
            if not self._is_marked:
                if self._files.stat(MARKER) is None:
                    self._files.put(MARKER, MARKER_TEXT)
                self._is_marked = True

    def stage(self, name: str | None = None) -> RemoteUpload:  # noqa: ARG002 -- the protocol has it
        """Start an object; no upload is ever kept here."""
        if not self._is_marked:
            self.lock()
        return RemoteUpload()

    def stage_whole(self, data: bytes, sha256: bytes) -> Staged:
        """Keep the bytes until `publish`."""
        if not self._is_marked:
            self.lock()
        return Staged(path="", sha256=sha256, size=len(data), pending=Waiting(data))

    def has_kept(self, name: str) -> bool:  # noqa: ARG002 -- the protocol has it
        """Return false, because nothing is kept."""
        return False

    def take_up(self, name: str) -> TakenUp | None:  # noqa: ARG002 -- the protocol has it
        """Find nothing."""
        return None

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Make packs first if there are two small objects or more, then write the others, several at a time."""
        with self._publishing:
            there = [at for at, staged in enumerate(batch) if not _waiting(staged).is_gone]
            found = self._packing.publish([batch[at] for at in there])
            packed = {there[at]: outcome for at, outcome in found.items()}
            # Objects of the same name go one after the other, so that the second one finds the first.
            groups: dict[bytes, list[int]] = {}
            for at, staged in enumerate(batch):
                if at not in packed:
                    groups.setdefault(staged.sha256, []).append(at)
            outcomes = dict(packed)
            for done in self._several(
                lambda group: {at: self._publish(batch[at]) for at in group}, list(groups.values())
            ):
                outcomes |= done
            self.discard(batch)
            return [outcomes[at] for at in range(len(batch))]

    def discard(self, batch: Sequence[Staged]) -> None:
        """Drop the bytes."""
        for staged in batch:
            _waiting(staged).drop()

    def open(self, sha256: bytes) -> BinaryIO:
        """Open the object in a pack if the ledger places it, else its own file, read in pieces, else any pack."""
        key = object_key(sha256)
        if self._packed.find([sha256]):
            with contextlib.suppress(ObjectMissingError):
                return self._packed.open(sha256)
        stat = self._files.stat(key)
        if stat is None:
            return self._packed.open(sha256)
        return cast("BinaryIO", RemoteReader(self._files, key, stat.size))

    def placed(self, sha256s: Collection[bytes]) -> Mapping[bytes, Sequence[Placement]]:
        """Ask the ledger, if there is one."""
        return self._packed.find(sha256s)

    def read_placed(self, sha256: bytes, place: Placement | None) -> bytes:
        """Read the range in its pack, or the object's file. The ledger is never asked."""
        try:
            if place is not None and (data := self._packed.range(place)) is not None:
                return data
            return self._files.get(object_key(sha256))
        except NoSuchKeyError:
            return self._packed.read_unasked(sha256)
        except OSError as error:
            raise storage_error(error, f"reading the object {sha256.hex()}") from error

    def size(self, sha256: bytes) -> int | None:
        """Look where the ledger says it is, then at the object's own file, then through the packs."""
        key = object_key(sha256)
        if self._packed.find([sha256]) and (size := self._packed.size(sha256)) is not None:
            return size
        stat = self._files.stat(key)
        return self._packed.size(sha256) if stat is None else stat.size

    def holds(self, sha256: bytes, size: int, place: Placement | None = None) -> bool:
        """Look for the pack that it was put into, else for the object."""
        if place is not None and self._files.stat(pack_key(place.pack)) is not None:
            return True
        return self.size(sha256) == size

    def freeing(self) -> Freeable:
        """Return the `RemoteFreeing` of this storage."""
        from kropot.objects.stores.freeing import RemoteFreeing

        return RemoteFreeing(self._files, self._locks)

    def recall(self) -> Recall | None:
        """Return a `Recall` for the older versions, if the store keeps any."""
        from kropot.objects.stores.recall import RemoteRecall

        if isinstance(self._files, VersionedFiles) and self._files.keeps_versions():
            return RemoteRecall(self._files.older(), self._packed.places)
        return None

    def walk(self, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, int]]:
        """Walk files and packs; memory holds a page of names."""
        last = None
        for sha256, size in merge(
            loose_objects(self._files, start, end), self._packed.walk(start, end), key=lambda found: found[0]
        ):
            if sha256 != last:
                yield sha256, size
            last = sha256

    def bulk_reader(
        self,
        *,
        objects: int,
        size: int,  # noqa: ARG002 -- packs tell how much there is
        stopped: Callable[[], bool],
        take: Callable[[int], None] | None = None,
    ) -> BulkReader | None:
        """Return a reader of whole packs, and of files with threads."""
        from kropot.objects.stores.bulk import RemoteBulkReader

        return RemoteBulkReader(self._files, self, self.pack_accounts(), objects=objects, stopped=stopped, take=take)

    def pack_accounts(self) -> PackAccounts:
        """Read the indexes of all packs."""
        from kropot.objects.packs.accounts import PackAccounts

        return PackAccounts(self._packs, self._packed.places)

    def drop_place(self, sha256: bytes, pack: bytes) -> None:
        """Tell the ledger, if there is one."""
        self._packed.places.drop(sha256, pack)

    def set_aside(self, sha256: bytes) -> str:
        """Move the object's file to `quarantine/<sha256>.<number>`, or copy it from a pack and drop its places."""
        source = object_key(sha256)
        taken = {
            stat.key
            for stat in self._files.walk("quarantine", f"quarantine/{sha256.hex()}.")
            if sha256.hex() in stat.key
        }
        target = next(
            key for number in itertools.count() if (key := f"quarantine/{sha256.hex()}.{number}") not in taken
        )
        try:
            self._files.move(source, target)
        except NoSuchKeyError:
            with self._packed.open(sha256) as packed:
                self._files.put(target, packed.read())
            self._packed.drop(sha256)
        return f"{self._files.place}/{target}"

    def leftovers(self) -> Iterator[Leftover]:
        """Yield every file that is not an object, pack or segment, page by page."""
        for stat in self._files.walk("tmp"):
            instance = stat.key.split("/")[1]
            yield Leftover(kind="temporary", path=stat.key, size=stat.size, instance=instance)
        for stat in self._files.walk("quarantine"):
            yield Leftover(kind="quarantined", path=stat.key, size=stat.size)
        for kind in ("packs", "objects"):
            for stat in self._files.walk(kind):
                folder, _, name = stat.key.removeprefix(f"{kind}/").partition("/")
                if not (len(folder) == 2 and is_object(name, folder)):  # noqa: PLR2004 -- ab/<64 hex>
                    yield Leftover(kind="stray", path=stat.key, size=stat.size)

    def clean_own_leftovers(self, wants: Callable[[bytes], bool]) -> int:  # noqa: ARG002 -- nothing is kept here
        """Remove what interrupted uploads of this instance left, and old ones of no instance."""
        self.lock()
        return self._files.sweep(self._instance)

    def free_bytes(self) -> int | None:
        """Ask the store, if it can say."""
        return self._files.room().bytes

    def close(self) -> None:
        """End the connections, and release the lock."""
        self._is_marked = False
        self._files.close()
        self._lock.release()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _several(
        self, work: Callable[[list[int]], dict[int, Published | PublishError]], groups: list[list[int]]
    ) -> Iterator[dict[int, Published | PublishError]]:
        if len(groups) < MANY:
            yield from map(work, groups)
            return
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="store") as pool:
            yield from pool.map(work, groups)

    def _publish(self, staged: Staged) -> Published | PublishError:
        """Write an object under its name, unless a sound one has it."""
        key = object_key(staged.sha256)
        set_aside = None
        try:
            waiting = _waiting(staged)
            if waiting.is_gone:
                waiting.whole()
            there = self._files.stat(key)
            if there is not None and self._is_sound(key, there.size, staged):
                return Published(sha256=staged.sha256, size=staged.size, existed=True)
            if there is not None:
                set_aside = self.set_aside(staged.sha256)
            if staged.size <= PIECE:
                self._files.put(key, waiting.whole())
            else:
                self._files.put_file(key, waiting.file())
        except StorageError as error:
            return PublishError(sha256=staged.sha256, size=staged.size, error=error)
        return Published(sha256=staged.sha256, size=staged.size, set_aside=set_aside)

    def _is_sound(self, key: str, size: int, staged: Staged) -> bool:
        """Read an object that is there, and compare it with its name."""
        if size != staged.size:
            return False
        digest = hashlib.sha256()
        reader = io.BufferedReader(RemoteReader(self._files, key, size), 1 << 20)
        while data := reader.read(1 << 20):
            digest.update(data)
        return digest.digest() == staged.sha256


class RemoteUpload:
    """An object on its way in: in memory, then in an unnamed file once it is no longer small."""

    def __init__(self) -> None:
        """Start empty."""
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = io.BytesIO()
        self._is_spooled = False
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hash and keep the bytes."""
        if self._file is None:
            raise StorageError("the upload has ended")
        try:
            if not self._is_spooled and self.size + len(data) > HELD_BYTES:
                self._spool()
            self._file.write(data)
        except OSError as error:
            self.abort()
            raise storage_error(error, f"keeping an object in {tempfile.gettempdir()} until it is sent") from error
        self._hash.update(data)
        self.size += len(data)

    def finish(self) -> Staged:
        """Hand the bytes over."""
        file, self._file = self._file, None
        if file is None:
            raise StorageError("the upload has ended")
        try:
            file.flush()
            pending = Waiting(None, file) if self._is_spooled else Waiting(cast("io.BytesIO", file).getvalue())
        except OSError as error:
            file.close()
            raise storage_error(error, f"keeping an object in {tempfile.gettempdir()} until it is sent") from error
        return Staged(path="", sha256=self._hash.digest(), size=self.size, pending=pending)

    def abort(self) -> None:
        """Forget the bytes."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def keep(self, note: bytes) -> None:
        """Keep nothing."""

    def suspend(self) -> None:
        """Forget the bytes."""
        self.abort()

    def _spool(self) -> None:
        held = cast("io.BytesIO", self._file).getvalue()
        self._file = cast("BinaryIO", tempfile.TemporaryFile(prefix="kropotcli-"))  # noqa: SIM115 -- `finish` hands it over
        self._is_spooled = True
        self._file.write(held)


def _waiting(staged: Staged) -> Waiting:
    if not isinstance(staged.pending, Waiting):
        raise TypeError("this object was staged by another store")
    return staged.pending
