"""The bytes of an event: its header, its canonical payload, and digests of both (docs/format.md, "Event bytes")."""

from __future__ import annotations

import functools
import hashlib
import threading
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import msgpack

import ledger.retention  # noqa: F401 -- its facts register themselves
from ledger.bounds import MAX_INT, MIN_INT
from ledger.errors import MalformedEventError
from ledger.events import FACTS, Fact, UnknownFact
from ledger.shape import Shape, shapes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ledger.events import StreamKey

    Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

FORMAT = 1
"""The version of the header's layout."""

FLAG_CRITICAL = 1
"""A projection MUST stop at an event with this flag if it does not know the event's type."""

NONCE_BYTES = 16
SOURCE_BYTES = 16

MAX_LEVELS = 64
"""How deep maps and arrays may be nested in a canonical payload. The facts known here need four levels."""


def _listing_with(name: str) -> Upcaster:
    """Return a function that adds the field `name`, as None, to a listing of an older schema."""

    def convert(fields: dict[str, Any]) -> dict[str, Any]:
        listing = fields.get("listing")
        if type(listing) is not dict:
            return fields
        return fields | {"listing": dict(sorted({**listing, name: None}.items()))}

    return convert


def _with_unserved(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert a listing of schema 2, which says only how many folders the server cannot read."""
    listing = fields.get("listing")
    if type(listing) is not dict or "unreadable" not in listing:
        return fields
    count = listing["unreadable"]
    kinds = ("devices", "excluded", "links", "pipes", "sockets", "unreadable", "unsettled")
    unserved = None if count is None else dict.fromkeys(kinds, 0) | {"unreadable": count}
    rest = {name: value for name, value in listing.items() if name != "unreadable"}
    return fields | {"listing": dict(sorted({**rest, "unserved": unserved, "unscanned_since": None}.items()))}


def _released_by_nobody(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert a release of schema 1, which names no policy. Position 0 means none."""
    return fields | {"at_us": 0, "by": "", "decided": 0, "policy": 0, "reason": ""}


def _erased_without_rows(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert an erasure of schema 1, which blocks nothing and keeps no rows."""
    return fields | {"blocked": False, "rows": ()}


def _of_objects(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert a map of schema 1, made when each object was a container.

    Its ranges stay true: objects were moved from their files into packs only later, and only after they were read.
    """
    return fields


UPCASTERS: Mapping[tuple[str, int], Upcaster] = {
    ("AuditAdvanced", 1): _of_objects,
    ("ListingCompleted", 1): _listing_with("unreadable"),
    ("ListingCompleted", 2): _with_unserved,
    ("ListingCompleted", 3): _listing_with("closed"),
    ("ListingHeldBack", 1): _listing_with("unreadable"),
    ("ListingHeldBack", 2): _with_unserved,
    ("ListingHeldBack", 3): _listing_with("closed"),
    ("CopyReleased", 1): _released_by_nobody,
    ("PayloadErased", 1): _erased_without_rows,
}
"""(type, schema version) -> the function that converts a payload's map to the next schema version."""


class Header(NamedTuple):
    """The part of an event that the tree commits to. Its bytes are an array of the fields in this order.

    `stream_digest` and `payload_digest` have 32 bytes. Times are in microseconds since 1970 UTC. `stream_version`
    counts the stream's events from 1.
    """

    format: int
    seq: int
    stream_digest: bytes
    stream_version: int
    type: str
    schema_version: int
    flags: int
    recorded_us: int
    observed_us: int
    writer: str
    payload_digest: bytes


class Payload(NamedTuple):
    """A decoded payload: the fact, and whether encoding the fact gives the same bytes again."""

    fact: Fact | UnknownFact
    canonical: bool


_HEADER_TYPES = (int, int, bytes, int, str, int, int, int, int, str, bytes)
_DIGEST_BYTES = 32
_BLOCK_BYTES = 64
_unpacker = functools.partial(msgpack.unpackb, raw=False, use_list=False, strict_map_key=True)
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_SHAPES: dict[type, Shape] = {}


def encode_header(header: Header | tuple[int, int, bytes, int, str, int, int, int, int, str, bytes]) -> bytes:
    """Return the header's bytes: a msgpack array of its eleven fields."""
    try:
        return _packer().pack(header)
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedEventError(f"the header cannot be encoded: {error}") from None


def decode_header(stored: bytes) -> Header:
    """Decode a header.

    Raises:
        MalformedEventError: if the bytes are not exactly what `encode_header` writes for a header of this format.
    """
    fields = _unpack(stored, "header")
    if type(fields) is not tuple or tuple(map(type, fields)) != _HEADER_TYPES:
        raise MalformedEventError("the header is not an array of its eleven fields")
    header = Header._make(fields)
    if header.format != FORMAT:
        raise MalformedEventError(f"the header has format {header.format}, but this version reads only {FORMAT}")
    if len(header.stream_digest) != _DIGEST_BYTES or len(header.payload_digest) != _DIGEST_BYTES:
        raise MalformedEventError("a digest in the header is not 32 bytes long")
    if header.seq < 1 or header.stream_version < 1 or header.schema_version < 1:
        raise MalformedEventError("a count in the header is below 1")
    if header.flags not in (0, FLAG_CRITICAL):
        raise MalformedEventError(f"the header has the flags {header.flags}, which this version does not know")
    if max(header[1], header[3], header[5], header[7], header[8]) > MAX_INT or min(header[7], header[8]) < MIN_INT:
        raise MalformedEventError("a number in the header has more than 64 bits")
    if _packer().pack(fields) != stored:
        raise MalformedEventError("the header's bytes are not in their shortest form")
    return header


def encode_payload(fact: Fact) -> bytes:
    """Return the fact as canonical msgpack: maps with sorted string keys, shortest integers, no floats.

    Raises:
        MalformedEventError: if a field has a type, length or range that `decode_payload` would refuse.
    """
    kind = type(fact)
    shape = _SHAPES.get(kind) or _shape_of(kind)
    if shape is None:
        raise MalformedEventError(f"{kind.__name__} is not a fact that this version knows")
    try:
        return _packer().pack(shape.show(fact))
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedEventError(f"a {type(fact).__name__} cannot be encoded: {error}") from None


def flags_of(type_name: str) -> int:
    """Return the flags of events of this type."""
    cls = FACTS.get(type_name)
    return FLAG_CRITICAL if cls is not None and cls.IS_CRITICAL else 0


def decode_payload(
    type_name: str,
    schema_version: int,
    flags: int,
    payload: bytes,
    *,
    upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> Fact | UnknownFact:
    """Return the fact, converted to the newest schema, or an UnknownFact if its type or schema is not known here.

    Raises:
        MalformedEventError: if the type is known and a field is missing, unknown, or of a wrong type or range.
    """
    shape = _shape_named(type_name)
    if shape is None or (schema_version != shape.version and (type_name, schema_version) not in upcasters):
        return UnknownFact(type_name=type_name, schema_version=schema_version, critical=bool(flags & FLAG_CRITICAL))
    fields = _unpack(payload, type_name)
    if schema_version != shape.version:
        fields = _upcast(fields, type_name, schema_version, shape.version, upcasters)
    return cast("Fact", shape.read(fields))


def read_payload(type_name: str, schema_version: int, flags: int, payload: bytes) -> Payload:
    """Return the fact, and whether its bytes are canonical, in one pass.

    Raises:
        MalformedEventError: as `decode_payload` does.
    """
    shape = _shape_named(type_name)
    if shape is None or schema_version != shape.version:
        return Payload(decode_payload(type_name, schema_version, flags, payload), is_canonical(payload))
    fields = _unpack(payload, type_name)
    # Reading already demands sorted keys. Packing the same map again shows all other differences: integers or lengths
    # that are longer than needed, and repeated keys.
    again = _packer().pack(fields)
    return Payload(cast("Fact", shape.read(fields)), again == payload)


def is_known(type_name: str, schema_version: int) -> bool:
    """Whether this version reads facts of this type in this schema without converting them."""
    shape = _shape_named(type_name)
    return shape is not None and shape.version == schema_version


def is_canonical(payload: bytes) -> bool:
    """Whether the bytes are one canonical msgpack map. The type need not be known."""
    try:
        value = _unpack(payload, "payload")
    except MalformedEventError:
        return False
    return type(value) is dict and _is_plain(value) and _packer().pack(value) == payload


def stream_digest(salt: bytes, key: StreamKey) -> bytes:
    """Return HMAC-SHA-256(salt, kind 0x00 id): the stream's name in a header. It reveals nothing without the salt."""
    return keyed_digest(salt, key.kind.encode() + b"\x00" + key.id.encode())


def keyed_digest(salt: bytes, name: bytes) -> bytes:
    """Return HMAC-SHA-256(salt, name), where `name` is a stored stream key without its source."""
    inner, outer = _keyed(salt)
    inner, outer = inner.copy(), outer.copy()
    inner.update(name)
    outer.update(inner.digest())
    return outer.digest()


def source_id_of(salt: bytes) -> bytes:
    """Return the id (16 bytes) of the source with this salt. A proof of the salt thus also proves the source's id.

    Sources that began before this rule have random ids.
    """
    return hashlib.sha256(b"source\x00" + salt).digest()[:SOURCE_BYTES]


def payload_digest(nonce: bytes, payload: bytes) -> bytes:
    """Return SHA-256(nonce payload). The nonce (16 bytes) prevents guessing an erased payload."""
    return sha256(nonce + payload).digest()


def leaf_hash(header: bytes) -> bytes:
    """Return the RFC 6962 leaf of these stored header bytes: SHA-256(0x00 header)."""
    return sha256(b"\x00" + header).digest()


# --- helpers ---------------------------------------------------------------------------------------------------------


def _shape_of(cls: type) -> Shape | None:
    """Return the shape of a fact's class, compiled on first use, or None for a class that is not a fact."""
    if FACTS.get(cls.__name__) is not cls:
        return None
    _SHAPES.update(shapes_of([cls]))
    return _SHAPES[cls]


def _shape_named(type_name: str) -> Shape | None:
    cls = FACTS.get(type_name)
    return None if cls is None else _SHAPES.get(cls) or _shape_of(cls)


@functools.lru_cache(maxsize=64)
def _keyed(salt: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return HMAC's two hashes (RFC 2104), both already fed with the key. Salts are few, so caching halves the work."""
    key = (salt if len(salt) <= _BLOCK_BYTES else hashlib.sha256(salt).digest()).ljust(_BLOCK_BYTES, b"\x00")
    return hashlib.sha256(key.translate(_INNER)), hashlib.sha256(key.translate(_OUTER))


class Packer(Protocol):
    """The part of msgpack's untyped packer that is used here."""

    def pack(self, value: object) -> bytes:
        """Return the value's bytes."""
        ...


class _Local(threading.local):
    """One packer per thread, because creating one costs as much as packing a fact."""

    def __init__(self) -> None:
        self.pack: Packer = msgpack.Packer(use_bin_type=True)


_local = _Local()


def _packer() -> Packer:
    return _local.pack


def _unpack(stored: bytes, what: str) -> Any:
    try:
        return _unpacker(stored)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedEventError(f"the {what} is not valid msgpack: {error or type(error).__name__}") from None


def _upcast(
    fields: Any, type_name: str, schema_version: int, wanted: int, upcasters: Mapping[tuple[str, int], Upcaster]
) -> dict[str, Any]:
    while schema_version < wanted:
        step = upcasters.get((type_name, schema_version))
        if step is None or type(fields) is not dict:
            raise MalformedEventError(f"a {type_name} of schema {schema_version} cannot be converted to {wanted}")
        fields = step(fields)
        schema_version += 1
    return dict(sorted(fields.items()))


def _is_plain(value: object, levels: int = MAX_LEVELS) -> bool:
    """Whether the value holds only maps with sorted string keys, arrays, and plain types other than floats.

    Maps and arrays may be nested at most `levels` deep.
    """
    kind = type(value)
    if levels == 0 and kind in (dict, tuple):
        return False
    if kind is dict:
        held = cast("dict[object, object]", value)
        keys = list(held)
        return (
            all(type(key) is str for key in keys)
            and keys == sorted(cast("list[str]", keys))
            and all(_is_plain(item, levels - 1) for item in held.values())
        )
    if kind is tuple:
        return all(_is_plain(item, levels - 1) for item in cast("tuple[object, ...]", value))
    if kind is int:
        return MIN_INT <= cast("int", value) <= MAX_INT
    return value is None or kind in (str, bytes, bool)
