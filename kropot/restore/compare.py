"""Open and check every copy that a restore would write, and compare a folder with them. This writes nothing."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.durable.dirfd import descend, link_below, open_below
from kropot.restore.entry import target_of
from kropot.restore.journal import content_of
from kropot.restore.opener import copy_content
from kropot.restore.parallel import in_order
from kropot.restore.plan import Planned, RestoreProblem
from kropot.restore.problems import PER_FILE, bad_content_of, finding, problem_of, unopened_of
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    from kropot.replay.copies import Copies


class Verified(Struct, frozen=True, kw_only=True):
    """A copy of `size` plain bytes that is as it was stored. If a folder was given, the folder has it too."""

    planned: Planned
    size: int


def compare(
    plans: Iterable[Planned | RestoreProblem],
    *,
    copies: Copies,
    root: Path | None,
    pool: Executor,
    moved: Callable[[int], None] = lambda _: None,
) -> Iterator[Verified | RestoreProblem]:
    """Read every planned copy to its end, and the file at its path below `root`. Yield each result in order.

    Any thread can call `moved`, with the number of bytes that it read.

    Raises: OSError if `root` cannot be opened.
    """
    with ExitStack() as stack:
        folder = None
        if root is not None:
            folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, folder)
        # The threads must end before the folder is closed, because its descriptor can then belong to another file.
        stack.callback(pool.shutdown, cancel_futures=True)
        yield from in_order(pool, lambda plan: _compared(plan, copies, folder, moved), plans, window=64)


def _compared(
    plan: Planned | RestoreProblem, copies: Copies, folder: int | None, moved: Callable[[int], None]
) -> Verified | RestoreProblem:
    """Check one copy and its file. Several threads call this."""
    if isinstance(plan, RestoreProblem):
        return plan
    if (unopened := unopened_of(plan)) is not None:
        return unopened
    try:
        with copies.open(plan.held) as source:
            content = copy_content(source, lambda data: moved(len(data)), held=plan.held, kit=plan.opened.kit)
    except PER_FILE as error:
        return problem_of(error, plan)
    bad = bad_content_of(plan, content)
    if bad is None and folder is not None:
        bad = _difference(plan, folder, content.sha256)
    return Verified(planned=plan, size=content.size) if bad is None else bad


def _difference(plan: Planned, folder: int, sha256: bytes) -> RestoreProblem | None:
    """Return how the entry in the folder differs from the copy, None if it has the same kind and content."""
    if plan.opened.claim.kind is not Kind.FILE:
        return _other_entry(plan, folder)
    try:
        _, found = content_of(open_below(folder, plan.path))
    except FileNotFoundError:
        return _absent(plan)
    except OSError as error:
        return finding(
            "differs", plan, f"the entry of this name in the folder cannot be read as a file ({error.strerror})"
        )
    if found != sha256:
        return finding("differs", plan, "the file in the folder differs from the backup")
    return None


def _other_entry(plan: Planned, folder: int) -> RestoreProblem | None:
    """Return how a folder or symlink differs from the form, None if it exists with the same target."""
    kind = plan.opened.claim.kind
    try:
        if kind is Kind.FOLDER:
            os.close(descend(folder, plan.path))
            return None
        target = link_below(folder, plan.path)
    except FileNotFoundError:
        return _absent(plan)
    except OSError as error:
        return finding("differs", plan, f"the entry of this name in the folder is not a {kind} ({error.strerror})")
    if target is None:
        return finding("differs", plan, f"the entry of this name in the folder is not a {kind}")
    if target != target_of(plan):
        return finding("differs", plan, "the symlink in the folder has a different target than in the backup")
    return None


def _absent(plan: Planned) -> RestoreProblem:
    return finding("absent", plan, "the folder does not have it: run the restore without --verify-only")
