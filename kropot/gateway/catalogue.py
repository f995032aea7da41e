"""Keeps the catalogue in step with the folder: scans it, and handles files that changed since the last scan.

One transaction records a version with its identity, a fresh nonce and its date. No client has seen this date yet, so no
cursor can have passed it. Memory use does not grow with the number of files, except for one bit per file.
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
    """The file changed a moment ago. Another change might go unnoticed, so it can be served in `wait_s` seconds."""

    http_status = 503

    def __init__(self, wait_s: float) -> None:
        """Remember how long to wait."""
        super().__init__("the file has just changed: ask again in a moment")
        self.wait_s = wait_s


@dataclass(slots=True, kw_only=True)
class ScanReport:
    """What a scan found: how many files, new files, changed files, vanished files, unsettled files, unreadable folders.

    `young` holds the paths of files that changed within the settling time, at most 10,000. `misplaced` means that the
    folder is empty and not the one that held files before, or that it was exchanged during the scan. The scan then
    stops declaring files gone.
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
        """Keep the catalogue of `tree` in `state`. New versions of up to `hash_up_to` bytes are hashed."""
        self._state = state
        self._tree = tree
        self._clock_ns = clock_ns
        self._settle_ns = settle_ns
        self._hash_up_to = hash_up_to
        self._entropy = entropy

    @property
    def is_ready(self) -> bool:
        """Whether the first scan is complete, so that lists can be served."""
        return self._state.source().is_ready

    def scan(self, *, stop: Callable[[], bool] = lambda: False, patient: bool = False) -> ScanReport:
        """Walk the whole folder and record what changed.

        A first scan sets its dates when it is complete: the seconds up to now. A `patient` first scan is not complete
        while some files have not settled. The next scan can find those and date them together with the others. A scan
        that is stopped while it walks declares nothing gone.

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
        """Look again at files that had not settled when a scan met them."""
        report = ScanReport()
        found = []
        for path in paths:
            try:
                looks = self._tree.look(path)
            except OSError:
                # The next scan meets this file again and reports it.
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
        """Return the file's row, updated to `looks`, which was just observed on the open file.

        A new identity gets a new nonce, which is committed before this returns. One nonce MUST never seal two contents.

        Raises:
            UnsettledError: the file changed too recently to trust its identity.
            StateError: the database cannot be used.
        """
        self.check_settled(looks)
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

    def check_settled(self, looks: Seen) -> None:
        """Check that every later write is certain to change the identity of a file.

        Raises:
            UnsettledError: the file changed too recently.
        """
        wait_ns = self._settle_ns - abs(self._clock_ns() - looks.ctime_ns)
        if wait_ns > 0:
            raise UnsettledError(wait_ns / 1e9)

    def _compare(
        self, batch: Sequence[ScannedFile], report: ScanReport, present: Bitmap, *, first: bool
    ) -> list[NewFile]:
        """Return the versions among these files that need to be recorded."""
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
        """Record the pending versions if there are at least `least`; return those that are still pending."""
        if len(pending) < least:
            return pending
        if first:
            self._state.add_undated(pending)
        else:
            self._state.announce(pending, self._now_s())
        return []

    def is_gone(self, path: bytes) -> bool:
        """Whether the file is certainly gone, while the folder itself is still there."""
        return self._is_gone(path) and not self.is_away()

    def is_away(self) -> bool:
        """Whether the folder is missing, or is not the one that last held files, for example when it is not mounted."""
        try:
            return self._state.mark() not in {None, self._tree.mark()}
        except OSError:
            return True

    def _forget_missing(self, present: Bitmap, last_id: int, report: ScanReport, stop: Callable[[], bool]) -> None:
        """Remove files from the list that the walk did not meet, after a second look at each, and count them."""
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
                # Ask after the second look and before removing anything: this notices a disk that went away meanwhile.
                break
            for start in range(0, len(missing), _LOOKED_UP_AT_ONCE):
                self._state.forget(missing[start : start + _LOOKED_UP_AT_ONCE])
            report.gone += len(missing)

    def _is_same_folder(self, mark: bytes, report: ScanReport) -> bool:
        """Whether this is the folder that held files before. An empty folder may be its bare mount point.

        `mark` is the folder's mark at the beginning of the walk. Nothing is declared gone if the mark is new and the
        folder has no files, or if the folder was exchanged during the walk.
        """
        known = self._state.mark()
        if not self._is_still(mark, report):
            return False
        if report.files and mark != known:
            self._state.keep_mark(mark)
        return bool(report.files) or known in {None, mark}

    def _is_still(self, mark: bytes, report: ScanReport) -> bool:
        """Whether the folder still has this mark. If not, the report is marked as misplaced."""
        try:
            still = self._tree.mark() == mark
        except OSError:
            still = False
        report.misplaced |= not still
        return still

    def _is_gone(self, path: bytes) -> bool:
        """Whether the file is certainly gone. A walk can miss a file when its folder is renamed meanwhile."""
        try:
            return self._tree.look(path) is None
        except OSError:
            return False

    def _digest(self, found: ScannedFile) -> bytes | None:
        """Return the SHA-256 of a small file, or None if the file is large or changed meanwhile."""
        if found.seen.size > self._hash_up_to:
            return None
        try:
            descriptor, before = self._tree.open(found.path)
        except (KropotError, OSError):
            return None
        digest, left = hashlib.sha256(), before.size + 1
        try:
            # Read up to one byte more than the size: this notices a growing file, and still ends.
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
