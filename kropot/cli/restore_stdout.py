"""`kropotcli restore --stdout NAME`: write one file, and nothing else, to standard output."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from kropot.cli.base import Exit, say
from kropot.errors import IntegrityError, PartialError, UsageError
from kropot.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kropot.cli.restore_report import RestoreReport
    from kropot.replay.copies import Copies
    from kropot.restore.plan import Planned, RestoreProblem

_AT_ONCE = 16 << 20
"""A file of up to this many bytes is kept in memory while it is checked. A larger file is read twice."""

_SHOWN = 3


def write_to_stdout(
    plans: Iterable[Planned | RestoreProblem], copies: Copies, name: str, report: RestoreReport
) -> Exit:
    """Write the one file that `name` means. The whole copy is checked before the first byte is written.

    Raises:
        UsageError: several files match.
        PartialError: no file matches, or the file has no copy that can be opened.
        IntegrityError: the copy is damaged, or is not what its form says.
    """
    from kropot.restore.opener import copy_content
    from kropot.restore.problems import bad_content_of, unopened_of

    plan = _chosen(plans, name)
    if (unopened := unopened_of(plan)) is not None:
        failed = IntegrityError if unopened.problem == "refused" else PartialError
        raise failed(f"{one_line(plan.shown)}: {unopened.why}")
    held, kit, checked = plan.held, plan.opened.kit, bytearray()
    is_small = held.size <= _AT_ONCE
    with copies.open(held) as source:
        content = copy_content(source, checked.extend if is_small else len, held=held, kit=kit)
    if (bad := bad_content_of(plan, content)) is not None:
        raise IntegrityError(f"{one_line(plan.shown)}: {bad.why}")
    if is_small:
        sys.stdout.buffer.write(checked)
    else:
        with copies.open(held) as source:
            copy_content(source, sys.stdout.buffer.write, held=held, kit=kit)
    sys.stdout.buffer.flush()
    report.count(plan, existed=False, size=content.size)
    say(f"sealing: {report.proofs.sealing}")
    say(f"history: {report.proofs.history(report.trust)}")
    return Exit.DONE


def _chosen(plans: Iterable[Planned | RestoreProblem], name: str) -> Planned:
    """Return the file with exactly this name, or the only one that matches it."""
    from kropot.restore.plan import RestoreProblem
    from kropot.sc2.form import Kind

    exact = first = problem = None
    matches: list[str] = []
    count = 0
    for plan in plans:
        if isinstance(plan, RestoreProblem):
            problem = plan if problem is None and plan.name is not None else problem
            continue
        if plan.opened.claim.kind is not Kind.FILE:
            if b"/".join(plan.path) == os.fsencode(name.strip("/")):
                raise UsageError(f"{one_line(name)} is a {plan.opened.claim.kind}: --stdout writes one file")
            continue
        count += 1
        first = first or plan
        matches += [one_line(plan.shown)] if len(matches) < _SHOWN else []
        if b"/".join(plan.path) == os.fsencode(name.strip("/")):
            exact = plan
    if exact is not None:
        return exact
    if first is None and problem is not None:
        failed = IntegrityError if problem.problem in {"refused", "unproved"} else PartialError
        raise failed(f"{one_line(problem.name or name)}: {problem.why}")
    if first is None:
        raise PartialError(f"no file matches {one_line(name)} at that moment: --list-names shows all names")
    if count > 1:
        more = ", ..." if count > _SHOWN else ""
        raise UsageError(
            f"{one_line(name)} matches {count:,} files ({', '.join(sorted(matches))}{more}): give one name, as "
            "--list-names prints it"
        )
    return first
