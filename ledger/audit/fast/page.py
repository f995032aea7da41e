"""Recognises sound events by their bytes: a whole page at once, column by column (docs/format.md)."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from functools import lru_cache
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import msgpack

from ledger.codec import FORMAT, NONCE_BYTES
from ledger.events import FACTS, Element, RemoteObserved
from ledger.pattern import is_whole, number, recogniser
from ledger.quick import plain_types
from ledger.rows import SOUND
from ledger.shape import hints_of

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping, Sequence

    from ledger.audit.rows import Columns

_FIELDS = ("element_copy_sha256", "element_copy_size", "element_copy_revision", "element_revision")
_VERSION = RemoteObserved.VERSION
"""All common types hold an element and nothing else, and have the same schema version."""
_GROUPS = recogniser(RemoteObserved, *_FIELDS).groups
_BYTES = _GROUPS["bytes"]
_SHA256, _SIZE, _COPIED, _REVISION = map(_GROUPS.__getitem__, _FIELDS)
_TYPED = 2
"""The number of msgpack bytes before a SHA-256."""
_PLACE = itemgetter(0)


class EventPage(NamedTuple):
    """Events column by column. `sound` has one byte per event: 1 if it was recognised, else 0.

    `revisions` are those of the elements, or 0 if an event was not recognised. `copies` are place, SHA-256 and size of
    each copy that a recognised event says is stored, in the order of places.
    """

    seqs: Sequence[int]
    streams: Sequence[int]
    versions: Sequence[int]
    recorded: Sequence[int]
    leaves: Sequence[bytes]
    sound: bytes
    revisions: Sequence[int]
    copies: list[tuple[int, bytes, int]]


def recognise(columns: Columns, digests: Mapping[int, bytes]) -> EventPage:
    """Return the page, and which of its events were recognised. The others are not necessarily wrong.

    A recognised event is consistent in itself: its type is a common one, its payload is valid, canonical and without
    damage, the fact does not contradict itself, the header holds exactly the event's columns, the digest of payload and
    nonce, and its stream's digest (`digests`, by stream number), and the leaf is the header's hash. Its relation to
    other events is not checked here. The columns MUST be as `read_events` returns them. A value of another type than
    was written gives other header bytes, so its event is not recognised.
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
        packed = (b"",) * len(headers)  # a header cannot hold one of the values, so the plain rule checks each event
    hashed = tuple([sha256(b"\x00" + header).digest() for header in headers])
    common = {name: _matcher(name) for name, _ in plain_types()}
    matches = [common.get(name, _nothing)(payload) for name, payload in zip(names, payloads, strict=True)]
    if (
        flags.count(0) != len(flags)
        or schemas.count(_VERSION) != len(schemas)
        or set(map(len, nonces)) != {NONCE_BYTES}
    ):
        matches = [
            match if schema == _VERSION and flag == 0 and len(nonce) == NONCE_BYTES else None
            for match, schema, flag, nonce in zip(matches, schemas, flags, nonces, strict=True)
        ]
    pairs = [(b"", b"") if match is None else match.group(_COPIED, _REVISION) for match in matches]
    revisions = [
        revision[0]
        if len(revision) == 1 and (copied is None or copied == revision)
        else _sound_revision(copied, revision)
        for copied, revision in pairs
    ]
    if 0 in revisions:
        matches = [match if revision else None for match, revision in zip(matches, revisions, strict=True)]
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
    return EventPage(seqs, streams, versions, recorded, leaves, sound, revisions, _copies(names, matches, sound))


def copies_in(page: EventPage, start: int, stop: int) -> list[tuple[bytes, int, int, int]]:
    """Return SHA-256, stream, size and position of the copies in the events [`start`, `stop`) of the page."""
    streams, seqs, copies = page.streams, page.seqs, page.copies
    first, last = bisect_left(copies, start, key=_PLACE), bisect_left(copies, stop, key=_PLACE)
    return [(sha256, streams[at], size, seqs[at]) for at, sha256, size in copies[first:last]]


@lru_cache(maxsize=64)
def _matcher(name: str) -> Callable[[bytes], re.Match[bytes] | None]:
    """Return a matcher for payloads of a common type whose fact does not contradict itself (`contradiction`).

    It leaves one rule open: the copy's revision must be at most the element's. It matches no damage, which is rare.
    """
    cls: Any = FACTS[name]
    only: dict[str, Any] = {"element_damage": type(None)}
    if cls.IS_PRESENT is not None:
        only["element_present"] = Literal[cls.IS_PRESENT]
    hints = hints_of(Element)
    for held in cls.HOLDS:
        only[f"element_{held}"] = next(option for option in get_args(hints[held]) if option is not type(None))
    return recogniser(cls, *_FIELDS, only=only).match


def _nothing(_: bytes) -> None:
    """Recognise no payload."""


def _sound_revision(copied: bytes | None, stored: bytes) -> int:
    """Return the element's revision, or 0 if nothing was recognised or the copy's revision `copied` is above it."""
    if not stored:
        return 0
    revision = number(stored)
    return revision if copied is None or number(copied) <= revision else 0


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
