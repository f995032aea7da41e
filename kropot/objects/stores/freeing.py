"""Free objects and packs in a storage on another machine: move them to `freed/`, out of sight, and then remove them.

See `kropot/objects/freeing.py`. In a bucket, a move is a copy and a removal, so several run at the same time. If the
store keeps versions, a removal alone puts a file out of sight, and its older version can be put again: a copy in
`freed/` would only be one more locked file. The bucket's own rule frees older versions.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kropot.durable.errors import storage_error
from kropot.objects.freeing import FreedObject
from kropot.objects.layout import is_object
from kropot.objects.packs.format import PackDamagedError
from kropot.objects.packs.rewriting import PackContents, PackRewriter, live_objects
from kropot.objects.stores.files import NoSuchKeyError, VersionedFiles
from kropot.objects.stores.objects import object_key
from kropot.objects.stores.packs import RemotePack, RemotePackWriter, freed_pack_key, pack_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from typing import TypeVar

    from kropot.objects.stores.files import RemoteFiles
    from kropot.objects.stores.locks import LockRule
    from ledger.places import Placement

    T = TypeVar("T")
    U = TypeVar("U")

FOLDER = "freed"
AT_ONCE = 8
_SUFFIX = ".pack"
_SECOND_US = 1_000_000


class RemoteFreeing:
    """Frees objects that are files of their own."""

    def __init__(self, files: RemoteFiles, locks: LockRule | None = None) -> None:
        """Ask nothing yet. `locks` says how long the store locks written files."""
        self._files = files
        self._locks = locks

    def put_away(self, sha256s: Iterable[bytes]) -> list[FreedObject]:
        """Move each to `freed/`, or only remove it."""
        return [found for found in _several(self._put_away, list(sha256s)) if found is not None]

    def bring_back(self, sha256s: Iterable[bytes]) -> None:
        """Move back; if the object has been stored again meanwhile, remove this file instead."""
        _several(lambda sha256: _bring_back(self._files, _freed_key(sha256), object_key(sha256)), list(sha256s))

    def destroy(self, sha256s: Iterable[bytes]) -> None:
        """Remove each; in a bucket with versions this leaves the older ones to its rules."""
        _several(lambda sha256: self._files.remove(_freed_key(sha256)), sorted(set(sha256s)))

    def put_away_before(self) -> Iterator[FreedObject]:
        """List `freed/`."""
        for stat in self._files.walk(FOLDER):
            name = stat.key.removeprefix(f"{FOLDER}/")
            if is_object(name, ""):
                yield FreedObject(bytes.fromhex(name), stat.size)

    def age_us(self, sha256: bytes, now_us: int) -> int | None:
        """Look at when the file was last changed, by the server's clock."""
        return _age_us(self._files, object_key(sha256), now_us)

    def quarantine_age_us(self, path: str, now_us: int) -> int | None:
        """Look at when the file was moved."""
        return _age_us(self._files, path, now_us)

    def remove_quarantined(self, path: str) -> None:
        """Remove the file."""
        self._files.remove(path)

    def _put_away(self, sha256: bytes) -> FreedObject | None:
        stat = self._files.stat(object_key(sha256))
        if stat is None:
            return None
        is_locked = self._locks is not None and self._locks.is_locked(stat.changed_s, time.time())
        if not _put_away(self._files, stat.key, _freed_key(sha256)):
            return None
        return FreedObject(sha256, stat.size, is_locked)


class RemoteRewriter(PackRewriter):
    """Rewrites packs there, for a process that holds this machine's gatherer lock."""

    def __init__(self, files: RemoteFiles, locks: LockRule | None = None) -> None:
        """Ask nothing yet. `locks` says how long the store locks written files."""
        self._remote = files
        self._locks = locks
        self._packs = RemotePackWriter(files)

    def contents(self, name: bytes, now_us: int) -> PackContents | None:
        """Read the index."""
        try:
            pack = RemotePack(self._remote, name)
            entries, changed_s = pack.entries(), pack.tag[2]
        except (NoSuchKeyError, PackDamagedError):
            return None
        except OSError as error:
            raise storage_error(error, f"reading the pack {name.hex()}") from error
        contents = PackContents(entries, max(now_us - int(changed_s * _SECOND_US), 0))
        if self._locks is None:
            return contents
        now_s = now_us / _SECOND_US
        return contents._replace(
            is_locked=self._locks.is_locked(changed_s, now_s), is_spared=self._locks.is_spared(changed_s, now_s)
        )

    def copy(self, name: bytes, live: Collection[bytes]) -> list[Placement] | None:
        """Read the live objects, and write them into new packs."""
        try:
            whole = live_objects(RemotePack(self._remote, name), live)
        except (NoSuchKeyError, PackDamagedError):
            return None
        except OSError as error:
            raise storage_error(error, f"reading the pack {name.hex()}") from error
        return None if whole is None else self._packs.write_all(whole)

    def put_away(self, name: bytes) -> bool:
        """Move the pack to `freed/`, or only remove it."""
        return _put_away(self._remote, pack_key(name), freed_pack_key(name))

    def bring_back(self, name: bytes) -> None:
        """Move it back, unless it was written again meanwhile."""
        _bring_back(self._remote, freed_pack_key(name), pack_key(name))

    def destroy(self, name: bytes) -> None:
        """Remove it."""
        self._remote.remove(freed_pack_key(name))

    def put_away_before(self) -> Iterator[bytes]:
        """List `freed/`."""
        for stat in self._remote.walk(FOLDER):
            name = stat.key.removeprefix(f"{FOLDER}/").removesuffix(_SUFFIX)
            if stat.key.endswith(_SUFFIX) and is_object(name, ""):
                yield bytes.fromhex(name)


def _freed_key(sha256: bytes) -> str:
    return f"{FOLDER}/{sha256.hex()}"


def _put_away(files: RemoteFiles, key: str, away: str) -> bool:
    """Move a file out of sight; return False if it is not there."""
    if isinstance(files, VersionedFiles) and files.keeps_versions():
        if files.stat(key) is None:
            return False
        files.remove(key)
        return True
    try:
        files.move(key, away)
    except NoSuchKeyError:
        return False
    return True


def _bring_back(files: RemoteFiles, away: str, key: str) -> None:
    if files.stat(key) is not None:
        files.remove(away)
        return
    if isinstance(files, VersionedFiles) and files.keeps_versions():
        older = files.older()
        try:
            if older.put_again(key):
                return
        finally:
            older.close()
    try:
        files.move(away, key)
    except NoSuchKeyError:
        return


def _age_us(files: RemoteFiles, key: str, now_us: int) -> int | None:
    stat = files.stat(key)
    return None if stat is None else max(0, now_us - int(stat.changed_s * _SECOND_US))


def _several(work: Callable[[T], U], what: list[T]) -> list[U]:
    """Do the work for each, several at the same time. Raises: the first error, after all have ended."""
    if len(what) <= 1:
        return [work(one) for one in what]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="freeing") as pool:
        return list(pool.map(work, what))
