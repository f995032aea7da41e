"""Recognises sound rows of the projection by the bytes of the payload that each points to.

The row is compared with the event without making a fact of it, and the bytes that the state digest takes are put
together from those of the payload, since both are canonical msgpack (docs/format.md, "State digest").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.digest import head_of, tail_of
from ledger.pattern import number
from ledger.quick import NIL, plain_types, quick_element

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.audit.rows import Row

_SHA256_BYTES, _SOURCE_BYTES = 32, 16


class EntryRecogniser:
    """Recognises rows that say what the log says."""

    def __init__(self, numbers: Mapping[bytes, int]) -> None:
        """Learn which types this version knows; `numbers` are the sources' numbers by their ids."""
        self._numbers = numbers
        self._plain = plain_types()

    def digest_row(self, found: Row) -> bytes | None:
        """Return the element's row in the state digest if its row in the projection is recognised, else None.

        `found` is one of `ProjectionStore.page`. The caller has checked which event it points to.
        """
        key, stream, source, _, _, state, due_us, date, claimed, size, sha256, of, name, schema, at_us, payload = found
        if of != stream or (name, schema) not in self._plain:
            return None
        seen = quick_element(payload)
        if seen is None or seen.state in {"damaged", "lost"} or (seen.sha256 == NIL) != (sha256 is None):
            return None
        if sha256 is None:
            is_right = size is None
        else:
            is_right = seen.sha256[-_SHA256_BYTES:] == sha256 and number(seen.size) == size
        if (
            not is_right
            or state != seen.state
            or due_us != seen.due_us(at_us)
            or date != number(seen.date)
            or claimed != (None if seen.claimed == NIL else number(seen.claimed))
            or source != self._numbers.get(key[:_SOURCE_BYTES])
        ):
            return None
        return head_of(key) + tail_of(seen.date, seen.tz, seen.form, state, seen.sha256, seen.size, seen.iv)
