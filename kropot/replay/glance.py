"""A quick look at an element's event: what counting and digesting need, without building the whole fact; pure.

A fold looks at millions of events. Whatever is not plainly as expected is missed here, and then read with all checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, get_args

import msgpack

from ledger.events import Element, ElementFact, PayloadErased

if TYPE_CHECKING:
    from ledger.rows import StoredEvent

_QUICK: Final = {(fact.TYPE, fact.VERSION) for fact in get_args(ElementFact) if fact is not PayloadErased}


class Glance(NamedTuple):
    """What is seen of an element: its state and the fields of its row in the state digest.

    `sound` is the copy's size where the copy is not known to be damaged or lost, else None.
    """

    state: str
    date: int
    tz: str
    form: bytes
    sha256: bytes | None
    size: int | None
    iv: bytes | None
    sound: int | None

    @classmethod
    def of(cls, element: Element) -> Glance:
        """Return what is seen of an element that is there as a whole."""
        date, tz, form, copy = element.date, element.tz, element.form, element.copy
        if copy is None:
            return cls(element.state, date, tz, form, None, None, None, None)
        sound = copy.size if element.damage is None else None
        return cls(element.state, date, tz, form, copy.sha256, copy.size, copy.iv, sound)


MISSED: Final = Glance("", 0, "", b"", None, None, None, None)
"""Nothing can be said at a glance: the event must be read with all checks."""


def glance(event: StoredEvent) -> Glance | None:
    """Return what is seen after `event`, None where its payload was erased, `MISSED` where a glance is not enough."""
    if event.payload is None:
        return None
    if (event.type, event.schema_version) not in _QUICK:
        return MISSED
    try:
        held = msgpack.unpackb(event.payload, raw=False, use_list=False)["element"]
        copy, damage = held["copy"], held["damage"]
        date, tz, form = held["date"], held["tz"], held["form"]
        if copy is None:
            state = damage or ("pending" if held["present"] else "vanished")
            return Glance(state, date, tz, form, None, None, None, None)
        if damage is not None:
            state = damage
        elif not held["present"]:
            state = "vanished"
        else:
            state = "current" if copy["revision"] == held["revision"] else "pending"
        size = copy["size"]
        return Glance(state, date, tz, form, copy["sha256"], size, copy["iv"], None if damage else size)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return MISSED
