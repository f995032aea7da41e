"""A bucket as readers see it: a file that was removed or damaged is read in an older version that is sound.

Only code that reads for a person sees it this way (`restore`, `replay`, the keeper, `db recover`). Code that writes,
frees or verifies must see what is really there now.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict, deque
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from kropot.durable.errors import StorageError, storage_error
from kropot.logs import log
from kropot.objects.stores.files import PIECE, NoSuchKeyError, RemoteStat
from kropot.objects.stores.judging import digest_of, wrong_with
from kropot.objects.stores.retry import PassingError
from kropot.objects.stores.s3 import BucketFiles
from kropot.segments import FOLDER as SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.objects.stores.address import BucketAddress
    from kropot.objects.stores.files import RemoteVersion
    from kropot.objects.stores.retry import Retries
    from kropot.objects.stores.s3_settings import BucketAccess

_KNOWN: Final = 4096
"""For how many keys to remember which version to read."""

_TRIED: Final = 16
"""How many versions of a key to try: a file that was overwritten a thousand times must not keep readers busy."""


class OlderFiles(BucketFiles):
    """The files below a prefix in a bucket. Each call can ask for the versions of its key first."""

    def __init__(
        self, address: BucketAddress, access: BucketAccess, *, retries: Retries | None = None, request_retries: int
    ) -> None:
        """Ask nothing yet."""
        super().__init__(address, access, retries=retries, request_retries=request_retries)
        self._guard = threading.Lock()
        self._known: OrderedDict[str, RemoteVersion | None] = OrderedDict()

    def instead(self, key: str) -> RemoteVersion | None:
        """Return the older version to read instead of the newest; None to read the newest, or if there is none.

        Raises: StorageError.
        """
        with self._guard:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = self._chosen(key)
        self._remember(key, found)
        return found

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read the range from the version that is sound."""
        version = self.instead(key)
        if version is None:
            return super().get(key, start, end)
        return self.get_version(version, start, version.size if end is None else min(end, version.size))

    def fetch(self, key: str, into: BinaryIO) -> None:
        """Stream the version that is sound."""
        version = self.instead(key)
        if version is None:
            super().fetch(key, into)
        else:
            self.fetch_version(version, into)

    def tail(self, key: str, length: int) -> tuple[bytes, RemoteStat]:
        """Read the end of the version that is sound."""
        version = self.instead(key)
        if version is None:
            return super().tail(key, length)
        return self.get_version(version, max(version.size - length, 0), version.size), _stat_of(version)

    def stat(self, key: str) -> RemoteStat | None:
        """Look at the version that is sound."""
        version = self.instead(key)
        return super().stat(key) if version is None else _stat_of(version)

    def walk(self, folder: str, after: str = "") -> Iterator[RemoteStat]:
        """List the versions, and yield each file that ever existed."""
        if not self.keeps_versions():
            yield from super().walk(folder, after)
            return
        for key, versions in groupby(self.versions(f"{folder}/" if folder else "", after), lambda one: one.key):
            whole = next((one for one in versions if not one.is_marker), None)
            if whole is not None and key > after:
                yield _stat_of(whole)

    def put_again(self, key: str) -> bool:
        """Fetch it into an unnamed file, and write that."""
        version = self.instead(key)
        if version is None:
            return False
        try:
            with tempfile.SpooledTemporaryFile(PIECE) as spooled:
                file = cast("BinaryIO", spooled)
                self.fetch_version(version, file)
                self._remember(key, None)
                self.put_file(key, file)
        except OSError as error:
            raise storage_error(error, f"keeping {key} in {tempfile.gettempdir()} until it is sent") from error
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write the newest version, which is then the one that is read."""
        self._remember(key, None)
        super().put(key, data)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _remember(self, key: str, version: RemoteVersion | None) -> None:
        with self._guard:
            self._known[key] = version
            while len(self._known) > _KNOWN:
                self._known.popitem(last=False)

    def _chosen(self, key: str) -> RemoteVersion | None:
        if not self.keeps_versions():
            return None
        try:
            newest, different = self._different(key)
        except PassingError:
            raise
        except StorageError as error:
            # If these keys may only read files, the newest version is read as it is.
            log.warning("no_older_versions", key=key, reason=str(error))
            return None
        if not different:
            return None
        first = different[0]
        if len(different) > 1:
            sound = (one for one in self._order(key, different) if self._is_sound(one))
            first = next(sound, first)
        return None if first == newest else first

    def _different(self, key: str) -> tuple[RemoteVersion | None, list[RemoteVersion]]:
        """Return the newest version, and the newest and the oldest of those whose bytes differ, newest first."""
        newest: RemoteVersion | None = None
        seen: set[tuple[int, str | None]] = set()
        early: list[RemoteVersion] = []
        late: deque[RemoteVersion] = deque(maxlen=_TRIED // 2)
        for one in takewhile(lambda version: version.key == key, self.versions(key)):
            newest = newest or one
            if one.is_marker or (one.size, one.tag) in seen:
                continue
            if len(seen) < _KNOWN:
                seen.add((one.size, one.tag))
            if len(early) < _TRIED // 2:
                early.append(one)
            else:
                late.append(one)
        return newest, [*early, *late]

    def _order(self, key: str, versions: list[RemoteVersion]) -> list[RemoteVersion]:
        """Return the order to try: all sound objects or packs of a name are the same, and the first ones were sound.

        Segments are written again after an erasure, so the newest sound version is the right one.
        """
        return versions if key.startswith(f"{SEGMENTS}/") else [versions[0], *reversed(versions[1:])]

    def _is_sound(self, version: RemoteVersion) -> bool:
        try:
            with tempfile.SpooledTemporaryFile(PIECE) as spooled:
                file = cast("BinaryIO", spooled)
                self.fetch_version(version, file)
                return wrong_with(version.key, digest_of(file), file) is None
        except NoSuchKeyError:
            return False
        except OSError as error:
            raise storage_error(error, f"keeping {version.key} in {tempfile.gettempdir()}") from error


def _stat_of(version: RemoteVersion) -> RemoteStat:
    return RemoteStat(version.key, version.size, version.changed_s, version.tag)
