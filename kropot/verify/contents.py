"""Verify the copies: choose the ranges that are due, read them, report findings, and record what was read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.coverage import Due, due, read_by_us, runs_left, share
from kropot.objects.bulk.protocol import CanRecall, HasPacks
from kropot.objects.bulk.reading import BUFFER, ReadRequest, Throttle, read_object
from kropot.verify.copies import CopyAudit
from kropot.verify.copy_findings import cases, older_findings, orphan_finding
from kropot.verify.packs import elsewhere, finding_of, mended
from kropot.verify.reader import reader_of
from kropot.verify.recording import BATCH, MASS_COUNT, MASS_SHARE
from kropot.verify.sealed import HeaderAudit
from kropot.verify.ways_out import IS_FETCHED_AGAIN, WHY_UNRECORDED
from kropot.wording import instant
from ledger.audit import Finding
from ledger.clock import DAY_US
from ledger.events import AuditRange
from ledger.rows import RELEASED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kropot.objects.bulk.protocol import Recall
    from kropot.objects.store import ObjectStore
    from kropot.verify.copies import ObjectReport
    from kropot.verify.copy_findings import Case
    from kropot.verify.findings import Summary
    from kropot.verify.recording import Recorder
    from kropot.verify.scope import Scope
    from kropot.verify.ways_out import Reach
    from kropot.verify.world import World
    from ledger.events import StreamKey
    from ledger.log import Ledger

_LEFTOVER = {
    "temporary": "an interrupted run left it; it does no harm",
    "stray": "another program put it there; it does no harm, and you can remove it",
    "quarantined": "a repair set it aside; you can remove it when its element has a sound copy again",
}
ADVANCE_S = 300.0
"""Seconds between two records of how far contents were read. A killed run loses at most this much work."""


QUICK = "it is there with the right size, and --quick did not read it"


@dataclass(slots=True, kw_only=True)
class CopyVerification:
    """The part of a run that checks copies, at the ledger's `position`.

    `reach` says which sources (16 bytes) cannot be asked any more. `to_fetch` are copies that a repair fetches again.
    """

    ledger: Ledger
    objects: ObjectStore
    scope: Scope
    world: World
    recorder: Recorder
    summary: Summary
    position: int
    spent_at: float | None
    reach: Mapping[bytes, Reach] = field(default_factory=dict)
    to_fetch: dict[StreamKey, Case] = field(default_factory=dict)
    _headers: HeaderAudit = field(init=False)
    _recall: Recall | None = field(init=False)
    _unsettled: list[Case] = field(default_factory=list)
    _taken_out: set[bytes] = field(default_factory=set)
    """Objects that this repair took out of packs. Their ranges can come later and find them gone."""
    _new: int = 0
    _known: int = 0

    def __post_init__(self) -> None:
        """Prepare to compare the headers of sealed objects."""
        self._headers = HeaderAudit(self.ledger, self.objects)
        self._recall = self.objects.recall() if isinstance(self.objects, CanRecall) else None

    def findings(self) -> Iterator[Finding]:
        """Yield the findings. Ranges that were read longest ago come first, then known damage in all other ranges.

        New damage is yielded once it is recorded, or once it is clear why it is not, because that decides what to do.

        Raises:
            StorageError: if the storage cannot be listed.
        """
        began = self.world.monotonic()
        audit = CopyAudit(self.ledger, reader_of(self.objects, self.ledger, self.scope, self.world, self._ends))
        known = self.ledger.audit()
        parts = self._due()
        self.world.progress.part("copies", "object", size=self._size_due())
        left = 0.0
        walked: list[AuditRange] = []
        try:
            for part in parts:
                if not self._ends():
                    yield from self._walk(audit, part)
                    if audit.read_to is not None:
                        walked.append(AuditRange(start=part.start, end=audit.read_to, position=0, at_us=0))
                    if audit.read_to == part.end:
                        continue
                    start = part.start if audit.read_to is None else audit.read_to
                    left += share(start, part.end)
                else:
                    left += share(part.start, part.end)
            for part in due(walked, before_us=0):
                yield from self._look_again(audit, part)
            yield from self._settle()
            yield from self._packs(audit)
        finally:
            audit.close()
            if self._recall is not None:
                self._recall.close()
            self.recorder.flush()
        whole = sum(share(part.start, part.end) for part in parts)
        yield from self._leftovers(audit, read_all=whole - left >= 1)
        self._summarise(audit, whole, left, self.world.monotonic() - began)
        self._estimate(known, read=whole - left, left=left)

    def _packs(self, audit: CopyAudit) -> Iterator[Finding]:
        """Yield what is wrong with packs, and repair it if requested."""
        flaws = []
        for flaw in audit.flaws():
            yield finding_of(flaw)
            flaws += [flaw] if flaw.severity == "error" else []
        if flaws and self.scope.repair and self.recorder.why_not is None and self.scope.storage is not None:
            for note in mended(flaws, self.scope.storage, self.ledger):
                self.summary.repaired += note.kind == "repaired_pack"
                yield note

    # --- ranges ---

    def _due(self) -> list[Due]:
        if self.scope.quick:
            return due(())
        age, now = self.scope.max_age_us, self.ledger.clock_us()
        # If a clock was far ahead when a part was read, the real time is unknown.
        read = [part for part in self.ledger.audit() if part.at_us <= now + DAY_US]
        return due(read, before_us=None if age is None else now - age)

    def _size_due(self) -> int | None:
        """Return the bytes of all contents if all are due, None if only a part of them or only names are due."""
        if self.scope.quick or self.scope.max_age_us is not None:
            return None
        return sum(each.bytes for each in self.ledger.tallies())

    def _walk(self, audit: CopyAudit, part: Due) -> Iterator[Finding]:
        """Walk one range, and record every few minutes how far contents were read."""
        since = self.world.monotonic()
        start = part.start
        for reports in audit.walk(part.start, part.end):
            for report in reports:
                yield from self._findings_of(audit, report)
            if audit.read_to is not None and start <= audit.read_to and not self.scope.quick:
                yield from self._headers.findings(start, audit.read_to, bad={report.sha256 for report in reports})
                start = _behind(audit.read_to)
            self.world.progress.reached(audit.objects, audit.bytes)
            if audit.read_to is not None and self.world.monotonic() - since > ADVANCE_S:
                self._reached(part.start, audit.read_to)
                yield from self._settle()
                since = self.world.monotonic()
        if audit.read_to is not None:
            self._reached(part.start, audit.read_to)
            yield from self._settle()

    def _look_again(self, audit: CopyAudit, part: Due) -> Iterator[Finding]:
        """Look again at known damage in a range that was not read: the user may have put an object back."""
        throttle = Throttle(self.scope.rate, sleep=self.world.sleep, monotonic=self.world.monotonic)
        buffer = memoryview(bytearray(BUFFER))
        for report in audit.known_bad(part.start, part.end):
            seen = report
            if not self._ends():
                request = ReadRequest(report.sha256, report.copies[0].size)
                with suppress(InterruptedError):
                    bad = read_object(self.objects, request, buffer, throttle=throttle, stopped=self._ends)
                    seen = (
                        replace(report, state="recovered")
                        if bad is None
                        else replace(report, state=bad[1], detail=bad[2])
                    )
            audit.bad += seen.state != "recovered"
            yield from self._findings_of(audit, seen)

    def _reached(self, start: bytes, end: bytes) -> None:
        if not self.scope.quick:
            now = self.ledger.clock_us()
            self.recorder.reached(AuditRange(start=start, end=end, position=self.position, at_us=now))

    def _ends(self) -> bool:
        return self.world.stopped() or (self.spent_at is not None and self.world.monotonic() >= self.spent_at)

    # --- findings ---

    def _findings_of(self, audit: CopyAudit, report: ObjectReport) -> Iterator[Finding]:
        key = self._older_key(report)
        yield from self._judged(audit, report) if key is None else self._older(report, key)

    def _judged(self, audit: CopyAudit, report: ObjectReport) -> Iterator[Finding]:
        if report.state == "orphan":
            yield orphan_finding(report)
            return
        if report.state == "lost" and report.sha256 in self._taken_out:
            return
        seen = self._confirm(report)
        address = self._healed_from(seen)
        if address is not None:
            audit.bad -= 1
            yield from self._say_healed(seen, address)
        else:
            yield from self._confirmed(audit, report, seen)

    def _confirmed(self, audit: CopyAudit, report: ObjectReport, seen: ObjectReport) -> Iterator[Finding]:
        """Yield the findings about an object that was read again, with the result `seen`."""
        if seen.state == "recovered" and report.pack is not None:
            audit.bad -= 1
            yield elsewhere(report, report.pack)
            if self.scope.repair and self.recorder.why_not is None and isinstance(self.objects, HasPacks):
                self.objects.drop_place(report.sha256, report.pack)
            return
        found = list(cases(self.ledger, seen, reach=self.reach, repairs=self.scope.repair))
        self._new += any(case.copy.is_new for case in found)
        self._known += any(case.copy.recorded is not None for case in found)
        if not self.scope.repair and self._new > MASS_COUNT and self._new > MASS_SHARE * (audit.looked - self._known):
            self.recorder.stop("mass")
        for case in found:
            if case.new_state is not None:
                self.recorder.add(case.key, report.sha256, case.new_state)
            if case.copy.is_new:
                self._unsettled.append(case)
            else:
                yield self._say(case)
        if len(self._unsettled) >= BATCH:
            yield from self._settle()

    def _healed_from(self, report: ObjectReport) -> str | None:
        """Heal a damaged or lost object from a further storage, and return its address; None if none has it."""
        if self.scope.healer is None or report.state not in {"damaged", "lost"} or self.recorder.why_not is not None:
            return None
        needed = [row for row in report.copies if row.state != RELEASED]
        return self.scope.healer.heal(report.sha256, needed[0].size) if needed else None

    def _say_healed(self, report: ObjectReport, address: str) -> Iterator[Finding]:
        for case in cases(self.ledger, report, reach=self.reach, repairs=True):
            finding, _ = case.finding(None)
            yield finding
            self.summary.repaired += finding.severity == "error"
            if case.copy.recorded is not None:
                self.recorder.add(case.key, report.sha256, "sound")
            detail = f"healed from the further storage {address}"
            yield replace(finding, kind="repaired_copy", severity="note", detail=detail, hint="")

    def _older_key(self, report: ObjectReport) -> str | None:
        """Return the file of which only an older version has the object; None if there is none, or it is sound now."""
        if self._recall is None or report.state not in {"lost", "damaged"} or not report.copies:
            return None
        key = self._recall.key_of(report.sha256)
        if key is None or self._recall.was_put_again(key):
            return key
        # It may have arrived, or moved from a file into a pack, or be sound in another place.
        request = ReadRequest(report.sha256, report.copies[0].size)
        return None if read_object(self.objects, request, memoryview(bytearray(BUFFER))) is None else key

    def _older(self, report: ObjectReport, key: str) -> Iterator[Finding]:
        """Yield the findings about an object that an older version has. With `repair`, put that version back."""
        for finding in older_findings(self.ledger, report, key):
            yield finding
            if self.scope.repair and self.recorder.why_not is None and self._recall is not None:
                self._recall.put_again(key)
                self.summary.repaired += 1
                detail = f"the older version of {key} was restored"
                yield replace(finding, kind="repaired_copy", severity="note", detail=detail, hint="")

    def _settle(self) -> Iterator[Finding]:
        """Yield the new damage, now that it is recorded or will not be. Raises: PartialError."""
        self.recorder.flush()
        unsettled, self._unsettled = self._unsettled, []
        for case in unsettled:
            yield self._say(case)

    def _say(self, case: Case) -> Finding:
        finding, way = case.finding(self.recorder.why_not)
        if self.scope.repair and way in IS_FETCHED_AGAIN:
            self.to_fetch[case.key] = case
        return finding

    def _confirm(self, report: ObjectReport) -> ObjectReport:
        """Read a damaged object a second time to be sure. With `repair`, move a damaged object to the quarantine."""
        if report.state == "recovered" and self.scope.quick:
            return replace(report, state="not_read", detail=QUICK)
        if report.state == "lost" and report.copies and self.objects.size(report.sha256) == report.copies[0].size:
            # It moved from a file into a pack while its folder was read.
            if self.scope.quick:
                return replace(report, state="not_read", detail=QUICK)
        elif report.state not in {"damaged", "recovered"} or self.scope.quick or not report.copies:
            return report
        request = ReadRequest(report.sha256, report.copies[0].size)
        again = read_object(self.objects, request, memoryview(bytearray(BUFFER)))
        if again is None and (report.state == "recovered" or report.pack is not None):
            return replace(report, state="recovered")
        if again is None:
            detail = f"{report.detail}; read a second time, it was sound: check the disk, cables and memory"
            if report.state == "lost":
                detail = "it was put into a pack while this ran, and is sound there"
            return replace(report, state="unreadable", detail=detail)
        _, state, detail = again
        if state == "damaged" and self.scope.repair and self.recorder.why_not is None:
            place = self.objects.set_aside(report.sha256)
            if report.pack is not None:
                self._taken_out.add(report.sha256)
            detail = f"{detail}; it was set aside as {place}"
        return replace(report, state=state, detail=detail)

    def _leftovers(self, audit: CopyAudit, *, read_all: bool) -> Iterator[Finding]:
        for leftover in audit.leftovers(read_all=read_all):
            yield Finding(
                kind=f"{leftover.kind}_file",
                severity="note",
                detail=f"{leftover.path} ({leftover.size} bytes) is not an object",
                hint=_LEFTOVER[leftover.kind],
            )

    def _summarise(self, audit: CopyAudit, whole: float, left: float, seconds: float) -> None:
        why_not = self.recorder.why_not
        self.summary.covered["copies"] = {
            "objects": audit.objects,
            "bytes": audit.bytes,
            "bad": audit.bad,
            "headers": self._headers.compared,
            "newly_bad": self._new,
            "contents": not self.scope.quick,
            "share_due": round(whole, 6),
            "share_left": round(left, 6),
            "recorded": self.recorder.recorded,
            "not_recorded_because": None if why_not is None else WHY_UNRECORDED[why_not],
            "seconds": round(seconds, 3),
        }
        if self.scope.quick:
            self.summary.not_covered.append("contents: --quick checks only names and sizes")

    def _estimate(self, known: tuple[AuditRange, ...], *, read: float, left: float) -> None:
        """Estimate when the last object that is due will be read, if later runs are like this one."""
        runs = runs_left(read, left)
        now = self.ledger.now_us()
        by_us = read_by_us(known, now, runs)
        self.summary.covered["copies"] |= {"runs_left": runs, "all_read_by_us": by_us}
        if left > 0:
            more = (
                "it is too early to estimate when the rest will be read"
                if runs is None
                else f"{runs} more runs like this one will read the rest"
            )
            when = "" if by_us is None else f", by {instant(by_us)} if runs stay as far apart as the last two"
            self.summary.miss(f"copies: time is up, and {left:.1%} of the contents is still due; {more}{when}")


def _behind(sha256: bytes) -> bytes:
    """Return the smallest key after this SHA-256. After the last SHA-256, it is greater than all of them."""
    return sha256 + b"\0"
