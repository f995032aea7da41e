"""The form in an object: what an element is, in canonical msgpack, read strictly (docs/format.md, "Sealed objects")."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

import msgpack

from kropot.msgpacked import pack
from kropot.sc2.layout import FORM_SIZES, LENGTH_BYTES, MAX_CONTENT, padded_content_size, padded_form_size
from kropot.sc2.refused import Reason, RefusedError

MAX_PATH: Final = 4095
"""The longest path and the longest target of a symlink, in bytes, as on Linux."""

MAX_FACTS: Final = 4096
"""How many bytes a form can have besides its path and target. Larger attributes go into the content (`fitted`)."""

MAX_ATTRIBUTES: Final = 16 << 20
"""The longest attributes before a content, in bytes."""

_DIGEST: Final = 32
_LINK_GROUP: Final = 16
_MAX_NAME: Final = 255
_MAX_VALUE: Final = 65_536
_MAX_SIZE: Final = 2**63 - 1
_MAX_NUMBER: Final = 2**32 - 1
_MAX_TIME_US: Final = 2**62
_MAX_MODE: Final = 0o7777
_OUTSIDE: Final = frozenset({b"", b".", b".."})


class Kind(StrEnum):
    """What an element is."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What an element is at one version's birth, or, in a list, what it is now.

    `path` is relative to the served folder, in bytes; only that folder itself has the empty path. `sealed_us` is the
    time of sealing in microseconds since 1970; `mtime_ns` is in nanoseconds. `size` is the file's. `content` is the
    length of the plain content in the object: `attributes` bytes, then the file's bytes without its holes; None means
    `size`. With `padding`, zeros follow. `sha256` is the file's, if the gateway knows it. Hard links to one file share
    `link_group` (16 bytes). `holes` are (start, length) in the file; `xattrs` are (name, value), including POSIX ACLs
    (`system.posix_acl_access`). Raises RefusedError for values that no form can have.
    """

    path: bytes
    kind: Kind
    sealed_us: int
    size: int = 0
    content: int | None = None
    padding: bool = False
    mode: int | None = None
    mtime_ns: int | None = None
    sha256: bytes | None = None
    target: bytes | None = None
    link_group: bytes | None = None
    uid: int | None = None
    gid: int | None = None
    user: bytes | None = None
    group: bytes | None = None
    attributes: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    holes: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Refuse values that no form can have, no matter where they come from."""
        _check(self)

    @property
    def plain_length(self) -> int:
        """The length of the plain content in the object, without padding."""
        return self.size if self.content is None else self.content

    @property
    def padded_length(self) -> int:
        """The length of the content that is sealed, including any padding."""
        return padded_content_size(self.plain_length) if self.padding else self.plain_length

    def encode(self) -> bytes:
        """Return the form as canonical msgpack: a map with sorted keys, without fields that have their default value.

        Raises:
            RefusedError: the form is too long. `fitted` moves large attributes into the content.
        """
        encoded = _encoded(self)
        if len(encoded) > _longest(self):
            raise RefusedError(Reason.FORM, f"a form of {len(encoded)} bytes is too long: its attributes do not fit")
        return encoded


def parse_form(data: bytes) -> Form:
    """Return the form that `Form.encode` wrote.

    Raises:
        RefusedError: it is not canonical, has unknown fields, or has values that no form can have.
    """
    found = _unpacked(data, "form")
    if not found.keys() <= _NAMES:
        unknown = ", ".join(sorted(found.keys() - _NAMES))[:100]
        raise RefusedError(Reason.FORM, f"the form has unknown fields ({unknown!a}): a newer kropotcli made it")
    if not {"path", "kind", "sealed_us"} <= found.keys():
        raise RefusedError(Reason.FORM, "the form has no path, kind or time")
    if type(found["kind"]) is not str or found["kind"] not in _KINDS:
        raise RefusedError(Reason.FORM, "the form names a kind of element that this version does not know")
    form = Form(**{**found, "kind": Kind(found["kind"])})
    if form.encode() != data:
        raise RefusedError(Reason.FORM, "the form's bytes are not in their canonical form")
    return form


