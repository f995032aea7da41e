"""A window into one replica, from which the page gets its data, and strict checks of what comes through it.

A window answers the questions of the keeper's API, from the ledger on this machine or from a keeper's address. Its
answers are claims: they are read strictly, and their text is never treated as code.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from kropot.afar.replica import BadAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST: int = 1 << 62


class Window(Protocol):
    """Answers the operations in `kropot/keeper/operations.py`."""

    def get(self, *path: str, **query: object) -> dict[str, Any]:
        """Return the API's answer. Parameters that are None are left out. Raises: KropotError."""
        ...


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn errors from an answer of the wrong shape into BadAnswerError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError):
        raise BadAnswerError(what) from None


def whole(value: Any) -> int:
    """Return a whole number from 0. Raises: TypeError, ValueError."""
    if type(value) is not int:
        raise TypeError(value)
    if not 0 <= value < _MOST:
        raise ValueError(value)
    return value


def whole_or_none(value: Any) -> int | None:
    """Return a whole number from 0, or None. Raises: TypeError, ValueError."""
    return None if value is None else whole(value)


def share(value: Any) -> float:
    """Return a number from 0 to 1. Raises: TypeError, ValueError."""
    if type(value) not in {int, float}:
        raise TypeError(value)
    if not 0 <= value <= 1:
        raise ValueError(value)
    return float(value)


def line(value: Any, most: int = 500) -> str:
    """Return foreign text on one line, with question marks for characters that do not print. Raises: TypeError."""
    if not isinstance(value, str):
        raise TypeError(value)
    return "".join(each if each.isprintable() else "?" for each in value[:most])


def line_or_none(value: Any, most: int = 500) -> str | None:
    """Return foreign text as `line` does, or None. Raises: TypeError."""
    return None if value is None else line(value, most)


def rows(value: Any, most: int = 10_000) -> list[dict[str, Any]]:
    """Return the first `most` objects of a list. Raises: TypeError."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value[:most]):
        raise TypeError(value)
    return value[:most]
