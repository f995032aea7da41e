"""Keeping the catalogue true to the folder: the scan, and what happens when a file changed since the last one.

A version is written down with its identity, a fresh nonce and its date in one transaction; the date is one that nobody
has seen yet, so no cursor can have passed it. Memory does not grow with the number of files, but for one bit each.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from kropot.bitmap import Bitmap
from kropot.errors import KropotError
from kropot.gateway.ivs import NONCE_BYTES
from kropot.gateway.sources import ScannedFile, Unreadable, path_key, seen
from kropot.gateway.state import PER_SECOND, NewFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kropot.gateway.sources import FolderSource, Seen
    from kropot.gateway.state import FileRow, State

SETTLE_NS: Final = 2_000_000_000
HASH_UP_TO: Final = 1 << 20

_LOOKED_UP_AT_ONCE = 500
_WRITTEN_AT_ONCE = 16 * PER_SECOND
_MOST_YOUNG = 10_000
_MOST_UNREADABLE = 1_000
_RENEWALS = 8
_READ = 1 << 18


class UnsettledError(KropotError):
    """The file changed a moment ago and may change again unnoticed; it can be served in `wait_s` seconds."""

    http_status = 503

    def __init__(self, wait_s: float) -> None:
        """Remember how long to wait."""
        super().__init__("the file has just changed: ask again in a moment")
        self.wait_s = wait_s


@dataclass(slots=True, kw_only=True)
class ScanReport:
    """What a scan found: counts of files, of new, changed and vanished ones, of those too young, of unreadable folders.

    `young` are paths of files that changed within the settling time, at most 10,000 of them. `misplaced` is an empty
    folder where another one with files was, or one that was exchanged during the scan: nothing more is declared gone.
    """

    files: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    unsettled: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    unreadable_count: int = 0
    young: list[bytes] = field(default_factory=list)
    stopped: bool = False
    misplaced: bool = False


class Catalogue:
    """The catalogue of one folder."""

    def __init__(
        self,
        state: State,
        tree: FolderSource,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        settle_ns: int = SETTLE_NS,
        hash_up_to: int = HASH_UP_TO,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Keep the catalogue of `tree` in `state`; files of up to `hash_up_to` bytes are hashed when they are new."""
        self._state = state
        self._tree = tree
        self._clock_ns = clock_ns
        self._settle_ns = settle_ns
        self._hash_up_to = hash_up_to
        self._entropy = entropy

    @property
    def is_ready(self) -> bool:
        """Whether a first scan is through, and lists can be given out."""
        return self._state.source().is_ready

    def scan(self, *, stop: Callable[[], bool] = lambda: False, patient: bool = False) -> ScanReport:
        """Walk the whole folder and write down what changed; the first scan is dated backwards once it is through.

        A `patient` first scan that met files which have not settled yet is not through: the next one may find them, and
        date them backwards with all others. Stopped in the middle, a scan has declared nothing gone.

        Raises:
            OSError: the folder itself cannot be read; nothing is declared gone.
        """
        report = ScanReport()
        mark = self._tree.mark()
        first = not self.is_ready
        last_id = self._state.last_id()
        present = Bitmap()
        batch: list[ScannedFile] = []
        pending: list[NewFile] = []
        for item in self._tree.walk():
            if isinstance(item, Unreadable):
                report.unreadable_count += 1
                if len(report.unreadable) < _MOST_UNREADABLE:
                    report.unreadable.append(item)
                continue
            batch.append(item)
            if len(batch) >= _LOOKED_UP_AT_ONCE:
                pending += self._compare(batch, report, present, first=first)
                batch.clear()
                pending = self._write(pending, first=first, least=_WRITTEN_AT_ONCE)
                if stop():
                    report.stopped = True
                    return report
        pending += self._compare(batch, report, present, first=first)
        self._write(pending, first=first, least=1)
        if first and patient and report.unsettled:
            return report
        if first:
            self._state.date_undated(self._now_s())
        if self._is_same_folder(mark, report):
            self._forget_missing(present, last_id, report, lambda: stop() or not self._is_still(mark, report))
        else:
            report.misplaced = True
        return report

    def revisit(self, paths: Iterable[bytes]) -> ScanReport:
        """Look at single files again: those that were too young for a scan."""
        report = ScanReport()
        found = []
        for path in paths:
            try:
                looks = self._tree.look(path)
            except OSError:
                # The next scan meets it again, and reports it.
                continue
            if looks is not None:
                found.append(ScannedFile(path=path, seen=looks))
        pending: list[NewFile] = []
        for start in range(0, len(found), _LOOKED_UP_AT_ONCE):
            chunk = found[start : start + _LOOKED_UP_AT_ONCE]
            pending += self._compare(chunk, report, Bitmap(), first=False)
        self._write(pending, first=False, least=1)
        return report

    def renewed(self, row: FileRow, looks: Seen) -> FileRow:
        """Return the file's row as it belongs to `looks`, which was just observed on the open file.

        Another identity gets another nonce, committed before this returns: one nonce MUST never seal two contents.

        Raises:
            UnsettledError: the file is too young for its identity to be trusted.
            StateError: the database cannot be used.
        """
        wait_ns = self._settle_ns - abs(self._clock_ns() - looks.ctime_ns)
        if wait_ns > 0:
            raise UnsettledError(wait_ns / 1e9)
        at: FileRow | None = row
        for _ in range(_RENEWALS):
            if at is None:
                break
            if at.identity == looks.identity:
                return at
            nonce = self._entropy(NONCE_BYTES)
            if self._state.renew(at, identity=looks.identity, mode=looks.mode, nonce=nonce):
                return replace(at, identity=looks.identity, mode=looks.mode, nonce=nonce, sha256=None, is_due=True)
            at = self._state.file(row.id)
        raise UnsettledError(1.0)

    def _compare(
        self, batch: Sequence[ScannedFile], report: ScanReport, present: Bitmap, *, first: bool
    ) -> list[NewFile]:
        """Return the versions to be written down among these files."""
        if not batch:
            return []
        now_ns = self._clock_ns()
        keys = [path_key(found.path) for found in batch]
        known = self._state.known(keys)
        changes = []
        for key, found in zip(keys, batch, strict=True):
            row, looks = known.get(key), found.seen
            report.files += 1
            if row is not None:
                present.add(row.id)
            same = row is not None and row.identity == looks.identity
            if row is not None and same and not row.is_due and (first or row.date is not None):
                continue
            if not looks.is_settled(now_ns, self._settle_ns):
                report.unsettled += 1
                if len(report.young) < _MOST_YOUNG:
                    report.young.append(found.path)
                continue
            report.new += row is None
            report.changed += row is not None
            changes.append(
                NewFile(
                    id=None if row is None else row.id,
                    key=key,
                    path=found.path,
                    identity=looks.identity,
                    mode=looks.mode,
                    nonce=row.nonce if row is not None and same else self._entropy(NONCE_BYTES),
                    sha256=self._digest(found),
                    old_date=None if row is None else row.date,
                )
            )
        return changes

    def _write(self, pending: list[NewFile], *, first: bool, least: int) -> list[NewFile]:
        """Write down what is pending if it is at least so many, and return what is still pending."""
        if len(pending) < least:
            return pending
        if first:
            self._state.add_undated(pending)
        else:
            self._state.announce(pending, self._now_s())
        return []

    def is_gone(self, path: bytes) -> bool:
        """Whether there is certainly no such file, and not merely the whole folder away."""
        return self._is_gone(path) and not self.is_away()

    def is_away(self) -> bool:
        """Whether the folder is not there, or not the one in which files were last seen: say when it is not mounted."""
        try:
            return self._state.mark() not in {None, self._tree.mark()}
        except OSError:
            return True

    def _forget_missing(self, present: Bitmap, last_id: int, report: ScanReport, stop: Callable[[], bool]) -> None:
        """Take off the list what the walk did not meet, after a second look at each, and count it."""
        if report.unreadable_count > len(report.unreadable) or present.count == self._state.count_until(last_id):
            return
        blind = tuple(b"" if each.path == b"" else each.path.rstrip(b"/") + b"/" for each in report.unreadable)
        after = 0
        while after < last_id:
            rows = self._state.paths_after(after, _LOOKED_UP_AT_ONCE * 10)
            if not rows:
                break
            after = rows[-1][0]
            missing = [
                file_id
                for file_id, path in rows
                if file_id <= last_id
                and file_id not in present
                and not (path + b"/").startswith(blind)
                and self._is_gone(path)
            ]
            if stop():
                # Asked between the second look and what follows from it: a disk that went away meanwhile shows here.
                break
            for start in range(0, len(missing), _LOOKED_UP_AT_ONCE):
                self._state.forget(missing[start : start + _LOOKED_UP_AT_ONCE])
            report.gone += len(missing)

    def _is_same_folder(self, mark: bytes, report: ScanReport) -> bool:
        """Whether this is the folder in which files were seen before: an empty one may be the mount point of it.

        `mark` is the folder's at the beginning of the walk. As long as it is another one and has no file, or was
        exchanged during the walk, nothing is declared gone.
        """
        known = self._state.mark()
        if not self._is_still(mark, report):
            return False
        if report.files and mark != known:
            self._state.keep_mark(mark)
        return bool(report.files) or known in {None, mark}

    def _is_still(self, mark: bytes, report: ScanReport) -> bool:
        """Whether the folder still is the one of this mark; says so in the report if it is not."""
        try:
            still = self._tree.mark() == mark
        except OSError:
            still = False
        report.misplaced |= not still
        return still

    def _is_gone(self, path: bytes) -> bool:
        """Whether there is certainly no such file: a folder renamed while it was walked can hide what is there."""
        try:
            return self._tree.look(path) is None
        except OSError:
            return False

    def _digest(self, found: ScannedFile) -> bytes | None:
        """Return the SHA-256 of a small file, None if it is a big one or did not hold still."""
        if found.seen.size > self._hash_up_to:
            return None
        try:
            descriptor, before = self._tree.open(found.path)
        except (KropotError, OSError):
            return None
        digest, left = hashlib.sha256(), before.size + 1
        try:
            # One byte more than the size is asked for, so that a file that grows is noticed, and ends.
            while left and (chunk := os.read(descriptor, min(left, _READ))):
                digest.update(chunk)
                left -= len(chunk)
            after = seen(os.fstat(descriptor))
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return digest.digest() if before == after == found.seen and left == 1 else None

    def _now_s(self) -> int:
        return self._clock_ns() // 1_000_000_000
