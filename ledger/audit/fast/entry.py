"""Recognises sound rows of the projection by the bytes of the payload that each row points to.

It compares the row with the event without creating a fact. It takes the bytes for the state digest from the payload,
because both are canonical msgpack (docs/format.md, "State digest").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.digest import head_of, tail_of
from ledger.pattern import number
from ledger.quick import NIL, plain_types, quick_due_us, quick_element

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.audit.rows import Row

_SHA256_BYTES, _SOURCE_BYTES = 32, 16


class EntryRecogniser:
    """Recognises rows that agree with the log."""

    def __init__(self, numbers: Mapping[bytes, int]) -> None:
        """Prepare for the types that this version knows. `numbers` are the sources' numbers by their ids."""
        self._numbers = numbers
        self._plain = plain_types()

    def digest_row(self, found: Row) -> bytes | None:
        """Return the element's row in the state digest if its row in the projection is recognised, else None.

        `found` is a row of `ProjectionStore.page`. The caller MUST have checked which event it points to.
        """
        key, stream, source, _, _, state, due_us, date, claimed, size, sha256, of, name, schema, at_us, payload = found
        if of != stream or (name, schema) not in self._plain:
            return None
        seen = quick_element(payload)
        if seen is None:
            return None
        expected, _, when, tz, form, digest, stored, iv, claim, next_try = seen
        if expected in {"damaged", "lost"} or (digest == NIL) != (sha256 is None):
            return None
        is_right = size is None if sha256 is None else digest[-_SHA256_BYTES:] == sha256 and number(stored) == size
        if (
            not is_right
            or state != expected
            or due_us != quick_due_us(expected, next_try, at_us)
            or date != number(when)
            or claimed != (None if claim == NIL else number(claim))
            or source != self._numbers.get(key[:_SOURCE_BYTES])
        ):
            return None
        return head_of(key) + tail_of(when, tz, form, state, digest, stored, iv)
