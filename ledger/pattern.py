"""Payloads recognised by their bytes: a fact's shape as a regular expression over its canonical msgpack.

Nearly every event of a ledger is about an element and has common values in it. One look at its bytes then tells that
they are the canonical ones of a good fact, in a tenth of the time that decoding, checking and encoding again take.
It only ever says yes: what is not recognised (long or foreign strings, negative numbers) may be good or bad, and MUST
be read by `ledger/codec.py`. The bytes are decided in docs/format.md, "Payloads".
"""

from __future__ import annotations

import re
import types
from dataclasses import dataclass, is_dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgpack

from ledger.shape import bounds_of, hints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SHORT = 32
"""Strings of less bytes have their length in one byte with the type."""
_MOST_TEXT = 72
"""Longer strings are not recognised: every length is an alternative of its own."""
_FIXED_MAP = 16

_LARGER = rb"\xcc[\x80-\xff]|\xcd[^\x00].|\xce(?:[^\x00].{3}|\x00[^\x00].{2})|\xcf(?!\x00{4})[\x00-\x%02x].{7}"
"""The shortest form of every number from 128 to the greatest of 64 bits whose first byte is not above the one given."""
_FIRST_BYTE = 56
"""A number's first of eight bytes is what stands above this bit."""


@dataclass(frozen=True, slots=True)
class Recogniser:
    """Recognises the payloads of one class of facts.

    `match` takes a payload and returns a match, whose groups are those asked for, as they stand in the payload; or
    None, of which nothing follows. A match MUST also pass `is_whole`: the one byte string of any length is delimited
    by what follows it, and that it has the length it claims is not a regular expression's to say.
    """

    match: Callable[[bytes], re.Match[bytes] | None]
    groups: Mapping[str, int]
    """The numbers of the groups, which are found faster by them than by their names."""


def recogniser(cls: type, *groups: str, only: Mapping[str, Any] = MappingProxyType({})) -> Recogniser:
    """Return the recogniser of this class with the fields in `groups` captured, named by their path ("copy_sha256").

    The byte string of any length, of which a class may hold one, is captured as "bytes", from 256 bytes on as "long".
    `only` gives a field, named by its path, a narrower type than it has.

    Raises:
        TypeError: if a field's type cannot be recognised, or no field is as long as it likes.
    """
    source = _map(cls, "", frozenset(groups), only)
    pattern = re.compile(source, re.DOTALL)
    return Recogniser(pattern.fullmatch, pattern.groupindex)


def is_whole(match: re.Match[bytes]) -> bool:
    """Whether the byte string of any length is as long as its length says."""
    start, stop = match.span("bytes")
    if start > 0:
        return bool(match.string[start - 1] == stop - start)
    start, stop = match.span("long")
    return int.from_bytes(match.string[start - 2 : start], "big") == stop - start


def number(stored: bytes) -> int:
    """Return a captured number from 0 on."""
    return stored[0] if len(stored) == 1 else int.from_bytes(stored[1:], "big")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return re.escape(packed)


def _map(cls: type, path: str, groups: frozenset[str], only: Mapping[str, Any]) -> bytes:
    hints = hints_of(cls)
    names = list(hints)
    if len(names) >= _FIXED_MAP:
        raise TypeError(f"{cls.__name__} has more fields than are recognised")
    parts = [re.escape(bytes([0x80 | len(names)]))]
    for name in names:
        inner = f"{path}{name}"
        options = _options(only.get(inner, hints[name]))
        value = b"|".join(_value(option, f"{inner}_", groups, only) for option in options)
        parts += [_packed(name), b"(?P<%s>%s)" % (inner.encode(), value) if inner in groups else b"(?:%s)" % value]
    return b"".join(parts)


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type; None, which is common and told by one byte, is tried first."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(sorted(options, key=lambda option: option is not type(None)))


def _value(marked: Any, path: str, groups: frozenset[str], only: Mapping[str, Any]) -> bytes:
    hint, bounds = bounds_of(marked)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if hint is int:
        return rb"[\x%02x-\x7f]|%s" % (max(0, bounds.least), _larger(bounds.most))
    if hint is bytes:
        if bounds.length is None:
            return rb"\xc4.(?P<bytes>.*)|\xc5[^\x00].(?P<long>.*)"
        return rb"\xc4%s.{%d}" % (re.escape(bytes([bounds.length])), bounds.length)
    if get_origin(hint) is Literal:
        return b"|".join(map(_packed, get_args(hint)))
    if is_dataclass(hint) and isinstance(hint, type):
        return _map(hint, path, groups, only)
    raise TypeError(f"a {hint} is not recognised")


def _larger(most: int) -> bytes:
    """Return the pattern of the numbers from 128 on that are surely not above `most`.

    Raises: TypeError if `most` has less than eight bytes, which no field needs.
    """
    first = (most + 1) >> _FIRST_BYTE
    if first == 0:
        raise TypeError(f"a number up to {most} is not recognised")
    return _LARGER % (first - 1)


def _text(length: int) -> bytes:
    """Return the pattern of an ASCII string of so many bytes."""
    head = bytes([0xA0 | length]) if length < _SHORT else bytes([0xD9, length])
    return re.escape(head) + (rb"[\x00-\x7f]{%d}" % length if length else b"")


_PLAIN: dict[Any, bytes] = {
    type(None): rb"\xc0",
    bool: rb"[\xc2\xc3]",
    str: b"|".join(map(_text, range(_MOST_TEXT + 1))),
}
