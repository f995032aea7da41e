"""Verifying the copies: which ranges are due, what is found in them, what is recorded, and how far it came."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kropot.replay.until import instant
from kropot.verify.copies import BLOCK_BYTES, BadCopy, CopyAudit, Orphan, ReadProgress, Recovered
from kropot.verify.coverage import Due, due, read_by_us, runs_left, share
from kropot.verify.local import LocalAudit
from kropot.verify.reading import BUFFER, ReadRequest, ThreadReading, Throttle, read_object
from kropot.verify.recording import MASS_COUNT, MASS_SHARE
from kropot.verify.verdicts import AGAIN, of_orphan, recoveries, verdicts
from ledger.audit import Finding
from ledger.events import AuditRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.store import ObjectStore
    from kropot.verify.copies import Outcome
    from kropot.verify.findings import Summary
    from kropot.verify.recording import Recorder
    from kropot.verify.scope import Scope
    from ledger.events import StreamKey
    from ledger.log import Ledger

_LEFTOVER = {
    "temporary": "left by a run that was cut short; it does no harm",
    "stray": "put there by something else; it does no harm, and may be removed",
    "quarantined": "set aside by a repair; it may be removed once its element has a sound copy again",
}
ADVANCE_S = 300.0
"""How far contents were read is recorded at least so often, so that a kill costs minutes and not the whole run."""


def never() -> bool:
    """Return that nobody wants to stop."""
    return False


def nobody(_objects: int, _bytes: int) -> None:
    """Tell nobody how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a run needs from outside: time, sleep, the wish to stop, and who is told how many objects and bytes.

    `folder` is where the objects are if that is a local folder: reading it by ranges is faster than object by object.
    """

    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    stopped: Callable[[], bool] = never
    progress: Callable[[int, int], None] = nobody
    folder: str | None = None


TOO_MUCH = (
    "so much is missing or damaged that the storage may not be mounted, or be another one; if it is the right one,"
    " --repair records what is wrong and has it fetched again"
)


@dataclass(slots=True, kw_only=True)
class CopyVerification:
    """The copies' part of a run, pinned to the ledger's `position`; `wanted` are copies that can be fetched again."""

    ledger: Ledger
    objects: ObjectStore
    scope: Scope
    world: World
    recorder: Recorder
    summary: Summary
    position: int
    spent_at: float | None
    wanted: dict[StreamKey, Finding] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """Yield what is not as it should be, the ranges read longest ago first.

        Raises:
            StorageError: if the store cannot be looked through.
        """
        began = self.world.monotonic()
        audit = self._audit()
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
        yield from self._leftovers(audit, everywhere=whole - left >= 1)
        self._summarise(audit, whole, left, self.world.monotonic() - began)
        if whole - left < 1:
            self._recall()
        self._foretell(known, read=whole - left, left=left)

    def _audit(self) -> CopyAudit | LocalAudit:
        """Return the fastest way to read what is asked for."""
        if self.scope.quick:
            return CopyAudit(self.ledger, self.objects, None, stopped=self._ends)
        if self.world.folder is not None and self.scope.rate is None:
            return LocalAudit(self.ledger, self.world.folder, stopped=self._ends)
        throttle = Throttle(self.scope.rate, sleep=self.world.sleep, monotonic=self.world.monotonic)
        reading = ThreadReading(self.objects, throttle=throttle, stopped=self._ends)
        # A second's worth at a time: else whoever stops it would wait for what is already handed out.
        block_bytes = BLOCK_BYTES if self.scope.rate is None else min(self.scope.rate, BLOCK_BYTES)
        return CopyAudit(self.ledger, self.objects, reading, stopped=self._ends, block_bytes=block_bytes)

    # --- ranges ---

    def _due(self) -> list[Due]:
        if self.scope.quick:
            return due(())
        age = self.scope.max_age_us
        return due(self.ledger.audit(), before_us=None if age is None else self.ledger.now_us() - age)

    def _walk(self, audit: CopyAudit | LocalAudit, part: Due) -> Iterator[Finding]:
        """Walk one range, recording now and then how far contents were read."""
        since = self.world.monotonic()
        for outcome in audit.walk(part.start, part.end):
            yield from self._judge(audit, outcome)
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

    # --- outcomes ---

    def _judge(self, audit: CopyAudit | LocalAudit, outcome: Outcome) -> Iterator[Finding]:
        match outcome:
            case ReadProgress():
                self.world.progress(audit.objects, audit.bytes)
            case Orphan():
                yield of_orphan(outcome)
            case BadCopy():
                if not self.scope.repair and audit.bad > MASS_COUNT and audit.bad > MASS_SHARE * audit.looked:
                    self.recorder.stop(TOO_MUCH)
                for verdict in verdicts(self.ledger, self._confirm(outcome)):
                    self.recorder.add(verdict)
                    if self.scope.repair and verdict.finding.hint == AGAIN:
                        self.wanted[verdict.key] = verdict.finding
                    yield verdict.finding
            case Recovered():
                for verdict in recoveries(self.ledger, outcome):
                    self.recorder.add(verdict)
                    yield verdict.finding

    def _confirm(self, bad: BadCopy) -> BadCopy:
        """Read a damaged object once more before it is called so; with `repair`, put it where it does no harm."""
        fault, named = bad.fault, bad.named
        if fault.kind != "damaged" or self.scope.quick:
            return bad
        again = read_object(self.objects, ReadRequest(named.sha256, named.size), memoryview(bytearray(BUFFER)))
        if again is None:
            detail = f"{fault.detail}; read once more it was sound: look at disk, cables and memory"
            return BadCopy(named=named, fault=replace(fault, kind="unreadable", detail=detail))
        if again.kind == "damaged" and self.scope.repair and self.recorder.why_not is None:
            place = self.objects.set_aside(named.sha256)
            return BadCopy(named=named, fault=replace(again, detail=f"{again.detail}; it was set aside as {place}"))
        return BadCopy(named=named, fault=again)

    def _leftovers(self, audit: CopyAudit | LocalAudit, *, everywhere: bool) -> Iterator[Finding]:
        for leftover in audit.leftovers() if isinstance(audit, LocalAudit) and everywhere else self.objects.leftovers():
            yield Finding(
                kind=f"{leftover.kind}_file",
                severity="note",
                detail=f"{leftover.path} ({leftover.size} bytes) is no object",
                hint=_LEFTOVER[leftover.kind],
            )

    def _summarise(self, audit: CopyAudit | LocalAudit, whole: float, left: float, seconds: float) -> None:
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
        """Say of what earlier runs found that it may not have been looked at in this one."""
        bad = sum(tally.elements for tally in self.ledger.tallies() if tally.state in {"damaged", "lost"})
        if bad:
            elements = "1 element has" if bad == 1 else f"{bad} elements have"
            self.summary.not_covered.append(
                f"copies: {elements} a copy that was found damaged or lost and has no sound one since"
                " (`kropotcli ls --state damaged --state lost`), and not everything was read again"
            )

    def _foretell(self, known: tuple[AuditRange, ...], *, read: float, left: float) -> None:
        """Say when the last object that is due will have been read, should the runs go on as they did."""
        runs = runs_left(read, left)
        now = self.ledger.now_us()
        by_us = read_by_us(known, now, runs)
        self.summary.covered["copies"] |= {"runs_left": runs, "all_read_by_us": by_us}
        if left > 0:
            more = "no telling when the rest will be" if runs is None else f"{runs} more runs like this read the rest"
            when = "" if by_us is None else f", by {instant(by_us)} if they come as far apart as the last two"
            self.summary.miss(
                f"copies: {left:.1%} of all is due and still to be read (the time is spent); {more}{when}"
            )
