"""Recognises sound events by their bytes: a whole page at once, column by column (docs/format.md)."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from ledger.codec import FORMAT
from ledger.events import FACTS, RemoteObserved
from ledger.pattern import is_whole, recogniser
from ledger.quick import plain_types
from ledger.rows import SOUND

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from ledger.audit.rows import Columns

_ELEMENT = recogniser(RemoteObserved, "element_copy_sha256", "element_copy_size")
"""All common types hold only an element, and have the same schema version."""
_VERSION = RemoteObserved.VERSION
_BYTES = _ELEMENT.groups["bytes"]
_SHA256, _SIZE = _ELEMENT.groups["element_copy_sha256"], _ELEMENT.groups["element_copy_size"]
_TYPED = 2
"""The number of msgpack bytes before a SHA-256."""
_PLACE = itemgetter(0)


class EventPage(NamedTuple):
    """Events column by column. `sound` has one byte per event: 1 if it was recognised, else 0.

    `copies` has place, SHA-256 and size of each copy that a recognised event stored, in the order of places.
    """

    seqs: Sequence[int]
    streams: Sequence[int]
    versions: Sequence[int]
    recorded: Sequence[int]
    leaves: Sequence[bytes]
    sound: bytes
    copies: list[tuple[int, bytes, int]]


def recognise(columns: Columns, digests: Mapping[int, bytes]) -> EventPage:
    """Return the page, and which of its events were recognised. The others are not necessarily wrong.

    A recognised event is consistent in itself. Its type is common, and its payload is valid and canonical. Its header
    holds exactly its columns, the digest of payload and nonce, and the digest of its stream (`digests`, by stream
    number). Its leaf is the header's hash. This does not check how it relates to other events. The columns MUST come
    from `read_events`. A value of a wrong type gives other header bytes, so its event is not recognised.
    """
    seqs, streams, versions, names, schemas, flags, recorded, observed, writers, headers, nonces, payloads, leaves = (
        columns
    )
    if None in nonces or None in payloads:
        pairs: Any = [
            (b"", b"") if nonce is None or payload is None else (nonce, payload)
            for nonce, payload in zip(nonces, payloads, strict=True)
        ]
        nonces, payloads = zip(*pairs, strict=True)
    sha256, pack = hashlib.sha256, msgpack.Packer(use_bin_type=True).pack
    digested = [sha256(nonce + payload).digest() for nonce, payload in zip(nonces, payloads, strict=True)]
    headed = zip(
        repeat(FORMAT),
        seqs,
        map(digests.get, streams),
        versions,
        names,
        schemas,
        flags,
        recorded,
        observed,
        writers,
        digested,
        strict=False,
    )
    try:
        packed = tuple(map(pack, headed))
    except (TypeError, ValueError, OverflowError):
        packed = (b"",) * len(headers)  # a header cannot hold some value: the plain rule checks each event
    hashed = tuple([sha256(b"\x00" + header).digest() for header in headers])
    matches: list[re.Match[bytes] | None] = list(map(_ELEMENT.match, payloads))
    common = frozenset(name for name, _ in plain_types())
    if not common.issuperset(names) or flags.count(0) != len(flags) or schemas.count(_VERSION) != len(schemas):
        matches = [
            match if name in common and schema == _VERSION and flag == 0 else None
            for match, name, schema, flag in zip(matches, names, schemas, flags, strict=True)
        ]
    if packed == headers and hashed == leaves and None not in matches:
        # Check that the form has the length that it claims. Most forms are short, with one length byte before them.
        sound = bytes(
            [
                payload[start - 1] == stop - start if start > 0 else is_whole(match)  # type: ignore[arg-type]
                for (start, stop), match, payload in zip(
                    [match.span(_BYTES) for match in matches],  # type: ignore[union-attr]
                    matches,
                    payloads,
                    strict=True,
                )
            ]
        )
    else:
        sound = bytes(
            [
                match is not None and expected == header and leaf == digest and is_whole(match)
                for match, expected, header, leaf, digest in zip(matches, packed, headers, leaves, hashed, strict=True)
            ]
        )
    return EventPage(seqs, streams, versions, recorded, leaves, sound, _copies(names, matches, sound))


def copies_in(page: EventPage, start: int, stop: int) -> list[tuple[bytes, int, int, int]]:
    """Return SHA-256, stream, size and position of the copies in the events [`start`, `stop`) of the page."""
    streams, seqs, copies = page.streams, page.seqs, page.copies
    first, last = bisect_left(copies, start, key=_PLACE), bisect_left(copies, stop, key=_PLACE)
    return [(sha256, streams[at], size, seqs[at]) for at, sha256, size in copies[first:last]]


def _copies(
    names: Sequence[str], matches: Sequence[re.Match[bytes] | None], sound: bytes
) -> list[tuple[int, bytes, int]]:
    storing = frozenset(name for name, cls in FACTS.items() if cls.OBJECT_STATE == SOUND)
    found = [
        (at, match.group(_SHA256, _SIZE))  # type: ignore[union-attr]
        for at, (name, match, is_sound) in enumerate(zip(names, matches, sound, strict=True))
        if is_sound and name in storing
    ]
    return [
        (at, sha256[_TYPED:], size[0] if len(size) == 1 else int.from_bytes(size[1:], "big"))
        for at, (sha256, size) in found
        if sha256 is not None
    ]
