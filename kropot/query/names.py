"""Finds the sources and elements that a command line names: SOURCE is a prefix of an id, ELEMENT is `[SOURCE:]ID`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kropot.errors import UsageError
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from ledger.log import Ledger

FILE_KIND: Final = "file"
"""The only type of element that the protocol lists."""

_ID_BYTES: Final = 16


def find_source(known: Iterable[bytes], text: str) -> bytes:
    """Return the only known source (16 bytes) whose hexadecimal id begins with `text`.

    Raises: UsageError if there is no such source, or several.
    """
    ids = list(known)
    found = _sources_named(ids, text)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"the ids of {len(found)} sources begin with {text!r}: give more characters of the id")
    raise UsageError(
        f"no source has an id that begins with {text!r}: run `kropotcli source list` to see all {len(ids)}"
    )


def readings(known: Iterable[bytes], text: str) -> list[StreamKey]:
    """Return every element that ELEMENT can mean, given the known sources (16 bytes each).

    An id can contain a colon, so a text with a colon has two meanings.
    """
    ids = list(known)
    keys = [StreamKey(source=source, kind=FILE_KIND, id=text) for source in ids]
    prefix, colon, rest = text.partition(":")
    if colon and rest:
        keys += [StreamKey(source=source, kind=FILE_KIND, id=rest) for source in _sources_named(ids, prefix)]
    return keys


def find_element(ledger: Ledger, text: str, *, erased: Container[StreamKey] = ()) -> StreamKey:
    """Return the only element of the ledger that ELEMENT names. Those in `erased` count as elements of the ledger.

    Raises: UsageError if ELEMENT names no element, or several.
    """
    keys = readings(ledger.sources(), text)
    found = [key for key in keys if key in erased or next(ledger.history(key), None) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        sources = ", ".join(key.source.hex()[:8] for key in found)
        raise UsageError(f"the element {text!r} is ambiguous, because sources {sources} have it: write SOURCE:ID")
    raise UsageError(f"the ledger has no element {text!r}: run `kropotcli ls` to list all elements")


def _sources_named(ids: list[bytes], text: str) -> list[bytes]:
    """Return the sources whose hexadecimal id begins with `text`. An empty text names no source."""
    wanted = text.lower()
    if not wanted or len(wanted) > 2 * _ID_BYTES:
        return []
    return [source for source in ids if source.hex().startswith(wanted)]
