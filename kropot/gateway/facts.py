"""What the catalogue keeps of an entry besides size, mode and times: its kind, owner, links, attributes and holes.

Only tokens of `sc2` get it. Their forms are made here.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, cast

import msgpack

from kropot.gateway.sources import identity_parts
from kropot.sc2.form import Form, Kind
from kropot.sc2.refused import RefusedError

if TYPE_CHECKING:
    from kropot.gateway.sources import Seen
    from kropot.gateway.state import FileRow

_KEPT: Final = ("target", "link_group", "uid", "gid", "user", "group", "xattrs", "holes")
_MOST_MTIME_NS: Final = 2**63 - 1
_SURELY_FITS: Final = 3000

UNKNOWN: Final = b""
"""The facts of a file that cannot be opened: it is reported, and nothing more is known."""


class Audience(IntEnum):
    """Which tokens get an entry."""

    ALL = 0
    FOLLOWED = 1
    """A file that a symlink leads to: for all tokens except those of sc2, which get the symlink itself."""
    SEALED = 2
    """A folder or a symlink: only for tokens of sc2."""


def pack(form: Form) -> bytes:
    """Return the facts to keep of a complete form."""
    kept: dict[str, Any] = {name: value for name in _KEPT if (value := getattr(form, name)) not in (None, ())}
    return cast("bytes", msgpack.packb(kept | {"kind": form.kind.value}, use_bin_type=True))


def form_of(row: FileRow, *, like: Form | None = None, sealed_us: int = 0, padding: bool = False) -> Form:
    """Return the complete form of an entry as the catalogue knows it now.

    If `like` is given, the form of its version's birth, the result says how the content in that object is laid out.

    Raises:
        RefusedError: no form can describe it.
    """
    facts = _unpacked(row.facts)
    if row.restless_s is not None:
        facts = {name: value for name, value in facts.items() if name not in {"holes", "xattrs"}}
    if like is not None:
        facts |= {"holes": like.holes, "attributes": like.attributes, "content": like.content}
        facts |= {"xattrs": ()} if like.attributes else {}
    elif facts.get("holes"):
        facts["content"] = identity_parts(row.identity)[0] - sum(length for _, length in facts["holes"])
    kind = Kind(facts.pop("kind", Kind.FILE))
    size, mtime_ns = identity_parts(row.identity)
    return Form(
        path=row.path,
        kind=kind,
        sealed_us=sealed_us if like is None else like.sealed_us,
        size=size if kind is Kind.FILE else 0,
        padding=padding if like is None else like.padding,
        mode=None if kind is Kind.SYMLINK else row.mode,
        mtime_ns=_time(mtime_ns),
        sha256=row.sha256 if kind is Kind.FILE else None,
        **facts,
    )


def listed_form(row: FileRow, born: Form) -> Form:
    """Return the form for a list: what the entry is now, with the content of its version's birth."""
    form = form_of(row, like=born)
    try:
        form.encode()
    except RefusedError:
        # The birth is older than the facts in this row. The next scan makes a new version.
        return replace(form, xattrs=born.xattrs)
    return form


def moving_form(born: Form, now: Seen) -> Form:
    """Return the form of a file that never rests, as it is while it is sent: whole, with nothing before it."""
    return Form(
        path=born.path,
        kind=Kind.FILE,
        sealed_us=born.sealed_us,
        size=now.size,
        padding=born.padding,
        mode=now.mode,
        mtime_ns=_time(now.mtime_ns),
        uid=born.uid,
        gid=born.gid,
        user=born.user,
        group=born.group,
    )


def _time(mtime_ns: int) -> int | None:
    """Return a time that a form can hold (from 1677 to 2262), or None."""
    return mtime_ns if abs(mtime_ns) <= _MOST_MTIME_NS else None


def large_of(facts: bytes | None) -> bytes:
    """Return the attributes that might not fit into a form, and so might be part of the content. Empty if all fit."""
    if facts is None or len(facts) <= _SURELY_FITS:
        return b""
    found = _unpacked(facts)
    return cast("bytes", msgpack.packb([found.get("holes"), found.get("xattrs")], use_bin_type=True))


def content_of(facts: bytes) -> bytes:
    """Return 32 bytes that stand for the content of a folder or a symlink, as a SHA-256 stands for a file's."""
    target = _unpacked(facts).get("target", b"")
    return hashlib.sha256(b"%d:%s%s" % (len(target), target, large_of(facts))).digest()


def _unpacked(facts: bytes | None) -> dict[str, Any]:
    if not facts:
        return {}
    return cast("dict[str, Any]", msgpack.unpackb(facts, raw=False, use_list=False))
