"""Recognises sound rows of the projection by the bytes of the payload that each points to.

The row is compared with the event without making a fact of it, and the bytes that the state digest takes are put
together from those of the payload, since both are canonical msgpack (docs/format.md, "State digest").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.audit.event import COMMON
from ledger.codec import is_known
from ledger.digest import head_of, tail_of
from ledger.events import RemoteObserved
from ledger.pattern import is_whole, number, recogniser

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.audit.rows import Row

_FIELDS = (
    "element_copy",
    "element_copy_iv",
    "element_copy_revision",
    "element_copy_sha256",
    "element_copy_size",
    "element_damage",
    "element_date",
    "element_failure",
    "element_failure_next_try_us",
    "element_present",
    "element_revision",
    "element_size",
    "element_tz",
    "bytes",
    "long",
)
_ELEMENT = recogniser(RemoteObserved, *_FIELDS)
_GROUPS = tuple(_ELEMENT.groups[name] for name in _FIELDS)
_VERSION = RemoteObserved.VERSION
_NIL, _TRUE = b"\xc0", b"\xc3"
_SHA256_BYTES, _SOURCE_BYTES = 32, 16


class EntryRecogniser:
    """Recognises rows that say what the log says."""

    def __init__(self, numbers: Mapping[bytes, int]) -> None:
        """Learn which types this version knows; `numbers` are the sources' numbers by their ids."""
        self._numbers = numbers
        self._common = frozenset(name for name in COMMON if is_known(name, _VERSION))

    def digest_row(self, found: Row) -> bytes | None:
        """Return the element's row in the state digest if its row in the projection is recognised, else None.

        `found` is one of `ProjectionStore.page`. The caller has checked which event it points to.
        """
        key, stream, source, _, _, state, due_us, date, claimed, size, sha256, of, name, schema, at_us, payload = found
        if of != stream or schema != _VERSION or name not in self._common or type(payload) is not bytes:
            return None
        match = _ELEMENT.match(payload)
        if match is None:
            return None
        copy, iv, copied, digest, stored, damage, when, failure, next_us, present, revision, claim, tz, form, long = (
            match.group(*_GROUPS)
        )
        if damage != _NIL or not is_whole(match) or (copy == _NIL) != (sha256 is None):
            return None
        expected, due = "vanished", None
        if present == _TRUE:
            expected = "current" if copied == revision else "pending"
            if expected == "pending":
                due = at_us if failure == _NIL else number(next_us)
        if sha256 is None:
            digest, stored, iv, right = _NIL, _NIL, _NIL, size is None
        else:
            right = digest[-_SHA256_BYTES:] == sha256 and number(stored) == size
        if (
            not right
            or state != expected
            or due_us != due
            or date != number(when)
            or claimed != (None if claim == _NIL else number(claim))
            or source != self._numbers.get(key[:_SOURCE_BYTES])
        ):
            return None
        return head_of(key) + tail_of(when, tz, long if form is None else form, state, digest, stored, iv)