def vouched_form(data: bytes) -> Form:
    """Return the form that `Form.encode` wrote, unchecked. A keyed hash or similar MUST vouch for every byte."""
    found = msgpack.unpackb(data, raw=False, use_list=False)
    found["kind"] = _KINDS[found["kind"]]
    form = object.__new__(Form)
    # The order is always that of the defaults.
    for put, value in zip(_PUTS, (_DEFAULTS | found).values(), strict=True):
        put(form, value)
    return form


def pad_form(encoded: bytes) -> bytes:
    """Return the padded form that is sealed: two bytes for the length, the form, zeros."""
    framed = len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded
    return framed.ljust(padded_form_size(len(encoded)), b"\0")


def unpad_form(padded: bytes) -> bytes:
    """Return the encoded form. Raises: RefusedError if it is not padded as `pad_form` pads it."""
    length = int.from_bytes(padded[:LENGTH_BYTES], "big")
    encoded = padded[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(padded) not in FORM_SIZES or length + LENGTH_BYTES > len(padded) or pad_form(encoded) != padded:
        raise RefusedError(Reason.FORM, "the form's padding is wrong")
    return encoded


def fitted(form: Form) -> tuple[Form, bytes]:
    """Return a form that fits, and the attributes that MUST come before the content: empty if the form fits as is.

    Raises:
        RefusedError: the attributes are larger than 16 MiB.
    """
    if len(_encoded(form)) <= _longest(form):
        return form, b""
    moved = {"holes": form.holes, "xattrs": form.xattrs}
    blob = pack(moved)
    if len(blob) > MAX_ATTRIBUTES:
        raise RefusedError(Reason.FORM, f"the attributes have {len(blob)} bytes: more than {MAX_ATTRIBUTES} do not fit")
    length = len(blob) + form.plain_length
    return replace(form, holes=(), xattrs=(), attributes=len(blob), content=length), blob


def merged(form: Form, blob: bytes) -> Form:
    """Return the form with the attributes that came before its content. This undoes `fitted`.

    Raises:
        RefusedError: the blob does not hold valid attributes of this form.
    """
    found = _unpacked(blob, "attributes")
    if found.keys() != {"holes", "xattrs"} or len(blob) != form.attributes or form.holes or form.xattrs:
        raise RefusedError(Reason.FORM, "the attributes before the content are not valid")
    if pack(found) != blob:
        raise RefusedError(Reason.FORM, "the attributes before the content are not in their canonical form")
    length = form.plain_length - form.attributes
    return replace(form, **found, attributes=0, content=None if length == form.size else length)


# --- what a form can say ---------------------------------------------------------------------------------------------


_NUMBERS: Final = (
    ("sealed_us", 0, _MAX_TIME_US, False),
    ("size", 0, _MAX_SIZE, False),
    ("attributes", 0, MAX_ATTRIBUTES, False),
    ("content", 0, MAX_CONTENT, True),
    ("mode", 0, _MAX_MODE, True),
    ("mtime_ns", -_MAX_SIZE, _MAX_SIZE, True),
    ("uid", 0, _MAX_NUMBER, True),
    ("gid", 0, _MAX_NUMBER, True),
)
"""(name, least, most, whether it can be missing)"""

_TEXTS: Final = (
    ("sha256", _DIGEST, _DIGEST),
    ("link_group", _LINK_GROUP, _LINK_GROUP),
    ("target", 1, MAX_PATH),
    ("user", 1, _MAX_NAME),
    ("group", 1, _MAX_NAME),
)
"""(name, shortest, longest); all can be missing."""

_numbers_of: Final = attrgetter(*(name for name, *_ in _NUMBERS))
_texts_of: Final = attrgetter(*(name for name, *_ in _TEXTS))


def _check(form: Form) -> None:
    _check_path(form)
    for (name, least, most, optional), value in zip(_NUMBERS, _numbers_of(form), strict=False):
        if value is None:
            if not optional:
                raise _wrong(name)
        elif type(value) is not int or not least <= value <= most:
            raise _wrong(name)
    for (name, shortest, longest), text in zip(_TEXTS, _texts_of(form), strict=False):
        if text is not None and not (type(text) is bytes and shortest <= len(text) <= longest):
            raise _wrong(name)
    if type(form.padding) is not bool:
        raise _wrong("padding")
    if (form.target is not None) is not (form.kind is Kind.SYMLINK) or b"\0" in (form.target or b""):
        raise _wrong("target")
    if form.kind is not Kind.FILE and (form.size or form.holes):
        raise _wrong("size")
    _check_xattrs(form.xattrs)
    _check_lengths(form)


def _check_path(form: Form) -> None:
    """Refuse a path that could leave its folder, no matter who made it."""
    path = form.path
    if type(path) is not bytes or len(path) > MAX_PATH or b"\0" in path:
        raise _wrong("path")
    if not path:
        if form.kind is not Kind.FOLDER:
            raise _wrong("path")
    elif not _OUTSIDE.isdisjoint(path.split(b"/")):
        raise _wrong("path")


def _check_xattrs(xattrs: object) -> None:
    if type(xattrs) is not tuple:
        raise _wrong("xattrs")
    before = b""
    for each in xattrs:
        if type(each) is not tuple or len(each) != 2 or type(each[0]) is not bytes or type(each[1]) is not bytes:  # noqa: PLR2004 -- a name and a value
            raise _wrong("xattrs")
        name, value = each
        if not before < name or len(name) > _MAX_NAME or b"\0" in name or len(value) > _MAX_VALUE:
            raise _wrong("xattrs")
        before = name


def _check_lengths(form: Form) -> None:
    """Compare the content's length with what follows from size, holes and attributes."""
    end = hollow = 0
    if type(form.holes) is not tuple:
        raise _wrong("holes")
    for hole in form.holes:
        if type(hole) is not tuple or len(hole) != 2:  # noqa: PLR2004 -- a start and a length
            raise _wrong("holes")
        start, length = hole
        _whole("holes", start, end, _MAX_SIZE)
        _whole("holes", length, 1, _MAX_SIZE)
        end = start + length
        hollow += length
    data = form.plain_length - form.attributes
    if end > form.size or form.plain_length > MAX_CONTENT:
        raise _wrong("holes" if end > form.size else "content")
    if form.attributes:
        # The attributes can contain holes, so the length of the data is known only once they are read (`merged`).
        if form.holes or form.xattrs or not 0 <= data <= form.size:
            raise _wrong("attributes")
    elif data != form.size - hollow:
        raise _wrong("content")
    if form.content is not None and form.content == form.size:
        raise _wrong("content")


def _whole(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise _wrong(name)


def _wrong(name: str) -> RefusedError:
    return RefusedError(Reason.FORM, f"the form's {name} is not valid")


# --- bytes -----------------------------------------------------------------------------------------------------------

_DEFAULTS: Final = {each.name: each.default for each in sorted(fields(Form), key=lambda each: each.name)}
_NAMES: Final = frozenset(_DEFAULTS)
_PUTS: Final = tuple(getattr(Form, name).__set__ for name in _DEFAULTS)
_values_of: Final = attrgetter(*_DEFAULTS)
_KINDS: Final = {kind.value: kind for kind in Kind}


def _encoded(form: Form) -> bytes:
    shown = {
        name: value
        for (name, default), value in zip(_DEFAULTS.items(), _values_of(form), strict=True)
        if value is not default and value != default
    }
    shown["kind"] = form.kind.value
    return pack(shown)


def _longest(form: Form) -> int:
    return MAX_FACTS + len(form.path) + len(form.target or b"")


def _unpacked(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=True)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        raise RefusedError(Reason.FORM, f"the {what} cannot be read: not valid msgpack") from None
    if type(found) is not dict or not all(type(key) is str for key in found):
        raise RefusedError(Reason.FORM, f"the {what} cannot be read: not a map")
    return found
