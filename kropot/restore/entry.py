"""What is planned for one entry: its kind and attributes, and whether it may replace whatever has its name. Pure."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, Final, Literal

from kropot.replay.copies import held_json
from kropot.restore.journal import show_name
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    import os

    from kropot.restore.plan import Planned

Overwrite = Literal["never", "older", "always"]
"""When a file that restore did not write is replaced. "older": if it is older than the restored file."""

_NS: Final = 1_000_000_000
_FORMATS: Final = {Kind.FILE: stat.S_IFREG, Kind.FOLDER: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}


def time_of(plan: Planned) -> int:
    """Return the time that the file gets, in nanoseconds since 1970: its own, or the server's date for it."""
    mtime_ns = plan.opened.claim.mtime_ns
    return plan.held.date * _NS if mtime_ns is None else mtime_ns


def may_overwrite(found: os.stat_result, plan: Planned, overwrite: Overwrite) -> bool:
    """Return whether something that restore did not write may be replaced: a file by a file, a symlink by a symlink."""
    if plan.opened.claim.kind is Kind.FOLDER or not is_of_kind(found, plan):
        return False
    return overwrite == "always" or (overwrite == "older" and found.st_mtime_ns < time_of(plan))


def is_of_kind(found: os.stat_result, plan: Planned) -> bool:
    """Return whether the entry that has the name is a file, folder or symlink, as planned."""
    return stat.S_IFMT(found.st_mode) == _FORMATS[plan.opened.claim.kind]


def group_of(plan: Planned) -> bytes | None:
    """Return the group of a file that has several names (hard links), None for all others."""
    sealed = plan.opened.claim.sealed
    return None if sealed is None or sealed.kind is not Kind.FILE else sealed.link_group


def target_of(plan: Planned) -> bytes:
    """Return where a planned symlink leads."""
    sealed = plan.opened.claim.sealed
    return b"" if sealed is None else sealed.target or b""


def is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether these are the same file."""
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def size_of(plan: Planned, found: os.stat_result) -> int:
    """Return how many bytes the entry that has the name counts for."""
    return found.st_size if plan.opened.claim.kind is Kind.FILE else 0


def details_of(plan: Planned) -> dict[str, Any]:
    """Return the manifest's fields about a file, apart from its path and content."""
    held, claim = plan.held, plan.opened.claim
    stored = held_json(held)
    kind = {} if claim.kind is Kind.FILE else {"kind": str(claim.kind), **show_name("target", target_of(plan))}
    return {
        **show_name("name", claim.name),
        "mode": claim.mode,
        "mtime_ns": None if claim.mtime_ns is None else str(claim.mtime_ns),
        "source": stored["source"],
        "type": stored["type"],
        "id": stored["id"],
        "date": stored["date"],
        "tz": stored["tz"],
        "state": stored["state"],
        "object": stored["sha256"],
        "is_older": held.is_older,
        "form": claim.rest,
        **kind,
    }
