"""Keeps the catalogue in step with the folder: scans it, and handles files that changed since the last scan.

One transaction records a version with its identity, a fresh nonce and its date. No client has seen this date yet, so no
cursor can have passed it. Memory use does not grow with the number of files, except for one bit per file.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from kropot.bitmap import Bitmap
from kropot.errors import KropotError
from kropot.gateway.facts import Audience
from kropot.gateway.ivs import NONCE_BYTES
from kropot.gateway.keys import MasterKey
from kropot.gateway.noting import Noting, key_of, noted
from kropot.gateway.restless import RESTLESS_NS, Restless
from kropot.gateway.sameness import Sameness
from kropot.gateway.scanreport import ScanReport
from kropot.gateway.sources import ScannedEntry, ScannedFile, Skipped, Unreadable, identity_parts, path_key
from kropot.gateway.state import PER_SECOND, NewFile
from kropot.serving.keyfile import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kropot.gateway.sources import FolderSource, OpensFiles, Seen
    from kropot.gateway.state import FileRow, State

SETTLE_NS: Final = 2_000_000_000
HASH_UP_TO: Final = 1 << 20

_LOOKED_UP_AT_ONCE = 500
_WRITTEN_AT_ONCE = 16 * PER_SECOND
_MOST_YOUNG = 10_000
_MOST_UNREADABLE = 1_000
_LEARNT_AT_ONCE = 64
_RENEWALS = 8
_DOUBTING_NS = 60_000_000_000


class UnsettledError(KropotError):
    """The file changed a moment ago. Another change might go unnoticed, so it is served only after `wait_s` seconds."""

    http_status = 503

    def __init__(self, wait_s: float) -> None:
        """Remember how long to wait."""
        super().__init__("the file has just changed: ask again in a moment")
        self.wait_s = wait_s


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
        restless_ns: int = RESTLESS_NS,
        entropy: Callable[[int], bytes] = os.urandom,
        master: MasterKey | None = None,
    ) -> None:
        """Keep the catalogue of `tree` in `state`. New versions of up to `hash_up_to` bytes are hashed.

        `master` vouches for what the database says. Without it, nothing that an earlier catalogue wrote is trusted.
        """
        self._state = state
        self._tree = tree
        self._clock_ns = clock_ns
        self._settle_ns = settle_ns
        master = master or MasterKey(entropy(KEY_BYTES))
        self._same = Sameness(master, hash_up_to)
        self._noting = Noting(tree, self._same, master, entropy)
        self._restless = Restless(restless_ns)
        self._entropy = entropy
        self._learnt: list[FileRow] = []
        self._lock = threading.Lock()

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
        self.keep_learnt()
        self._restless.begin_scan()
        self._noting.begin_scan()
        mark = self._tree.mark()
        first = not self.is_ready
        last_id = self._state.last_id()
        present = Bitmap()
        batch: list[ScannedFile | ScannedEntry] = []
        pending: list[NewFile] = []
        for item in self._tree.walk():
            if isinstance(item, Skipped):
                report.skipped[item.kind] += 1
                continue
            if isinstance(item, Unreadable):
                report.unreadable_count += 1
                if len(report.unreadable) < _MOST_UNREADABLE:
                    report.unreadable.append(item)
                continue
            report.locked += isinstance(item, ScannedFile) and not item.is_readable
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
        self._settle_doubts(report, stop)
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
                if looks is not None:
                    found.append(ScannedFile(path=path, seen=looks, is_followed=self._tree.has_entry(path)))
            except OSError:
                # The next scan meets this file again and reports it.
                continue
        pending: list[NewFile] = []
        for start in range(0, len(found), _LOOKED_UP_AT_ONCE):
            chunk = found[start : start + _LOOKED_UP_AT_ONCE]
            pending += self._compare(chunk, report, Bitmap(), first=False)
        self._write(pending, first=False, least=1)
        self._settle_doubts(report, lambda: False)
        return report

    def renewed(self, row: FileRow, looks: Seen) -> FileRow:
        """Return the file's row, updated to `looks`, which was just observed on the open file.

        Bytes that might be new get a new nonce, which is committed before this returns. One nonce MUST never seal two
        contents.

        Raises:
            UnsettledError: the file changed too recently to trust its identity, or a scan has to read it first.
            StateError: the database cannot be used.
        """
        self.check_settled(looks)
        if self._same.is_as_known(row, looks):
            return row
        for _ in range(_RENEWALS):
            # The caller's row can be old.
            at = self._state.file(row.id)
            if at is None or self._same.is_long_doubt(at, looks):
                break
            if self._same.is_as_known(at, looks):
                return at
            is_followed = at.audience == Audience.FOLLOWED
            found = ScannedFile(path=at.path, seen=looks, is_followed=is_followed)
            new = self._version(path_key(at.path), found, at)
            now = at._replace(
                identity=new.identity,
                mode=new.mode,
                nonce=new.nonce,
                sha256=new.sha256,
                origin=new.origin,
                seal=new.seal,
                restless_s=None,
                facts=new.facts,
                is_due=at.is_due or not new.is_silent,
            )
            if self._state.renew(at, now):
                return now
        raise UnsettledError(1.0)

    def needs_digest(self, row: FileRow) -> bool:
        """Whether `learn` would keep the SHA-256 of this content."""
        return row.sha256 is None and row.restless_s is None

    def learn(self, row: FileRow, sha256: bytes) -> None:
        """Keep the SHA-256 of a content that was just sent whole and did not change meanwhile."""
        seal = self._same.seal(row.path, row.nonce, row.origin or row.identity, row.identity, sha256)
        with self._lock:
            self._learnt.append(row._replace(sha256=sha256, seal=seal))
            is_enough = len(self._learnt) >= _LEARNT_AT_ONCE
        if is_enough:
            self.keep_learnt()

    def keep_learnt(self) -> None:
        """Store what `learn` has gathered."""
        with self._lock:
            learnt, self._learnt = self._learnt, []
        if learnt:
            self._state.keep_digests(learnt)

    def is_as_known(self, row: FileRow, looks: Seen) -> bool:
        """Whether an open file is the very version that the row names."""
        return self._same.is_as_known(row, looks)

    def is_settled(self, looks: Seen) -> bool:
        """Whether the file has rested long enough that its identity can be trusted."""
        return self.is_past(looks.ctime_ns)

    def is_past(self, ctime_ns: int) -> bool:
        """Whether a ctime is far enough from now that the file counts as settled."""
        return abs(self._clock_ns() - ctime_ns) >= self._settle_ns

    def check_settled(self, looks: Seen) -> None:
        """Check that every later write is certain to change the identity of a file.

        Raises:
            UnsettledError: the file changed too recently.
        """
        wait_ns = self._settle_ns - abs(self._clock_ns() - looks.ctime_ns)
        if wait_ns > 0:
            raise UnsettledError(wait_ns / 1e9)

    def _compare(
        self, batch: Sequence[ScannedFile | ScannedEntry], report: ScanReport, present: Bitmap, *, first: bool
    ) -> list[NewFile]:
        """Return the versions among these files that need to be recorded."""
        files = self._tree.nearby()
        try:
            return self._changes(batch, report, present, files, first=first)
        finally:
            files.close()

    def _changes(
        self,
        batch: Sequence[ScannedFile | ScannedEntry],
        report: ScanReport,
        present: Bitmap,
        files: OpensFiles,
        *,
        first: bool,
    ) -> list[NewFile]:
        if not batch:
            return []
        now_ns = self._clock_ns()
        keys = [key_of(found) for found in batch]
        known = self._state.known(keys)
        changes = []
        for key, found in zip(keys, batch, strict=True):
            row, looks = known.get(key), found.seen
            if row is not None:
                present.add(row.id)
            if isinstance(found, ScannedEntry):
                entry = self._noting.version(found, row, is_settled=looks.is_settled(now_ns, self._settle_ns))
                changes += [] if entry is None else [entry]
                continue
            report.files += 1
            if row is not None and self._is_recorded(row, found, first=first):
                continue
            if looks.is_settled(now_ns, self._settle_ns):
                self._restless.rests(found.path)
                if row is not None and not first and self._same.is_long_doubt(row, looks):
                    report.doubtful.append(found)
                    continue
                version = self._version(key, found, row, files)
            elif self._restless.is_offered(found.path, row, now_ns):
                report.restless += 1
                version = self._restless.version(key, found, row, now_ns, self._entropy(NONCE_BYTES))
                version = noted(version, found, row, self._noting.facts(found, self._tree))
            else:
                report.unsettled += 1
                if len(report.young) < _MOST_YOUNG:
                    report.young.append(found.path)
                continue
            report.count(version)
            changes.append(version)
        return changes

    def _is_recorded(self, row: FileRow, found: ScannedFile, *, first: bool) -> bool:
        """Whether nothing is left to do about a known file. Old databases have SHA-256s without seals, and no facts."""
        if (
            not self._noting.is_noted(row, found)
            or row.is_due
            or not (first or row.date is not None)
            or (row.sha256 is not None and row.seal is None)
        ):
            return False
        return self._same.is_as_known(row, found.seen)

    def _version(self, key: bytes, found: ScannedFile, row: FileRow | None, files: OpensFiles | None = None) -> NewFile:
        """Return what to record about a settled file. It keeps its nonce if its bytes are proved to be the same."""
        files = self._tree if files is None else files
        looks, sha256, facts = found.seen, self._same.digest(found, row, files), self._noting.facts(found, files)
        nonce, origin, is_silent = self._entropy(NONCE_BYTES), looks.identity, False
        if row is not None and self._same.is_proved(row, looks, sha256) and self._noting.is_same_content(row, facts):
            nonce, origin = row.nonce, row.origin or row.identity
            if sha256 is None and self._same.is_vouched(row):
                sha256 = row.sha256
            as_listed = row.mode == looks.mode and identity_parts(row.identity) == (looks.size, looks.mtime_ns)
            as_listed &= self._noting.is_as_listed(row, facts)
            is_silent = as_listed and row.date is not None and not row.is_due
        is_plain = sha256 is None and origin == looks.identity
        audience = Audience.FOLLOWED if found.is_followed else Audience.ALL
        return NewFile(
            id=None if row is None else row.id,
            key=key,
            path=found.path,
            identity=looks.identity,
            mode=looks.mode,
            nonce=nonce,
            sha256=sha256,
            old_date=None if row is None else row.date,
            origin=None if origin == looks.identity else origin,
            seal=None if is_plain else self._same.seal(found.path, nonce, origin, looks.identity, sha256),
            is_silent=is_silent,
            audience=audience,
            old_audience=audience if row is None else row.audience,
            facts=facts,
        )

    def _settle_doubts(self, report: ScanReport, stop: Callable[[], bool]) -> None:
        """Read large files that might have the same bytes, for about a minute. The next scan meets the rest again."""
        until_ns = self._clock_ns() + _DOUBTING_NS
        while report.doubtful and not stop() and self._clock_ns() < until_ns:
            found = report.doubtful.pop()
            key = path_key(found.path)
            row = self._state.known([key]).get(key)
            if row is not None:
                version = self._version(key, found, row)
                report.count(version)
                self._write([version], first=False, least=1)

    def _write(self, pending: list[NewFile], *, first: bool, least: int) -> list[NewFile]:
        """Record the pending versions if there are at least `least`; return those that are still pending."""
        if len(pending) < least:
            return pending
        if first:
            self._state.add_undated(pending)
            return []
        if silent := [version for version in pending if version.is_silent]:
            self._state.keep_silently(silent)
        if told := [version for version in pending if not version.is_silent]:
            self._state.announce(told, self._now_s())
        return []

    def is_gone(self, path: bytes, audience: int = Audience.ALL) -> bool:
        """Whether an entry is certainly gone, while the folder itself is still there."""
        return self._is_gone(path, audience) and not self.is_away()

    def is_away(self) -> bool:
        """Whether the folder is missing, or is not the one that last held files, for example when it is not mounted."""
        try:
            return self._state.mark() not in {None, self._tree.mark()}
        except OSError:
            return True

    def _forget_missing(self, present: Bitmap, last_id: int, report: ScanReport, stop: Callable[[], bool]) -> None:
        """Remove from the list the files that the walk did not meet, after a second look at each, and count them."""
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
                for file_id, path, audience in rows
                if file_id <= last_id
                and file_id not in present
                and not (path + b"/").startswith(blind)
                and self._is_gone(path, audience)
            ]
            if stop():
                # Check after the second look and before removing anything, to notice a disk that disappeared meanwhile.
                break
            for start in range(0, len(missing), _LOOKED_UP_AT_ONCE):
                self._state.forget(missing[start : start + _LOOKED_UP_AT_ONCE])
            report.gone += len(missing)

    def _is_same_folder(self, mark: bytes, report: ScanReport) -> bool:
        """Whether this is the folder that held files before. An empty folder can be its bare mount point.

        `mark` is the folder's mark at the beginning of the walk. Nothing is declared gone if the mark is new and the
        folder has no files, or if the folder was replaced during the walk.
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

    def _is_gone(self, path: bytes, audience: int) -> bool:
        """Whether an entry is certainly gone. A walk can miss one when its folder is renamed meanwhile."""
        try:
            if audience == Audience.SEALED:
                return not self._tree.has_entry(path)
            return self._tree.look(path) is None
        except OSError:
            return False

    def _now_s(self) -> int:
        return self._clock_ns() // 1_000_000_000
