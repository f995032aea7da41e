"""Older versions in a bucket: which ones erasures must remove, and how long they are locked.

A version that is locked when its content is erased is noted below `erasing/`, in the storage itself, so that anyone who
has the storage can remove it when its lock has ended. The notes hold keys, version ids and times, but no names.
"""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_right
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kropot.durable.errors import StorageError, storage_error
from kropot.objects.packs.format import PackDamagedError
from kropot.objects.stores.files import NoSuchKeyError, RemoteVersion
from kropot.objects.stores.freeing import FOLDER as FREED
from kropot.objects.stores.judging import is_sound, name_in
from kropot.objects.stores.objects import object_key
from kropot.objects.stores.packs import RemotePack
from kropot.objects.stores.waiting import LockedVersions, Purged
from kropot.segments import FOLDER as SEGMENTS
from kropot.segments import told_by
from ledger.transfer.segments import SEGMENT_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from kropot.objects.stores.files import OlderReader, VersionedFiles
    from kropot.objects.stores.locks import LockRule
    from kropot.objects.stores.renewing import Renewal
    from ledger.places import PlaceStore

ERASING: Final = "erasing"
CURRENT: Final = ("objects", "packs", SEGMENTS)
"""Where the files of a storage are."""


class LockShare(Struct, frozen=True, kw_only=True):
    """Of the `bytes` in the newest versions, `locked` are still locked; the first of their locks ends at `first_s`.

    `days` is the bucket's default retention as the user says it, `bucket_days` as the bucket says it; None for none, or
    if it does not tell these keys (`is_told`). `waiting` is for erasures. The bytes are None if nobody looked.
    """

    days: int | None
    bucket_days: int | None
    is_told: bool
    waiting: LockedVersions
    bytes: int | None = None
    locked: int | None = None
    first_s: float | None = None


