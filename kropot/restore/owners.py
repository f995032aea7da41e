"""The owner of a restored entry: the user and group with the recorded names here, else the numbers. Only for root."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from kropot.durable.attributes import Attributes
from kropot.restore.entry import time_of
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    from kropot.durable.attributes import Refused
    from kropot.restore.plan import Planned
    from kropot.sc2.form import Form

_AS_IT_IS = -1


class Owners:
    """Translates the owners in forms to those of this system. Any thread may ask."""

    def __init__(self, *, numeric: bool, is_root: bool | None = None) -> None:
        """With `numeric`, take the numbers and ignore the names."""
        self.is_root = os.geteuid() == 0 if is_root is None else is_root
        self._numeric = numeric
        self._mine = (os.geteuid(), os.getegid())

    def of(self, form: Form) -> tuple[int, int] | None:
        """Return (user, group) as numbers, None if they cannot be set or are unknown."""
        if not self.is_root or (form.uid is None and form.gid is None):
            return None
        user = None if self._numeric else _user(form.user)
        group = None if self._numeric else _group(form.group)
        return _chosen(user, form.uid), _chosen(group, form.gid)

    def is_lost(self, form: Form) -> bool:
        """Return whether an entry gets another owner than in its form because this user is not root."""
        return not self.is_root and form.uid is not None and (form.uid, form.gid) != self._mine


def attributes_of(listed: Form, born: Form | None, owners: Owners, mtime_ns: int) -> Attributes:
    """Return an entry's attributes. `listed` is its newest form, `born` the complete one in the object.

    Attributes that are too large for a listed form are in the object.
    """
    source = born if listed.attributes and born is not None else listed
    return Attributes(
        mode=listed.mode,
        mtime_ns=mtime_ns,
        owner=owners.of(listed),
        xattrs=source.xattrs,
        is_folder=listed.kind is Kind.FOLDER,
    )


def wanted_of(plan: Planned, born: Form | None, owners: Owners) -> tuple[Attributes, tuple[Refused, ...]]:
    """Return the attributes that an entry gets, and what it cannot get. `born` is the form in its object."""
    claim = plan.opened.claim
    if claim.sealed is None:
        return Attributes(mode=claim.mode, mtime_ns=time_of(plan)), ()
    lost: tuple[Refused, ...] = ("owner",) if owners.is_lost(claim.sealed) else ()
    return attributes_of(claim.sealed, born, owners, time_of(plan)), lost


def _chosen(found: int | None, number: int | None) -> int:
    if found is not None:
        return found
    return _AS_IT_IS if number is None else number


@lru_cache(4096)
def _user(name: bytes | None) -> int | None:
    import pwd

    try:
        return None if name is None else pwd.getpwnam(os.fsdecode(name)).pw_uid
    except (KeyError, ValueError):
        return None


@lru_cache(4096)
def _group(name: bytes | None) -> int | None:
    import grp

    try:
        return None if name is None else grp.getgrnam(os.fsdecode(name)).gr_gid
    except (KeyError, ValueError):
        return None
