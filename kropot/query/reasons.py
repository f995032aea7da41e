"""What a failed fetch means and what to do about it, where the stable word of its reason does not say enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_WAYS_OUT: Final = {
    "not_sc2": "the server did not answer with a sealed object of sc2, as its list promises: look for a proxy between"
    " that takes the header Accept away or changes Content-Type, and for a server that is older than the list",
    "other_object": "the server sent another object than the one it listed, so it was not stored: if this happens again"
    " after the next listing, the server, or something between, swaps contents",
    "other_version": "the server sent another version than the one it listed, so it was not stored: a file that changed"
    " meanwhile comes with the next listing",
    "cut_object": "the server sent an object that ends within its header, so it was not stored",
}


def ways_out(reasons: Iterable[str]) -> list[str]:
    """Return a sentence for each of these reasons that has one."""
    return [f"{reason}: {_WAYS_OUT[reason]}" for reason in sorted(reasons) if reason in _WAYS_OUT]
