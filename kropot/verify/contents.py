"""Verifying the copies: which ranges are due, what is found in them, what is recorded, and how far it came."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kropot.objects.bulk.any_store import BLOCK_BYTES, StoreReader
from kropot.objects.bulk.protocol import BulkReadable
from kropot.objects.bulk.reading import BUFFER, ReadRequest, ThreadReading, Throttle, read_object
from kropot.replay.until import instant
from kropot.verify.copies import CopyAudit
from kropot.verify.copy_findings import AGAIN, copy_findings, orphan_finding
from kropot.verify.coverage import Due, due, read_by_us, runs_left, share
from kropot.verify.recording import MASS_COUNT, MASS_SHARE
from ledger.audit import Finding
from ledger.events import AuditRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.bulk.protocol import BulkReader
    from kropot.objects.store import ObjectStore
    from kropot.verify.copies import ObjectReport
    from kropot.verify.findings import Summary
    from kropot.verify.recording import Recorder
    from kropot.verify.scope import Scope
    from ledger.events import StreamKey
    from ledger.log import Ledger

_LEFTOVER = {
    "temporary": "left by a run that was cut short; it does no harm",
    "stray": "another program put it there; it does no harm, and you can remove it",
    "quarantined": "set aside by a repair; you can remove it once its element has a sound copy again",
}
ADVANCE_S = 300.0
"""How often to record how far contents were read, so that a kill costs minutes and not the whole run."""


def never() -> bool:
    """Return False: nobody asks to stop."""
    return False


def nobody(_objects: int, _bytes: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a run needs from outside: time, sleep, the wish to stop, and who hears how much was read."""

    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    stopped: Callable[[], bool] = never
    progress: Callable[[int, int], None] = nobody


TOO_MUCH = (
    "so much is missing or damaged that the storage may not be mounted, or be another one; if it is the right one,"
    " --repair records what is wrong and has it fetched again"
)


