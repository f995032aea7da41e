"""How a command line names sources and elements: SOURCE is a prefix of its id, ELEMENT is `[SOURCE:]ID`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kropot.errors import UsageError
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.log import Ledger

FILE_KIND: Final = "file"
"""The one type of element that the protocol lists."""

_ID_BYTES: Final = 16


def find_source(known: Iterable[bytes], text: str) -> bytes:
    """Return the one known source (16 bytes) whose hexadecimal id begins with `text`.

    Raises: UsageError if none or several do.
    """
    ids = list(known)
    found = _sources_named(ids, text)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{text!r} begins the ids of {len(found)} sources: give more of it")
    raise UsageError(f"no source's id begins with {text!r}; `kropotcli source list` shows the {len(ids)} there are")


def readings(known: Iterable[bytes], text: str) -> list[StreamKey]:
    """Return every element that ELEMENT could mean, given the known sources (16 bytes each).

    An id may hold a colon itself, hence a text with a colon is read both ways.
    """
    ids = list(known)
    keys = [StreamKey(source=source, kind=FILE_KIND, id=text) for source in ids]
    prefix, colon, rest = text.partition(":")
    if colon and rest:
        keys += [StreamKey(source=source, kind=FILE_KIND, id=rest) for source in _sources_named(ids, prefix)]
    return keys


def find_element(ledger: Ledger, text: str) -> StreamKey:
    """Return the one element of the ledger that ELEMENT names.

    Raises: UsageError if none or several are so named.
    """
    keys = readings(ledger.sources(), text)
    found = [key for key in keys if next(ledger.history(key), None) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        sources = ", ".join(key.source.hex()[:8] for key in found)
        raise UsageError(f"{text!r} is ambiguous: sources {sources} have it; write SOURCE:ID")
    raise UsageError(f"no element {text!r} was ever observed; `kropotcli ls` lists those that were")


def _sources_named(ids: list[bytes], text: str) -> list[bytes]:
    """Return the sources whose hexadecimal id begins with `text`; an empty text names none."""
    wanted = text.lower()
    if not wanted or len(wanted) > 2 * _ID_BYTES:
        return []
    return [source for source in ids if source.hex().startswith(wanted)]
