"""What a storage on another machine must be able to do: keep files under keys, each of them complete if it is there.

Keys are relative to the storage's root, with slashes between their parts. All methods can raise StorageError, and can
be called from any thread and, in a fork, from any process.
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
    """A file: its key, size in bytes, last change in seconds since 1970, and a tag that distinguishes versions."""

    key: str
    size: int
    changed_s: float
    tag: str | None = None


class RemoteVersion(NamedTuple):
    """A version of a file, described as in `RemoteStat`; `id` distinguishes it from others of the same key.

    If `is_marker`, it has no bytes: it says that the file was removed. Only the newest version of a key `is_newest`.
    """

    key: str
    id: str
    size: int
    changed_s: float
    tag: str | None
    is_marker: bool
    is_newest: bool


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a store can do beyond the minimum; no promise depends on any of it.

    `conditional_put`: it can refuse to overwrite a file. `rename`: a file can get another name in one step.
    `free_space`: it reports how much room it has. `digests`: it reports a digest of what it stored. `ranges`: it can
    return part of a file; if not, files are fetched as a whole. `versions`: older versions of a file can be requested,
    if the store keeps any (`VersionedFiles`).
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
        """Write a file, replacing one of this name. It is durable, complete and read back when this returns.

        Reading back compares its size, and its digest if the store reports one.
        """
        ...

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Write a large file as `put` does, from a file that can be read more than once."""
        ...

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return the bytes of a range, fewer if the file ends before it does. Raises: NoSuchKeyError."""
        ...

    def fetch(self, key: str, into: BinaryIO) -> None:
        """Write the whole file, which can be large, into an open one. Raises: NoSuchKeyError, OSError."""
        ...

    def tail(self, key: str, length: int) -> tuple[bytes, RemoteStat]:
        """Return a file's last bytes, at least `length` of them if it has that many. Raises: NoSuchKeyError."""
        ...

    def stat(self, key: str) -> RemoteStat | None:
        """Return what is known about a file, None if there is none."""
        ...

    def walk(self, folder: str, after: str = "") -> Iterator[RemoteStat]:
        """Yield every file below a folder ("" for all) whose key is greater than `after`, in the order of keys."""
        ...

    def remove(self, key: str) -> None:
        """Remove a file; it is not an error if it is gone."""
        ...

    def move(self, source: str, target: str) -> None:
        """Give a file another key; it is durable under the new one before the old one goes. Raises: NoSuchKeyError."""
        ...

    def room(self) -> Room:
        """Return how much more can be written, as far as that is known."""
        ...

    def sweep(self, instance: str) -> int:
        """Remove what interrupted uploads left, those of this instance and those of no instance; return how many."""
        ...

    def close(self) -> None:
        """End the connections of this process."""
        ...


class OlderReader(RemoteFiles, Protocol):
    """Files that are read in an older version if the newest one is gone or damaged."""

    def instead(self, key: str) -> RemoteVersion | None:
        """Return the older version that is read instead of the newest; None if the newest is read, or none is."""
        ...

    def put_again(self, key: str) -> bool:
        """Write the older version that is read again, as the newest one; False if there is no such version."""
        ...


@runtime_checkable
class VersionedFiles(RemoteFiles, Protocol):
    """Files whose older versions can be requested. `keeps_versions` asks the store whether it really keeps any."""

    def keeps_versions(self) -> bool:
        """Ask, once per process, whether a file that is removed or overwritten leaves an older version.

        Return False if the store does not tell these keys. Raises: StorageError.
        """
        ...

    def versions(self, prefix: str, after: str = "") -> Iterator[RemoteVersion]:
        """Yield the versions of all files whose keys begin with `prefix`, by key, the newest of each key first.

        Only keys greater than `after` are listed.
        """
        ...

    def older(self) -> OlderReader:
        """Return the same files for readers: if the newest version is gone or damaged, they read an older one."""
        ...

    def fetch_version(self, version: RemoteVersion, into: BinaryIO) -> None:
        """Write a version into an open file. Raises: NoSuchKeyError, OSError."""
        ...

    def get_version(self, version: RemoteVersion, start: int, end: int) -> bytes:
        """Return the bytes of a range of a version, fewer if it ends before the range. Raises: NoSuchKeyError."""
        ...

    def remove_version(self, version: RemoteVersion) -> float | None:
        """Remove a version for good. Return None if it is gone, or when its lock ends, in seconds since 1970.

        Raises: StorageError, also if the store refuses for another reason than a lock.
        """
        ...

    def demand_removable(self) -> None:
        """Check that the store keeps no versions, or lets these keys remove those that are not locked.

        Raises: StorageError if not, or if it does not tell these keys whether it keeps any.
        """
        ...

    def locked_days(self) -> int | None:
        """Return for how many days the store locks written files, None if it locks nothing. Raises: StorageError."""
        ...
