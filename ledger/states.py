"""Which state an element is in, and when it is due: the only definitions of both. Pure."""

from __future__ import annotations

from typing import Literal

State = Literal["damaged", "lost", "vanished", "current", "pending"]
Damage = Literal["damaged", "lost"]


def state_of(damage: Damage | None, *, is_present: bool, is_current: bool) -> State:
    """Return an element's state: the first that applies of damaged or lost, vanished, current, pending.

    `is_current` says whether a copy of the newest revision is stored. This is the only definition of the state.
    """
    if damage is not None:
        return damage
    if not is_present:
        return "vanished"
    return "current" if is_current else "pending"


def due_of(recorded_us: int, next_try_us: int | None) -> int:
    """Return when a wanted element is due: at its next try, or since `recorded_us` if no fetch has failed yet.

    So a failing element does not wait behind all new elements, and does not delay them either.
    """
    return recorded_us if next_try_us is None else next_try_us
