"""What a restore tells as it goes, and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kropot.cli.base import Exit, Settings, emit, emit_json, say, warn
from kropot.wording import amount, number, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kropot.restore.job import Restored
    from kropot.restore.plan import Planned, RestoreCounts, RestoreProblem


@dataclass(slots=True)
class Told:
    """Tells findings as they come, and counts."""

    settings: Settings
    files: int = 0
    existed: int = 0
    bytes: int = 0
    older: int = 0
    numbered: int = 0
    findings: int = 0
    problems: dict[str, int] = field(default_factory=dict)

    def restored(self, outcome: Restored) -> None:
        """Count a restored file."""
        self.counted(outcome.planned, existed=outcome.existed, size=outcome.size)

    def counted(self, plan: Planned, *, existed: bool, size: int) -> None:
        """Count a file."""
        self.existed += existed
        self.files += not existed
        self.bytes += 0 if existed else size
        self.older += plan.held.is_older
        self.numbered += plan.numbered

    def finding(self, finding: RestoreProblem) -> None:
        """Tell of something that could not be given back."""
        self.findings += 1
        self.problems[finding.problem] = self.problems.get(finding.problem, 0) + 1
        key = finding.key
        if self.settings.json:
            row = {"source": key.source.hex(), "type": key.kind, "id": key.id, "name": finding.name, "why": finding.why}
            emit_json({"problem": finding.problem} | row, flush=False)
        warn(f"{one_line(finding.name or key.id)}: {finding.why}")

    def end(self, tally: RestoreCounts, target: Path | None, *, idle: Sequence[str], is_real: bool) -> Exit:
        """Tell the sum, return the exit code; `idle` are the patterns that matched nothing."""
        for glob in idle:
            hint = ", unless it is among what the server no longer had then (--vanished)" if tally.vanished else ""
            warn(f"nothing at that moment is called {glob}{hint}")
        locked = sum(tally.locked.values())
        for source, elements in tally.locked.items():
            warn(f"no kit opens the {elements:,} elements of source {source.hex()[:8]}: give the kit of its token too")
        summary = {
            "restored" if is_real else "files": self.files,
            "existed": self.existed,
            "bytes": self.bytes,
            "older": self.older,
            "numbered": self.numbered,
            "vanished": tally.vanished,
            "locked": locked,
            "findings": self.findings,
            "problems": self.problems,
            "unmatched": list(idle),
        }
        if self.settings.json:
            emit_json(summary)
        elif is_real:
            if not (self.files or self.existed or self.findings or locked or idle):
                say("there was nothing to restore: no element with a copy is meant by this, at this moment")
            emit(f"restored {number(self.files, 'file')} to {target} ({amount(self.bytes)})")
            for count, what in (
                (self.existed, "restored before and left as it is"),
                (self.older, "of an older revision, since the newest was not stored yet at that moment"),
                (
                    self.numbered,
                    "under a numbered name, since another file has theirs (--source takes one source alone)",
                ),
                (tally.vanished, "left out, since the server no longer had it then (--vanished restores it too)"),
                (self.findings + locked, "not restored, as told above"),
            ):
                if count:
                    emit(f"{count:>8,}  {what}")
        return Exit.PARTIAL if self.findings or locked or idle else Exit.DONE
