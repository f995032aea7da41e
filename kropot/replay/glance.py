"""A quick look at an element's event: what counting and digesting need, without building the fact; pure.

A fold looks at millions of events, nearly all of them plain ones about an element. Whatever is not recognised by its
bytes (ledger/pattern.py) is missed here, and then read with all checks.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from ledger.digest import tail_of
from ledger.events import ElementFact, RemoteObserved
from ledger.pattern import number, recogniser

if TYPE_CHECKING:
    from ledger.rows import StoredEvent, StoredFact

_QUICK: Final = {
    (fact.TYPE, fact.VERSION) for fact in get_args(ElementFact) if [field.name for field in fields(fact)] == ["element"]
}
"""The facts that hold their element and nothing else: their payloads are of one shape."""

_FIELDS: Final = (
    "element_date",
    "element_tz",
    "length",
    "bytes",
    "element_copy_revision",
    "element_copy_sha256",
    "element_copy_size",
    "element_copy_iv",
    "element_damage",
    "element_present",
    "element_revision",
)
_RECOGNISED: Final = recogniser(RemoteObserved, *_FIELDS)
_GROUPS: Final = tuple(_RECOGNISED.groups[name] for name in _FIELDS)
_NIL, _FALSE = b"\xc0", b"\xc2"
_DAMAGES: Final = {b"\xa7damaged": "damaged", b"\xa4lost": "lost"}


class Glance(NamedTuple):
    """What is seen of an element: its state, its copy's size where that is sound, and what its row is made of.

    `sound` is None where there is no copy, or it is known to be damaged or lost. `made_of` are date, zone, form, and
    the copy's SHA-256, size and IV, as their bytes stand in the payload; the form without its head.
    """

    state: str
    sound: int | None
    made_of: tuple[bytes, bytes, bytes, bytes | None, bytes | None, bytes | None]

    @property
    def tail(self) -> bytes:
        """What the element's row in the state digest has behind its key."""
        date, tz, form, sha256, size, iv = self.made_of
        return tail_of(date, tz, form, self.state, sha256 or _NIL, size or _NIL, iv or _NIL)


MISSED: Final = Glance("", None, (b"", b"", b"", None, None, None))
"""Nothing can be said at a glance: the event must be read with all checks."""


def glance(event: StoredFact | StoredEvent) -> Glance | None:
    """Return what is seen after `event`, None where its payload was erased, `MISSED` where a glance is not enough."""
    payload = event.payload
    if payload is None:
        return None
    if (event.type, event.schema_version) not in _QUICK:
        return MISSED
    # Whoever tampers with the database may put anything into a column.
    match = _RECOGNISED.match(payload) if type(payload) is bytes else None
    if match is None:
        return MISSED
    date, tz, length, form, copied, sha256, size, iv, damage, present, revision = match.group(*_GROUPS)
    if int.from_bytes(length[1:], "big") != len(form):
        return MISSED
    if damage != _NIL:
        return Glance(_DAMAGES[damage], None, (date, tz, form, sha256, size, iv))
    state = "vanished" if present == _FALSE else "current" if copied == revision else "pending"
    return Glance(state, None if size is None else number(size), (date, tz, form, sha256, size, iv))
