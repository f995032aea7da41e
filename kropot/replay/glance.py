"""A quick look at an element's event: what counting and digesting need, without building the fact; pure.

A fold looks at millions of events, nearly all of them plain ones about an element. Whatever is not recognised by its
bytes (ledger/pattern.py) is missed here, and then read with all checks.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final, get_args

from ledger.events import ElementFact, RemoteObserved
from ledger.pattern import is_whole, number, recogniser

_QUICK: Final = {
    (fact.TYPE, fact.VERSION) for fact in get_args(ElementFact) if [field.name for field in fields(fact)] == ["element"]
}
"""The facts that hold their element and nothing else: their payloads are of one shape."""

_FIELDS: Final = (
    "element_date",
    "element_tz",
    "bytes",
    "long",
    "element_copy_revision",
    "element_copy_sha256",
    "element_copy_size",
    "element_copy_iv",
    "element_damage",
    "element_present",
    "element_revision",
)
_RECOGNISED: Final = recogniser(RemoteObserved, *_FIELDS)
_match: Final = _RECOGNISED.match
_GROUPS: Final = tuple(_RECOGNISED.groups[name] for name in _FIELDS)
_NIL, _FALSE = b"\xc0", b"\xc2"
_DAMAGES: Final = {b"\xa7damaged": "damaged", b"\xa4lost": "lost"}


Glance = tuple[str, int | None, bytes, bytes, bytes, bytes, bytes, bytes]
"""What is seen of an element: its state, its copy's size where that is sound, and what its row is made of.

The size is None where there is no copy, or it is known to be damaged or lost. The row is made of date, zone, form, and
the copy's SHA-256, size and IV, as their bytes stand in the payload; of the form without its head. A plain tuple, for
millions of them.
"""

MISSED: Final[Glance] = ("", None, b"", b"", b"", b"", b"", b"")
"""Nothing can be said at a glance: the event must be read with all checks."""


def glance(kind: str, version: int, payload: bytes | None) -> Glance | None:
    """Return what is seen after an event of this type, schema version and payload.

    None where the payload was erased, `MISSED` where a glance is not enough.
    """
    if payload is None:
        return None
    # Whoever tampers with the database may put anything into a column.
    match = _match(payload) if type(payload) is bytes and (kind, version) in _QUICK else None
    if match is None or not is_whole(match):
        return MISSED
    date, tz, short, long, copied, sha256, size, iv, damage, present, revision = match.group(*_GROUPS)
    form = long if short is None else short
    if damage != _NIL:
        return _DAMAGES[damage], None, date, tz, form, sha256 or _NIL, size or _NIL, iv or _NIL
    state = "vanished" if present == _FALSE else "current" if copied == revision else "pending"
    if size is None:
        return state, None, date, tz, form, _NIL, _NIL, _NIL
    return state, number(size), date, tz, form, sha256, size, iv
