"""What a storage on another machine must be able to do: files under keys, whole when they are there.

Keys are relative to the storage's root, with slashes between their parts. All methods raise StorageError; a call from
any thread and, in a fork, from any process is fine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

from kropot.durable.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.durable.filesystem import Room

PIECE = 8 << 20
"""Bytes per request while a large file is read or written."""


MARKER = "storage.txt"
"""The file that marks a storage, even an empty one."""


class NoSuchKeyError(StorageError):
    """There is no file under this key."""

    def __init__(self, place: str, key: str) -> None:
        """Name the storage and the key."""
        super().__init__(f"there is no {place}/{key}")
        self.key = key


class RemoteStat(NamedTuple):
    """A file: its key, size in bytes, time of the last change in seconds since 1970, and a tag that tells versions."""

    key: str
    size: int
    changed_s: float
    tag: str | None = None


class RemoteVersion(NamedTuple):
    """A version of a file, as `RemoteStat` tells of a file; `id` tells it from others of the same key.

    A `is_marker` has no bytes: it says that the file was removed. Only the newest version of a key `is_newest`.
    """

    key: str
    id: str
    size: int
    changed_s: float
    tag: str | None
    is_marker: bool
    is_newest: bool


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a store can do beyond the least; nothing that is promised rests on any of it.

    `conditional_put`: it can refuse to write over a file. `rename`: a file can get another name in one step.
    `free_space`: it says how much room it has. `digests`: it says a digest of what it stored. `ranges`: it gives a part
    of a file alone; where it does not, files are fetched as a whole. `versions`: older versions of a file can be asked
    for, where the store keeps any (`VersionedFiles`).
    """

    conditional_put: bool
    rename: bool
    free_space: bool
    digests: bool
    ranges: bool = True
    versions: bool = False


class RemoteFiles(Protocol):
    """Files on another machine."""

    @property
    def place(self) -> str:
        """The storage's address, for messages; it holds no secret."""
        ...

    @property
    def can(self) -> Capabilities:
        """What this kind of store can do."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write a file, replacing one of this name. It is durable, whole and read back when this returns.

        Read back means: its size, and its digest where the store tells one.
        """
        ...

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Write a large file from what can be read and read again, as `put` does."""
        ...

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return the bytes of a range, fewer where the file ends before it does. Raises: NoSuchKeyError."""
        ...

    def fetch(self, key: str, into: BinaryIO) -> None:
        """Write the whole file into an open one, which may be large. Raises: NoSuchKeyError, OSError."""
        ...

    def tail(self, key: str, length: int) -> tuple[bytes, RemoteStat]:
        """Return a file's last bytes, at least `length` of them if it has so many. Raises: NoSuchKeyError."""
        ...

    def stat(self, key: str) -> RemoteStat | None:
        """Return what is known about a file, None if there is none."""
        ...

    def walk(self, folder: str, after: str = "") -> Iterator[RemoteStat]:
        """Yield every file below a folder ("" for all) whose key is greater than `after`, in the order of keys."""
        ...

    def remove(self, key: str) -> None:
        """Remove a file; it is no error if it is gone."""
        ...

    def move(self, source: str, target: str) -> None:
        """Give a file another key: durable under the new one before the old one goes. Raises: NoSuchKeyError."""
        ...

    def room(self) -> Room:
        """Return how much more can be written, as far as that is known."""
        ...

    def sweep(self, instance: str) -> int:
        """Remove what uploads that were cut have left, those of an instance and those of nobody; return how many."""
        ...

    def close(self) -> None:
        """End the connections of this process."""
        ...


class OlderReader(RemoteFiles, Protocol):
    """Files of which older versions are read where the newest is gone or spoilt."""

    def instead(self, key: str) -> RemoteVersion | None:
        """Return the older version that is read in the place of the newest; None if the newest is read, or none is."""
        ...

    def put_again(self, key: str) -> bool:
        """Write the older version that is read as the newest one; False if there is no such version."""
        ...


@runtime_checkable
class VersionedFiles(RemoteFiles, Protocol):
    """Files whose older versions can be asked for. Whether the store really keeps any, `keeps_versions` asks it."""

    def keeps_versions(self) -> bool:
        """Ask, once a process, whether a file that is removed or written over leaves an older version.

        False where the store does not tell these keys. Raises: StorageError.
        """
        ...

    def versions(self, prefix: str, after: str = "") -> Iterator[RemoteVersion]:
        """Yield the versions of all files whose keys begin with `prefix`, by key, the newest of each key first.

        Only keys greater than `after` are told.
        """
        ...

    def older(self) -> OlderReader:
        """Return the same files for readers: where the newest version is gone or spoilt, they read an older one."""
        ...

    def fetch_version(self, version: RemoteVersion, into: BinaryIO) -> None:
        """Write a version into an open file. Raises: NoSuchKeyError, OSError."""
        ...

    def get_version(self, version: RemoteVersion, start: int, end: int) -> bytes:
        """Return the bytes of a range of a version, fewer where it ends before. Raises: NoSuchKeyError."""
        ...

    def remove_version(self, version: RemoteVersion) -> float | None:
        """Remove a version for good. Return None if it is gone, or until when it is locked, in seconds since 1970.

        Raises: StorageError, also where the store refuses for another reason than a lock.
        """
        ...

    def demand_removable(self) -> None:
        """Return if the store keeps no versions, or lets these keys remove those that are not locked.

        Raises: StorageError, also where it does not tell these keys whether it keeps any.
        """
        ...

    def locked_days(self) -> int | None:
        """Ask for how many days the store locks what is written, None if it locks nothing. Raises: StorageError."""
        ...
