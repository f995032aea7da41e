"""Recognises payloads by their bytes: turns a fact's shape into a regular expression over its canonical msgpack.

Nearly every event of a ledger is about an element and holds common values. A match of its bytes then shows that they
are the canonical bytes of a valid fact. This takes a tenth of the time of decoding, checking and encoding again.
Only a match means something. A payload that is not recognised (long or non-ASCII strings, negative numbers) can also be
valid, and MUST be read by `ledger/codec.py`. The bytes are defined in docs/format.md, "Payloads".
"""

from __future__ import annotations

import re
import types
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgpack
from msgspec import Struct

from ledger.shape import bounds_of, hints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SHORT = 32
"""Shorter strings, in bytes, have their type and length in one byte."""
_MOST_TEXT = 72
"""The longest string that is recognised, in bytes. Every length adds an alternative to the pattern."""
_FIXED_MAP = 16

_LARGER = rb"\xcc[\x80-\xff]|\xcd[^\x00].|\xce(?:[^\x00].{3}|\x00[^\x00].{2})|\xcf(?!\x00{4})[\x00-\x%02x].{7}"
"""The shortest form of every number from 128 to the largest 64-bit number whose first byte is at most the given one."""
_FIRST_BYTE = 56
"""The first of a number's eight bytes begins at this bit."""


class Recogniser(Struct, frozen=True):
    """Recognises the payloads of one class of facts.

    `match` takes a payload and returns a match, or None, which says nothing about the payload. The match's groups are
    the requested fields, in their payload bytes. A match MUST also pass `is_whole`: a regular expression cannot check
    that the one byte string of variable length has the length that it claims.
    """

    match: Callable[[bytes], re.Match[bytes] | None]
    groups: Mapping[str, int]
    """The groups' numbers by name. Access by number is faster."""


def recogniser(cls: type[Struct], *groups: str, only: Mapping[str, Any] = MappingProxyType({})) -> Recogniser:
    """Return the recogniser of this class with the fields in `groups` captured, named by their path ("copy_sha256").

    A class may hold one byte string of variable length. It is captured as "bytes", or as "long" from 256 bytes on.
    `only` gives fields, named by their paths, narrower types than they have.

    Raises:
        TypeError: if a field's type cannot be recognised, or the class has too many fields.
    """
    source = _map(cls, "", frozenset(groups), only)
    pattern = re.compile(source, re.DOTALL)
    return Recogniser(pattern.fullmatch, pattern.groupindex)


def is_whole(match: re.Match[bytes]) -> bool:
    """Whether the byte string of variable length has the length that it claims."""
    start, stop = match.span("bytes")
    if start > 0:
        return bool(match.string[start - 1] == stop - start)
    start, stop = match.span("long")
    return int.from_bytes(match.string[start - 2 : start], "big") == stop - start


def number(stored: bytes) -> int:
    """Return a captured number, which is never negative."""
    return stored[0] if len(stored) == 1 else int.from_bytes(stored[1:], "big")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return re.escape(packed)


def _map(cls: type[Struct], path: str, groups: frozenset[str], only: Mapping[str, Any]) -> bytes:
    hints = hints_of(cls)
    names = list(hints)
    if len(names) >= _FIXED_MAP:
        raise TypeError(f"{cls.__name__} has too many fields: at most {_FIXED_MAP - 1} can be recognised")
    parts = [re.escape(bytes([0x80 | len(names)]))]
    for name in names:
        inner = f"{path}{name}"
        options = _options(only.get(inner, hints[name]))
        value = b"|".join(_value(option, f"{inner}_", groups, only) for option in options)
        parts += [_packed(name), b"(?P<%s>%s)" % (inner.encode(), value) if inner in groups else b"(?:%s)" % value]
    return b"".join(parts)


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type. None comes first, because it is common and needs only one byte."""
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
    if isinstance(hint, type) and issubclass(hint, Struct):
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
    """Return the pattern of an ASCII string of `length` bytes."""
    head = bytes([0xA0 | length]) if length < _SHORT else bytes([0xD9, length])
    return re.escape(head) + (rb"[\x00-\x7f]{%d}" % length if length else b"")


_PLAIN: dict[Any, bytes] = {
    type(None): rb"\xc0",
    bool: rb"[\xc2\xc3]",
    str: b"|".join(map(_text, range(_MOST_TEXT + 1))),
}