@dataclass(slots=True, kw_only=True)
class CopyVerification:
    """The copies' part of a run, pinned to the ledger's `position`; `to_fetch` are copies that can be fetched again."""

    ledger: Ledger
    objects: ObjectStore
    scope: Scope
    world: World
    recorder: Recorder
    summary: Summary
    position: int
    spent_at: float | None
    to_fetch: dict[StreamKey, Finding] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """Yield what is not as it should be, the ranges read longest ago first.

        Raises:
            StorageError: if the store cannot be looked through.
        """
        began = self.world.monotonic()
        audit = CopyAudit(self.ledger, self._reader())
        known = self.ledger.audit()
        parts = self._due()
        left = 0.0
        try:
            for part in parts:
                if not self._ends():
                    yield from self._walk(audit, part)
                    if audit.read_to == part.end:
                        continue
                    start = part.start if audit.read_to is None else audit.read_to
                    left += share(start, part.end)
                else:
                    left += share(part.start, part.end)
        finally:
            audit.close()
            self.recorder.flush()
        whole = sum(share(part.start, part.end) for part in parts)
        yield from self._leftovers(audit, read_all=whole - left >= 1)
        self._summarise(audit, whole, left, self.world.monotonic() - began)
        if whole - left < 1:
            self._recall()
        self._foretell(known, read=whole - left, left=left)

    def _reader(self) -> BulkReader:
        """Return the fastest way to read what is asked for."""
        if self.scope.quick:
            return StoreReader(self.objects, None, stopped=self._ends)
        if isinstance(self.objects, BulkReadable) and self.scope.rate is None:
            tallies = self.ledger.tallies()
            count, size = sum(each.elements for each in tallies), sum(each.bytes for each in tallies)
            return self.objects.bulk_reader(objects=count, size=size, stopped=self._ends)
        throttle = Throttle(self.scope.rate, sleep=self.world.sleep, monotonic=self.world.monotonic)
        reading = ThreadReading(self.objects, throttle=throttle, stopped=self._ends)
        # One second's worth at a time: otherwise a stop would wait for everything that is already handed out.
        block_bytes = BLOCK_BYTES if self.scope.rate is None else min(self.scope.rate, BLOCK_BYTES)
        return StoreReader(self.objects, reading, stopped=self._ends, block_bytes=block_bytes)

    # --- ranges ---

    def _due(self) -> list[Due]:
        if self.scope.quick:
            return due(())
        age = self.scope.max_age_us
        return due(self.ledger.audit(), before_us=None if age is None else self.ledger.now_us() - age)

    def _walk(self, audit: CopyAudit, part: Due) -> Iterator[Finding]:
        """Walk one range, recording now and then how far contents were read."""
        since = self.world.monotonic()
        for reports in audit.walk(part.start, part.end):
            for report in reports:
                yield from self._findings_of(audit, report)
            self.world.progress(audit.objects, audit.bytes)
            if audit.read_to is not None and self.world.monotonic() - since > ADVANCE_S:
                self._reached(part.start, audit.read_to)
                since = self.world.monotonic()
        if audit.read_to is not None:
            self._reached(part.start, audit.read_to)

    def _reached(self, start: bytes, end: bytes) -> None:
        if not self.scope.quick:
            now = self.ledger.now_us()
            self.recorder.reached(AuditRange(start=start, end=end, position=self.position, at_us=now))

    def _ends(self) -> bool:
        return self.world.stopped() or (self.spent_at is not None and self.world.monotonic() >= self.spent_at)

    # --- findings ---

    def _findings_of(self, audit: CopyAudit, report: ObjectReport) -> Iterator[Finding]:
        if report.state == "orphan":
            yield orphan_finding(report)
            return
        if report.state != "recovered":
            if not self.scope.repair and audit.bad > MASS_COUNT and audit.bad > MASS_SHARE * audit.looked:
                self.recorder.stop(TOO_MUCH)
            report = self._confirm(report)
        for finding, key, state in copy_findings(self.ledger, report):
            if state is not None:
                self.recorder.add(key, report.sha256, state)
            if self.scope.repair and finding.hint == AGAIN:
                self.to_fetch[key] = finding
            yield finding

    def _confirm(self, report: ObjectReport) -> ObjectReport:
        """Read a damaged object once more before calling it so; with `repair`, put it where it does no harm."""
        if report.state != "damaged" or self.scope.quick or not report.copies:
            return report
        request = ReadRequest(report.sha256, report.copies[0].size)
        again = read_object(self.objects, request, memoryview(bytearray(BUFFER)))
        if again is None:
            detail = f"{report.detail}; read once more it was sound: look at disk, cables and memory"
            return replace(report, state="unreadable", detail=detail)
        _, state, detail = again
        if state == "damaged" and self.scope.repair and self.recorder.why_not is None:
            place = self.objects.set_aside(report.sha256)
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
        self.summary.covered["copies"] = {
            "objects": audit.objects,
            "bytes": audit.bytes,
            "bad": audit.bad,
            "contents": not self.scope.quick,
            "share_due": round(whole, 6),
            "share_left": round(left, 6),
            "recorded": self.recorder.recorded,
            "not_recorded_because": self.recorder.why_not,
            "seconds": round(seconds, 3),
        }
        if self.scope.quick:
            self.summary.not_covered.append("contents: only names and sizes were looked at (--quick)")

    def _recall(self) -> None:
        """Say that this run may not have checked what earlier runs found."""
        bad = sum(tally.elements for tally in self.ledger.tallies() if tally.state in {"damaged", "lost"})
        if bad:
            elements = "1 element has" if bad == 1 else f"{bad} elements have"
            self.summary.not_covered.append(
                f"copies: {elements} a copy that was found damaged or lost and has no sound one since"
                " (`kropotcli ls --state damaged --state lost`), and not everything was read again"
            )

    def _foretell(self, known: tuple[AuditRange, ...], *, read: float, left: float) -> None:
        """Estimate when the last object that is due will have been read, if runs go on as before."""
        runs = runs_left(read, left)
        now = self.ledger.now_us()
        by_us = read_by_us(known, now, runs)
        self.summary.covered["copies"] |= {"runs_left": runs, "all_read_by_us": by_us}
        if left > 0:
            more = (
                "too early to estimate when the rest will be read"
                if runs is None
                else f"{runs} more runs like this read the rest"
            )
            when = "" if by_us is None else f", by {instant(by_us)} if they come as far apart as the last two"
            self.summary.miss(
                f"copies: {left:.1%} of all is due and still to be read (the time is spent); {more}{when}"
            )
