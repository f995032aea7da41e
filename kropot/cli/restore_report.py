"""Count the results of a restore, and print its findings and, at the end, the summary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kropot.cli.base import Exit, Settings, emit, emit_json, say, warn
from kropot.cli.restore_trust import Proofs, Trust
from kropot.wording import amount, number, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kropot.cli.restore_mode import Mode
    from kropot.durable.target import TargetFolder
    from kropot.query.erasures import Erased
    from kropot.query.past import KnownSource
    from kropot.restore.from_storage import Surveyed
    from kropot.restore.job import Restored
    from kropot.restore.plan import Planned, RestoreCounts, RestoreProblem

_COUNTED: dict[Mode, str] = {"restore": "restored", "look": "files", "verify": "verified", "print": "printed"}
DIFFERENCES = {"absent", "differs", "refused", "unproved", "damaged", "bad_content"}
"""Problems that mean that a copy, or a file in the folder, is not what it should be: exit code 4."""


KnownSources = Mapping[bytes, "KnownSource"]

_SHOWN_NAMES = 10
"""How many names that two sources share are shown. After a change of token, two sources can share all names."""


@dataclass(slots=True)
class RestoreReport:
    """The counts of a restore. It prints each finding at once."""

    settings: Settings
    trust: Trust
    proofs: Proofs = field(default_factory=Proofs)
    hidden: int = 0
    survey: Surveyed | None = None
    files: int = 0
    existed: int = 0
    overwritten: int = 0
    bytes: int = 0
    older: int = 0
    numbered: int = 0
    findings: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    erased: Erased | None = None
    sources: KnownSources = field(default_factory=dict)
    same_names: int = 0
    folders: int = 0
    symlinks: int = 0
    unlinked: int = 0
    tree: TargetFolder | None = None

    def restored(self, outcome: Restored) -> None:
        """Count a restored file."""
        self.overwritten += outcome.overwrote
        self.unlinked += outcome.unlinked
        self.count(outcome.planned, existed=outcome.existed, size=outcome.size)

    def count(self, plan: Planned, *, existed: bool, size: int) -> None:
        """Count a file, a folder or a symlink."""
        from kropot.sc2.form import Kind

        kind = plan.opened.claim.kind
        self.proofs.count(plan, self.trust)
        self.existed += existed
        self.files += kind is Kind.FILE and not existed
        self.folders += kind is Kind.FOLDER and not existed
        self.symlinks += kind is Kind.SYMLINK and not existed
        self.bytes += 0 if existed else size
        self.older += plan.held.is_older
        self.numbered += plan.numbered

    def finding(self, finding: RestoreProblem) -> None:
        """Print and count a finding: an element that could not be restored."""
        self.findings += 1
        self.problems[finding.problem] = self.problems.get(finding.problem, 0) + 1
        key = finding.key
        if self.settings.json:
            row = {"source": key.source.hex(), "type": key.kind, "id": key.id, "name": finding.name, "why": finding.why}
            emit_json("restore_problem", {"problem": finding.problem, **row}, flush=False)
        self.same_names += finding.problem == "same_name"
        if finding.problem != "same_name" or self.same_names <= _SHOWN_NAMES:
            warn(f"{finding.name or one_line(key.id)}: {finding.why}")

    def finish(self, tally: RestoreCounts, target: Path | None, *, unmatched: Sequence[str], mode: Mode) -> Exit:
        """Print the summary, and return the exit code. `unmatched` are the patterns that matched nothing."""
        self._warn(tally, unmatched)
        locked = sum(tally.locked.values())
        summary = {
            _COUNTED[mode]: self.files,
            "folders": self.folders,
            "symlinks": self.symlinks,
            "existed": self.existed,
            "overwritten": self.overwritten,
            "bytes": self.bytes,
            "older": self.older,
            "numbered": self.numbered,
            "unlinked": self.unlinked,
            "refused": self._refused,
            "vanished": tally.vanished,
            "past": {source.hex(): elements for source, elements in tally.past.items()},
            "outdated": tally.outdated,
            "locked": locked,
            "findings": self.findings,
            "problems": self.problems,
            "unmatched": list(unmatched),
            "erased": None if self.erased is None else self.erased.json,
            "hidden": self.hidden,
            "objects": None if self.survey is None else _objects_json(self.survey),
            **self.proofs.json(self.trust),
        }
        is_nothing = not (self.files or self.folders or self.symlinks or self.existed)
        if self.erased:
            say(f"erased, so it cannot be restored: {self.erased}")
        if self.settings.json:
            emit_json("restore_summary", summary)
        elif mode != "look" and not (
            self.settings.quiet and self._code(tally, unmatched, is_nothing=is_nothing) == Exit.DONE
        ):
            if is_nothing and not (self.findings or locked or unmatched or tally.past):
                say(f"nothing to {mode}: no matching element had a copy at that moment; check --until and --source")
            emit(self._headline(target, mode))
            for count, what in (
                (self.existed, "restored by an earlier run, and unchanged"),
                (self.overwritten, "in place of a file with different content (--overwrite)"),
                (self.older, "from an older revision: the newest was not yet stored at that moment"),
                (
                    self.numbered,
                    "under a numbered name: another file has the same name",
                ),
                (self.unlinked, "written as separate files: they were hard links to one file"),
                *((count, _not_taken(what)) for what, count in self._refused.items()),
                (
                    tally.outdated,
                    "left out of past sources: a source listed later has a file with the same name (--both)",
                ),
                (sum(tally.past.values()), "left out: of past sources (--past-sources)"),
                (tally.vanished, "left out: vanished from the server at that moment (--vanished restores them too)"),
                (self.findings + locked, f"not {_COUNTED[mode]}: see the warnings above"),
            ):
                if count:
                    emit(f"{count:>8,}  {what}")
            emit(f"sealing: {self.proofs.sealing}")
            emit(f"history: {self.proofs.history(self.trust)}")
        return self._code(tally, unmatched, is_nothing=is_nothing)

    def _code(self, tally: RestoreCounts, unmatched: Sequence[str], *, is_nothing: bool) -> Exit:
        """Return the exit code."""
        survey = self.survey
        if self.hidden or (survey is not None and survey.refused) or not DIFFERENCES.isdisjoint(self.problems):
            return Exit.FINDINGS
        is_left_out = survey is not None and (survey.locked or survey.foreign)
        is_partial = (
            self.findings or sum(tally.locked.values()) or unmatched or is_left_out or (is_nothing and tally.past)
        )
        return Exit.PARTIAL if is_partial else Exit.DONE

    def _headline(self, target: Path | None, mode: Mode) -> str:
        files, size = self._counted, amount(self.bytes)
        if mode == "restore":
            return f"restored {files} to {target} ({size})"
        if self.findings or not (self.files or self.folders or self.symlinks):
            return f"verified {files} ({size})"
        return f"verified {files} ({size}): {'the copies are sound' if target is None else f'{target} has the same'}"

    @property
    def _counted(self) -> str:
        """The number of files, folders and symlinks, in words. Folders and symlinks are left out if there are none."""
        counted = [number(self.files, "file")]
        counted += [number(self.folders, "folder")] if self.folders else []
        counted += [number(self.symlinks, "symlink")] if self.symlinks else []
        return ", ".join(counted)

    @property
    def _refused(self) -> dict[str, int]:
        """How many entries lack an attribute because the target folder refused to set it, by attribute."""
        return {} if self.tree is None else dict(sorted(self.tree.refused.items()))

    def _warn(self, tally: RestoreCounts, unmatched: Sequence[str]) -> None:
        """Warn the user what was left out, and how to get it."""
        for glob in unmatched:
            hint = "; --vanished also looks among the vanished elements" if tally.vanished else ""
            hint += "; --past-sources also looks in past sources" if tally.past else ""
            warn(f"no file matches {glob} at that moment: check the pattern and --until{hint}")
        if self.same_names > _SHOWN_NAMES:
            warn(
                f"and {self.same_names - _SHOWN_NAMES:,} more names that two sources have (--json shows all): choose a "
                "source with --source, or restore both with --both; if the token of one source was replaced, run "
                "`kropotcli source retire`"
            )
        if self.hidden:
            warn(
                f"{number(self.hidden, 'element')} of the history {'is' if self.hidden == 1 else 'are'} hidden: there "
                "are events about them, but everything else about them is gone, so the ledger or the export was "
                "altered: run `kropotcli verify`"
            )
        if self.survey is not None:
            _warn_of_objects(self.survey)
        for source, elements in tally.past.items():
            known = self.sources.get(source)
            warn(
                f"source {_name_of(known, source)} is past{_why_past(known)}, so its {number(elements, 'element')} "
                f"{'was' if elements == 1 else 'were'} left out: --past-sources restores what no other source has"
            )
        for source, elements in tally.locked.items():
            name = _name_of(self.sources.get(source), source)
            warn(
                f"no kit opens the {number(elements, 'element')} of source {name}: also give the kit of its token with "
                "--key"
            )


def _warn_of_objects(survey: Surveyed) -> None:
    """Warn the user how many objects in a storage were left out, and why."""
    if survey.refused:
        warn(
            f"{number(survey.refused, 'object')} in the storage cannot be opened: damaged or altered; older versions "
            f"may have been restored in their place, and only a ledger can tell"
        )
    if survey.locked:
        warn(
            f"another kit is needed for {number(survey.locked, 'object')} in the storage: give the kit of the vault "
            f"{' and '.join(sorted(survey.vaults))}"
        )
    if survey.foreign:
        warn(
            f"sc2 did not seal {number(survey.foreign, 'object')} in the storage: only a ledger says how to open such "
            "objects"
        )


def _objects_json(survey: Surveyed) -> dict[str, int]:
    return {
        "opened": survey.opened,
        "older": survey.older,
        "refused": survey.refused,
        "locked": survey.locked,
        "foreign": survey.foreign,
    }


def _not_taken(what: str) -> str:
    """Return the line about an attribute of entries that the target folder refused to set."""
    if what == "owner":
        if os.geteuid() != 0:
            return "now owned by you: only root can restore their owners"
        return "without their owners: the target refused to set them"
    named = {"xattrs": "extended attributes or ACLs", "mode": "modes", "time": "times"}
    return f"without some of their {named[what]}: the target refused to set them"


def _name_of(known: KnownSource | None, source: bytes) -> str:
    return source.hex()[:8] if known is None or known.keeping.label is None else known.keeping.label


def _why_past(known: KnownSource | None) -> str:
    return "" if known is None or known.past is None else f" ({known.past.text})"
