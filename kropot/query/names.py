"""Finds the sources and elements that a command line names, and shows sources by their names.

SOURCE is a source's label or the beginning of its id. ELEMENT is `[SOURCE:]ID`, or the beginning of an id. What is
shown is accepted.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final

from kropot.errors import UsageError
from kropot.query.past import labels_of
from kropot.wording import as_unicode, as_written, one_line
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from ledger.log import Ledger

    Labels = Mapping[bytes, str | None]
    """The known sources (ids of 16 bytes), each with its label or None (`labels_of`)."""

FILE_KIND: Final = "file"
"""The only type of element that the protocol lists."""

_ID_BYTES: Final = 16
_SHOWN: Final = 8
"""How many digits of an id to show if the whole id is too long."""
_LONGEST_LABEL: Final = 64
_SHORTEST: Final = 4
"""How many characters of an element's id are enough to name it, if no other id begins with them."""
MOST_LISTED: Final = 10
_LIKE_AN_ID: Final = re.compile(rf"[0-9a-fA-F]{{{_SHOWN},}}")


def short_name(labels: Labels, source: bytes) -> str:
    """Return a source's label, or the beginning of its id if it has none."""
    return labels.get(source) or source.hex()[:_SHOWN]


def long_name(labels: Labels, source: bytes) -> str:
    """Return a source's whole id, with its label if it has one."""
    label = labels.get(source)
    return source.hex() if label is None else f"{label} ({source.hex()})"


def check_label(labels: Labels, source: bytes, label: str) -> None:
    """Raise UsageError if the source cannot have this label: it must be short, plain and unique."""
    if not label.isprintable() or label != label.strip() or not 0 < len(label) <= _LONGEST_LABEL or ":" in label:
        raise UsageError(
            f"{label[:_LONGEST_LABEL]!a} cannot be a label: use 1 to {_LONGEST_LABEL} printable characters, without a "
            "colon and without space around them"
        )
    if _LIKE_AN_ID.fullmatch(label):
        raise UsageError(f"the label {label!r} looks like the id of a source: add another character, e.g. a dash")
    taken = [other for other, known in labels.items() if other != source and known is not None and _same(known, label)]
    if taken:
        raise UsageError(f"source {taken[0].hex()} already has the label {label!r}: choose another one")


def find_source(labels: Labels, text: str) -> bytes:
    """Return the only known source (16 bytes) with this label or, if there is none, whose id begins with `text`.

    Raises: UsageError if there is no such source, or several.
    """
    found = _sources_named(labels, text)
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(long_name(labels, source) for source in found[:MOST_LISTED])
        raise UsageError(
            f"the ids of {len(found)} sources begin with {text!r}: give more characters of the id, or a label: {shown}"
        )
    raise UsageError(
        f"no source has the label {text!r}, or an id that begins with it: run `kropotcli source list` to see all "
        f"{len(labels)}"
    )


def split_source(labels: Labels, text: str) -> list[tuple[list[bytes], str]]:
    """Return each meaning of `[SOURCE:]REST`, as the sources and the rest. The rest can contain a colon."""
    meanings = [(list(labels), text)]
    prefix, colon, rest = text.partition(":")
    if colon and rest and (named := _sources_named(labels, prefix)):
        meanings.append((named, rest))
    return meanings


def readings(labels: Labels, text: str) -> list[StreamKey]:
    """Return every element that ELEMENT can mean, given the known sources.

    An id can contain a colon, so a text with a colon has two meanings. So has one with a backslash: as is, and with
    its escapes undone, because `ls` prints escapes. An id is always text, so bytes that are not UTF-8 mean no id.
    """
    texts = [
        each for each in dict.fromkeys((text, as_written(text).decode(errors="replace"))) if each == as_unicode(each)
    ]
    keys: dict[StreamKey, None] = {}
    for each in texts:
        keys |= dict.fromkeys(StreamKey(source=source, kind=FILE_KIND, id=each) for source in labels)
        prefix, colon, rest = each.partition(":")
        if colon and rest:
            named = _sources_named(labels, prefix)
            keys |= dict.fromkeys(StreamKey(source=source, kind=FILE_KIND, id=rest) for source in named)
    return list(keys)


def find_element(ledger: Ledger, text: str, *, erased: Container[StreamKey] = ()) -> StreamKey:
    """Return the only element of the ledger that ELEMENT names, by its id or, if none has it, by the id's beginning.

    A beginning has four characters or more. Elements in `erased` count as elements of the ledger, by their ids only.

    Raises: UsageError if ELEMENT names no element, or several.
    """
    found = find_id(ledger, text, erased=erased) or find_beginning(ledger, text)
    if found is None:
        more = f"give {_SHORTEST} characters or more of its id, or " if len(text) < _SHORTEST else ""
        raise none_found(text, f"{more}run `kropotcli ls` to list all elements")
    return found


def find_id(ledger: Ledger, text: str, *, erased: Container[StreamKey] = ()) -> StreamKey | None:
    """Return the only element that has this id; None if none has. Raises: UsageError if several have."""
    labels = labels_of(ledger)
    keys = readings(labels, text)
    found = [key for key in keys if key in erased or next(ledger.history(key), None) is not None]
    if len(found) > 1:
        sources = ", ".join(short_name(labels, key.source) for key in found)
        raise UsageError(f"the element {text!r} is ambiguous, because sources {sources} have it: write SOURCE:ID")
    return found[0] if found else None


def find_beginning(ledger: Ledger, text: str) -> StreamKey | None:
    """Return the only element whose id begins with `text`; None if none does. Raises: UsageError if several do."""
    labels = labels_of(ledger)
    found = list(islice(_beginning_so(ledger, readings(labels, text)), MOST_LISTED + 1))
    if len(found) > 1:
        shown = [f"{short_name(labels, key.source)}:{one_line(key.id)}" for key in found]
        raise UsageError(f"the element {text!r} is ambiguous, because several ids begin with it: {listed(shown)}")
    return found[0] if found else None


def listed(shown: Sequence[str]) -> str:
    """Return the first of these on one line."""
    return ", ".join(shown[:MOST_LISTED]) + (" and more" if len(shown) > MOST_LISTED else "")


def is_like_an_id(text: str) -> bool:
    """Whether `[SOURCE:]REST` ends in so many hexadecimal digits that it is meant as an id, not as a name."""
    return _LIKE_AN_ID.fullmatch(text.rpartition(":")[2]) is not None


def none_found(text: str, advice: str) -> UsageError:
    """Return the error for an element that the ledger does not have."""
    return UsageError(f"the ledger has no element {text!r}: {advice}")


def _beginning_so(ledger: Ledger, keys: Iterable[StreamKey]) -> Iterator[StreamKey]:
    """Yield the elements whose ids begin with the id of one of these keys, in the order of the ids."""
    seen = set()
    for wanted in keys:
        if len(wanted.id) < _SHORTEST:
            continue
        for stored, _ in ledger.log.streams_by_key(after=wanted.stored):
            if not stored.startswith(wanted.stored):
                break
            if stored not in seen:
                seen.add(stored)
                yield StreamKey.parse(stored)


def _sources_named(labels: Labels, text: str) -> list[bytes]:
    """Return the source with this label, else those whose hexadecimal id begins with `text`. "" names no source."""
    labelled = [source for source, label in labels.items() if label is not None and _same(label, text)]
    wanted = text.lower()
    if labelled or not wanted or len(wanted) > 2 * _ID_BYTES:
        return labelled
    return [source for source in labels if source.hex().startswith(wanted)]


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()
