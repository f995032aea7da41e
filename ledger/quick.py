"""Reads elements' events quickly, without creating facts, for folds and audits of millions of events.

It recognises the payloads of plain facts about an element (ledger/pattern.py), which nearly all events have. Other
payloads must be read by `ledger/codec.py`. For a recognised payload, both give the same result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.events import FACTS, ElementFact, RemoteObserved
from ledger.pattern import is_whole, number, recogniser
from ledger.states import due_of, state_of

if TYPE_CHECKING:
    from ledger.states import Damage

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
    "element_size",
    "element_failure_next_try_us",
)
_RECOGNISED: Final = recogniser(RemoteObserved, *_FIELDS)
_match: Final = _RECOGNISED.match
_GROUPS: Final = tuple(_RECOGNISED.groups[name] for name in _FIELDS)

NIL: Final = b"\xc0"
_TRUE: Final = b"\xc3"
_DAMAGES: Final[dict[bytes, Damage | None]] = {NIL: None, b"\xa7damaged": "damaged", b"\xa4lost": "lost"}


def plain_types() -> frozenset[tuple[str, int]]:
    """Return the (type, schema version) of all facts whose payload is an element and nothing else.

    Critical facts are excluded, because the audit must check their flags.
    """
    return frozenset(
        (name, cls.VERSION)
        for name, cls in FACTS.items()
        if issubclass(cls, ElementFact)
        and not cls.IS_CRITICAL
        and len(cls.__struct_fields__) == 1
        and cls.VERSION == RemoteObserved.VERSION
    )


QuickElement = tuple[str, int | None, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes | None]
"""What a payload says about its element: the state, the size of a sound copy, then fields in their payload bytes.

The size is None if there is no copy, or if it is damaged or lost. The fields are date, zone, form (without its head),
the copy's SHA-256, size and IV (nil if there is no copy), the size that the server claims, and when the next try is due
(None if no fetch failed). It is a plain tuple, because millions of them are created.
"""


def quick_element(payload: object) -> QuickElement | None:
    """Return what the payload of a plain fact about an element says, or None if it is not recognised.

    The caller MUST have checked that the event's type and schema version are those of a plain fact. `payload` can be
    any type, because an attacker can put anything into a database's columns.
    """
    match = _match(payload) if type(payload) is bytes else None
    if match is None or not is_whole(match):
        return None
    date, tz, short, long, copied, sha256, size, iv, damage, present, revision, claimed, next_try = match.group(
        *_GROUPS
    )
    state = state_of(_DAMAGES[damage], is_present=present == _TRUE, is_current=copied == revision)
    form = long if short is None else short
    if size is None:
        return state, None, date, tz, form, NIL, NIL, NIL, claimed, next_try
    return state, number(size) if damage == NIL else None, date, tz, form, sha256, size, iv, claimed, next_try


def quick_due_us(state: str, next_try: bytes | None, recorded_us: int) -> int | None:
    """Return when an undamaged element is due, or None if no copy is wanted, like `Element.due_us`."""
    return due_of(recorded_us, None if next_try is None else number(next_try)) if state == "pending" else None