class VersionedStorage:
    """The versions in one storage."""

    def __init__(self, files: VersionedFiles, rule: LockRule | None, *, clock: Callable[[], float] = time.time) -> None:
        """Ask nothing yet; `clock` gives seconds since 1970."""
        self._files = files
        self._rule = rule
        self._clock = clock
        self._written: str | None = None

    # --- what an erasure removes -------------------------------------------------------------------------------------

    def purge_objects(self, sha256s: Collection[bytes], places: PlaceStore) -> Purged:
        """Remove every version of these objects, and of removed packs that had one of them.

        Raises: StorageError, also if the ledger still names such a pack, because it might have the last copies.
        """
        done = Purged()
        for sha256 in sorted(sha256s):
            text = sha256.hex()
            for prefix in (object_key(sha256), f"{FREED}/{text}", f"quarantine/{text}."):
                done += self._purge(self._files.versions(prefix))
        older = self._files.older()
        try:
            for key in self._packs_gone():
                name = name_in(key)
                if name is not None and not self._entries(older, name).isdisjoint(sha256s):
                    self._demand_unneeded(name, places)
                    done += self._purge(self._files.versions(key))
                    done += self._purge(self._files.versions(f"{FREED}/{name.hex()}"))
        finally:
            older.close()
        return done

    def purge_segments(self, positions: Sequence[int]) -> Purged:
        """Remove older versions of segments that might hold these events, given in order. The newest versions stay."""
        return self._purge(
            version
            for version in self._files.versions(f"{SEGMENTS}/")
            if (version.is_marker or not version.is_newest) and _may_hold(version.key, positions)
        )

    def retry(self, is_needed: Callable[[str], bool], *, even_if_locked: bool = False) -> Purged:
        """Remove the versions that waited for their locks to end. Raises: StorageError.

        Anyone who can write here can note any version. So a version keeps waiting if it might be the last one of
        something: if `is_needed` says that the ledger needs its key, or if no newer version of its segment is sound.
        """
        done = Purged()
        for key, noted in self._notes():
            waiting = _waiting(noted)
            if not even_if_locked and min((one.until_s for one in noted), default=0.0) > self._clock():
                done += Purged(0, waiting)
                continue
            kept = {name for name in {one.version.key for one in noted} if self._must_stay(name, is_needed)}
            done += self._purge(
                (one.version for one in noted if one.version.key not in kept),
                [one for one in noted if one.version.key in kept],
            )
            if self._written != key:
                self._files.remove(key)
        return done

    def waiting(self) -> LockedVersions:
        """Return the versions that wait for their locks to end. Raises: StorageError."""
        # An erasure that was tried twice can have noted the same versions twice.
        once = {(one.version.key, one.version.id): one for _, noted in self._notes() for one in noted}
        return _waiting(list(once.values()))

    # --- locks -------------------------------------------------------------------------------------------------------

    def renewal(self) -> Renewal | None:
        """Return the `Renewal` of this storage, None if the user does not say that the bucket locks files."""
        from kropot.objects.stores.renewing import Renewal

        return None if self._rule is None else Renewal(self._files, self._rule, clock=self._clock)

    def share(self, *, everything: bool) -> LockShare:
        """Return how much of the storage is locked; with `everything`, look at every file. Raises: StorageError."""
        rule, now_s = self._rule, self._clock()
        bucket_days, is_told = self._told_days()
        found = LockShare(
            days=None if rule is None else rule.days,
            bucket_days=bucket_days,
            is_told=is_told,
            waiting=self.waiting(),
        )
        if rule is None or not everything:
            return found
        size = locked = 0
        first_s: float | None = None
        for kind in CURRENT:
            for stat in self._files.walk(kind):
                size += stat.size
                if rule.is_locked(stat.changed_s, now_s):
                    locked += stat.size
                    until_s = rule.until_s(stat.changed_s)
                    first_s = until_s if first_s is None else min(first_s, until_s)
        return replace(found, bytes=size, locked=locked, first_s=first_s)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _told_days(self) -> tuple[int | None, bool]:
        """Return for how many days the bucket locks, and whether it tells these keys. Raises: StorageError."""
        try:
            return self._files.locked_days(), True
        except StorageError as error:
            if error.passes:
                raise
            return None, False

    def _must_stay(self, key: str, is_needed: Callable[[str], bool]) -> bool:
        """Whether older versions of a file might be the only sound ones of something that the ledger needs."""
        told = told_by(key.removeprefix(f"{SEGMENTS}/"), SEGMENT_EVENTS) if key.startswith(f"{SEGMENTS}/") else None
        if told is None:
            return is_needed(key)
        for stat in self._files.walk(SEGMENTS):
            other = told_by(stat.key.removeprefix(f"{SEGMENTS}/"), SEGMENT_EVENTS)
            if (
                other is not None
                and other.number == told.number
                and other.last >= told.last
                and is_sound(self._files, stat.key)
            ):
                return False
        return True

    def _purge(self, versions: Iterable[RemoteVersion], kept: Sequence[_Noted] = ()) -> Purged:
        """Remove versions, and note those that are locked, and those in `kept`.

        The markers of a key go last, because without them a locked version would be the newest one again.
        """
        removed = 0
        noted = list(kept)
        for _, group in groupby(versions, lambda version: version.key):
            markers: list[RemoteVersion] = []
            ends: list[float] = []
            for version in group:
                if version.is_marker:
                    markers.append(version)
                    continue
                until_s = self._files.remove_version(version)
                if until_s is None:
                    removed += 1
                else:
                    noted.append(_Noted(version, until_s))
                    ends.append(until_s)
            for marker in markers:
                if ends:
                    noted.append(_Noted(marker, max(ends)))
                else:
                    self._files.remove_version(marker)
        self._write_down(noted)
        return Purged(removed, _waiting(noted))

    def _write_down(self, noted: list[_Noted]) -> None:
        """Note the versions that wait. The same ones give the same file, which must not be written and locked twice."""
        self._written = None
        if not noted:
            return
        rows = [[one.version.key, one.version.id, one.version.is_marker, one.until_s] for one in noted]
        text = json.dumps({"versions": rows}).encode()
        self._written = f"{ERASING}/{hashlib.sha256(text).hexdigest()}"
        if self._files.stat(self._written) is None:
            self._files.put(self._written, text)

    def _notes(self) -> Iterator[tuple[str, list[_Noted]]]:
        """Yield the key of each note, and its versions. Raises: StorageError if a note is not readable."""
        for stat in list(self._files.walk(ERASING)):
            try:
                rows = json.loads(self._files.get(stat.key))["versions"]
                yield stat.key, [_noted(*row) for row in rows]
            except NoSuchKeyError:
                continue  # another process was faster
            except (ValueError, TypeError, KeyError) as error:
                raise StorageError(
                    f"{self._files.place}/{stat.key} does not say which versions wait to be erased: somebody changed "
                    f"it, so restore an older version of it"
                ) from error

    def _packs_gone(self) -> Iterator[str]:
        """Yield the keys of removed packs of which a version is left."""
        for key, versions in groupby(self._files.versions("packs/"), lambda version: version.key):
            is_marker = [version.is_marker for version in versions]
            if is_marker[0] and not all(is_marker):
                yield key

    def _entries(self, older: OlderReader, name: bytes) -> set[bytes]:
        """Return the objects of a pack that is gone, as far as its index can be read."""
        try:
            return {entry.sha256 for entry in RemotePack(older, name).entries()}
        except (NoSuchKeyError, PackDamagedError):
            return set()
        except OSError as error:
            raise storage_error(error, f"reading the pack {name.hex()}") from error

    def _demand_unneeded(self, name: bytes, places: PlaceStore) -> None:
        if any(row.name == name for row in places.packs()):
            raise StorageError(
                f"somebody removed the pack {name.hex()}, which holds what you want to erase and other objects: run "
                f"`kropotcli verify --repair`, which restores it, then this command again"
            )


class _Noted(NamedTuple):
    """A locked version, or the marker above it, and when the lock ends, in seconds since 1970."""

    version: RemoteVersion
    until_s: float


def _noted(key: object, version: object, is_marker: object, until_s: Any) -> _Noted:
    """Return the version that a row of a note describes. Raises: TypeError, ValueError."""
    if not isinstance(key, str) or not isinstance(version, str):
        raise TypeError("a version has a key and an id")
    return _Noted(RemoteVersion(key, version, 0, 0.0, None, is_marker=bool(is_marker), is_newest=False), float(until_s))


def _waiting(noted: Sequence[_Noted]) -> LockedVersions:
    return LockedVersions(
        sum(not one.version.is_marker for one in noted), max((one.until_s for one in noted), default=0.0)
    )


def _may_hold(key: str, positions: Sequence[int]) -> bool:
    """Whether a segment of this name can hold one of these events."""
    told = told_by(key.removeprefix(f"{SEGMENTS}/"), SEGMENT_EVENTS)
    if told is None:
        return False
    at = bisect_right(positions, told.number * SEGMENT_EVENTS)
    return at < len(positions) and positions[at] <= told.last
