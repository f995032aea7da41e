"""Packs on another machine: a pack is one file there; its index is read with its last bytes, its objects by range."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from kropot.durable.errors import StorageError
from kropot.objects.layout import Layout, is_object
from kropot.objects.packs.folder import PackFolder
from kropot.objects.packs.reader import PackFile
from kropot.objects.packs.writer import PackWriter
from kropot.objects.stores.files import NoSuchKeyError
from kropot.objects.stores.reading import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.objects.stores.files import RemoteFiles

_TAIL = 64 << 10
"""How many bytes to read at once from the end: the footer, and the index of a pack of 1,364 objects."""

_MANY_READS = 32
"""After this many scattered reads, fetching the whole pack pays off, if memory has room."""

_OPEN = 4096
_MOST_HELD = 192 << 20
"""How many packs, or bytes of their indexes and of other parts that were read, stay in memory."""


def pack_key(name: bytes) -> str:
    """Return the key of a pack."""
    return f"packs/{name[:1].hex()}/{name.hex()}"


def freed_pack_key(name: bytes) -> str:
    """Return the key of a pack that is out of sight, because it is being freed."""
    return f"freed/{name.hex()}.pack"


class RemotePack(PackFile):
    """A pack on another machine; once its index was read, it stays in memory."""

    def __init__(self, files: RemoteFiles, name: bytes, *, may_hold: Callable[[], bool] = lambda: False) -> None:
        """Read the footer. After many reads, the whole pack is read and kept, if `may_hold` returns true.

        Raises: NoSuchKeyError, StorageError.
        """
        self._may_hold = may_hold
        self._reads = 0
        self.name, self._key = name, pack_key(name)
        self.path = f"{files.place}/{self._key}"
        self._files = files
        self._guard = threading.Lock()
        self._window = ReadAhead()
        self._tail, stat = files.tail(self._key, _TAIL)
        self.tag = (stat.tag, stat.size, stat.changed_s)
        self._learn(stat.size, hash(self.tag))

    @property
    def held(self) -> int:
        """How many bytes of it are in memory: all of them, if the store does not support ranges."""
        return len(self._tail) + self._window.held

    def fileno(self) -> int:
        """Refuse, because there is no descriptor. Raises: OSError."""
        raise OSError(errno.EOPNOTSUPP, "a remote pack has no file descriptor")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from a range; bytes past the end of the pack become zeros. Raises: OSError."""
        data = self.read(offset, len(buffer))
        buffer[: len(data)] = data
        buffer[len(data) :] = bytes(len(buffer) - len(data))

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range, fewer if the pack ends before it does. Raises: OSError."""
        length = max(min(length, self.size - offset), 0)
        if offset < 0 or not length:
            return b""
        with self._guard:
            try:
                begins = self.size - len(self._tail)
                if offset < begins and self._footer is not None and offset >= self._footer.data_end:
                    # This is part of the index, which is read as a whole, and kept.
                    self._tail = self._files.get(self._key, self._footer.data_end, begins) + self._tail
                    begins = self.size - len(self._tail)
                if offset >= begins:
                    return self._tail[offset - begins : offset - begins + length]
                self._reads += 1
                if self._reads == _MANY_READS and self._may_hold():
                    self._tail = self._files.get(self._key, 0, begins) + self._tail
                    return self._tail[offset : offset + length]
                return self._window.read(
                    offset, length, self.size, lambda start, end: self._files.get(self._key, start, end)
                )
            except StorageError as error:
                raise OSError(errno.EREMOTEIO, str(error)) from error


class RemotePacks(PackFolder):
    """The packs of a storage on another machine."""

    def __init__(self, files: RemoteFiles) -> None:
        """Ask nothing yet."""
        super().__init__(Layout(files.place), keep=_OPEN)
        self._remote = files
        self._sizes: dict[bytes, int] = {}

    def names(self) -> list[bytes]:
        """List the packs, in order. Raises: StorageError."""
        found = []
        for stat in self._remote.walk("packs"):
            folder, _, name = stat.key.removeprefix("packs/").partition("/")
            if is_object(name, folder):
                found.append(bytes.fromhex(name))
        return found

    def open(self, name: bytes) -> PackFile | None:
        """Return an open pack; close the least recently used ones while all together hold too much."""
        pack = super().open(name)
        with self._lock:
            while (
                len(self._open) > 1
                and sum(one.held for one in self._open.values() if isinstance(one, RemotePack)) > _MOST_HELD
            ):
                self._open.popitem(last=False)
        return pack

    def has(self, name: bytes) -> bool:
        """Look for the file."""
        return self._remote.stat(pack_key(name)) is not None

    def is_put_away(self, name: bytes) -> bool:
        """Look for the file in `freed/`; if the store keeps versions, nothing is moved there."""
        return self._remote.stat(freed_pack_key(name)) is not None

    def settle(self, names: Sequence[bytes]) -> None:
        """Do nothing, because a listed file is durable."""

    def _opened(self, name: bytes) -> PackFile | None:
        try:
            pack = RemotePack(self._remote, name, may_hold=self._all_fit)
        except NoSuchKeyError:
            return None
        with self._lock:
            self._sizes[name] = pack.size
        return pack

    def _all_fit(self) -> bool:
        """Whether all packs that were ever opened here fit in memory together."""
        with self._lock:
            return sum(self._sizes.values()) <= _MOST_HELD


class RemotePackWriter(PackWriter):
    """Makes packs: each is one file, which is there completely or not at all."""

    def __init__(self, files: RemoteFiles) -> None:
        """Ask nothing yet."""
        self._remote = files

    def _put(self, name: bytes, pieces: list[bytes]) -> None:
        self._remote.put(pack_key(name), b"".join(pieces))
