"""The problems that stop one file of a restore but not the others, and their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kropot.durable.errors import StorageError
from kropot.durable.refusals import InTheWayError, TooLargeError, UnplaceableError
from kropot.objects.store import ObjectMissingError
from kropot.restore.authentic import DamagedError
from kropot.restore.plan import Planned, Problem, RestoreProblem
from kropot.sc2.refused import RefusedError
from kropot.securecopy.sealing import BadSealError

if TYPE_CHECKING:
    from kropot.errors import KropotError
    from kropot.replay.copies import HeldCopy
    from kropot.restore.claims import Claim
    from kropot.restore.opener import Content, Opened

EXCHANGED: Final = "its form is sealed but its content is not: somebody swapped the content"
DIFFERS: Final = (
    "the opened content differs from its form: the file changed while the server sent it, or somebody swapped it; "
    "open it anyway with `kropotcli decrypt`"
)

_PROBLEMS: dict[type[KropotError], Problem] = {
    ObjectMissingError: "missing",
    DamagedError: "damaged",
    RefusedError: "refused",
    BadSealError: "unopened",
    StorageError: "unreadable",
    InTheWayError: "in_the_way",
    TooLargeError: "too_large",
    UnplaceableError: "unplaceable",
}
PER_FILE = tuple(_PROBLEMS)
"""Errors that stop one file but not the others."""


def unopened_of(plan: Planned) -> RestoreProblem | None:
    """Return the problem of a content that must not or cannot be opened, None if there is none."""
    sealing = plan.opened.sealing
    if is_exchanged(plan.held, plan.opened):
        return finding("refused", plan, EXCHANGED)
    if plan.held.iv is None or sealing != "plain":
        return None
    return finding("unopened", plan, "the content is encrypted and the form is not: open it with `kropotcli decrypt`")


def is_exchanged(held: HeldCopy, opened: Opened) -> bool:
    """Return whether the form is sealed by AES-CBC and the content is not, so that anybody could have made it. Pure."""
    return opened.sealing == "cbc" and held.iv is None


def is_as_told(claim: Claim, content: Content) -> bool:
    """Return whether an opened content agrees with its form. Pure."""
    is_restless = claim.rest.get("restless") is True
    has_size = claim.size is None or is_restless or claim.size == content.size
    return has_size and claim.sha256 in {None, content.sha256}


def bad_content_of(plan: Planned, content: Content) -> RestoreProblem | None:
    """Return the problem of a content that differs from its form, None if it agrees."""
    return None if is_as_told(plan.opened.claim, content) else finding("bad_content", plan, DIFFERS)


def problem_of(error: KropotError, plan: Planned) -> RestoreProblem:
    """Return the problem that this error means for one file. `error` MUST be one of `PER_FILE`."""
    problem = next(name for kind, name in _PROBLEMS.items() if isinstance(error, kind))
    return finding(problem, plan, str(error))


def finding(problem: Problem, plan: Planned, why: str) -> RestoreProblem:
    """Return a problem of a planned file."""
    return RestoreProblem(problem=problem, key=plan.held.key, name=plan.shown, why=why)
