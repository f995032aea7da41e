"""Count elements and copies by their state. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger.events import Element


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a replica holds. Every element is in one of the five states, so their numbers add up to `elements`.

    `copies` counts the elements with a copy that is not known to be damaged or lost. The copy can be of the newest
    revision or of an older one. `bytes` is the stored size of those copies.
    """

    elements: int = 0
    current: int = 0
    pending: int = 0
    vanished: int = 0
    damaged: int = 0
    lost: int = 0
    copies: int = 0
    bytes: int = 0

    def add(self, element: Element, times: int = 1) -> None:
        """Add an element. With `times` -1, subtract it."""
        copy = element.copy
        self.take(element.state, None if copy is None or element.damage is not None else copy.size, times)

    def take(self, state: str, sound: int | None, times: int = 1) -> None:
        """Add an element. With `times` -1, subtract it. `sound` is its sound copy's size in bytes, None without one."""
        self.elements += times
        match state:
            case "current":
                self.current += times
            case "pending":
                self.pending += times
            case "vanished":
                self.vanished += times
            case "damaged":
                self.damaged += times
            case _:
                self.lost += times
        if sound is not None:
            self.copies += times
            self.bytes += times * sound

    def merge(self, other: Counts, times: int = 1) -> None:
        """Add the counts of `other`. With `times` -1, subtract them."""
        for name, number in asdict(other).items():
            setattr(self, name, getattr(self, name) + times * number)

    def plain(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)
