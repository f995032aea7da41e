"""A ledger as a collector writes it: one first listing, every content fetched, then listings with a little news."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.collect.decide import sources
from ledger.checkpoint import Checkpoint, origin_of, sign_checkpoint
from ledger.codec import source_id_of
from ledger.events import Copy, CopyStored, Element, Listing, RemoteObserved, StreamKey
from ledger.log import Ledger, NewFact
from ledger.note import SigningKey
from ledger.sql import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.events import Fact, Source

CHUNK = 2000
"""Entries of a listing in one append, as in `kropot/collect/decide/listing_run.py`."""

FETCHED = 30
"""Copies in one append, about as many as a collector has under way."""

NEW_EVERY = 20
"""One listing in so many finds a new element."""

SIGNED_EVERY = 288
"""One checkpoint a day, at a listing every 300 seconds."""

FORM_BYTES = 300
START_S = 1_795_000_000
REFRESH_S = 300
SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much there is."""

    events: int
    batches: int
    checkpoints: int


def live(path: Path, *, elements: int, listings: int) -> Counts:  # noqa: C901 -- one story, from beginning to end
    """Write the ledger; return how much it has."""
    draw, ticks = random.Random(elements), count(START_S * SECOND_US, 1000)
    store = open_store(f"sqlite:///{path}", create=True)
    ledger = Ledger(store, writer="collector-1", clock=lambda: next(ticks), entropy=draw.randbytes)
    salt = draw.randbytes(32)
    source_id = source_id_of(salt)
    began = sources.begin(salt=salt, token="6a1f7c52-0000-4000-8000-000000000000", url="https://files.example.org/base")
    source: Source = replace(began.source, opaque=True, zone="Europe/Warsaw")
    batches = checkpoints = 0

    def append(*facts: tuple[StreamKey, Fact]) -> None:
        nonlocal batches
        now = next(ticks)
        ledger.append([NewFact(key=key, fact=fact, observed_us=now) for key, fact in facts])
        batches += 1

    def listed(mode: str, new: int) -> tuple[StreamKey, Fact]:
        nonlocal source
        listing = Listing(
            mode="full" if mode == "full" else "window",
            since=None if mode == "full" else (source.cursor or 0) - 7200,
            until=source.cursor,
            seen=elements,
            new=new,
            changed=0,
            reappeared=0,
            vanished=0,
            rejected=0,
        )
        fact = sources.complete(
            source, listing, now_us=next(ticks), zone=None, cursor=source.cursor, unlistable=source.unlistable
        )
        source = fact.source
        return sources.source_key(source_id), fact

    def advanced(new: int, cursor: int) -> tuple[StreamKey, Fact]:
        nonlocal source
        found = sources.Found(new=new, cursor=cursor, opaque=True)
        fact = sources.advance(source, found, known=elements, now_us=next(ticks), thresholds=sources.Thresholds())
        assert fact is not None
        source = fact.source
        return sources.source_key(source_id), fact

    def element(number: int) -> tuple[StreamKey, Element]:
        key = StreamKey(source=source_id, kind="file", id=draw.randbytes(64).hex())
        form = b'{"encrypted":"' + draw.randbytes(FORM_BYTES // 2).hex().encode() + b'"}'
        return key, Element(
            date=START_S + number,
            tz="Europe/Warsaw",
            form=form,
            revision=1,
            present=True,
            epoch=0,
            size=None,
            etag=None,
            copy=None,
            damage=None,
            failure=None,
        )

    def fetched(seen: Element) -> CopyStored:
        copy = Copy(sha256=draw.randbytes(32), size=4112, iv=draw.randbytes(16), revision=1, instance="collector-1")
        return CopyStored(element=replace(seen, copy=copy))

    append((sources.source_key(source_id), began))
    seen = [element(number) for number in range(elements)]
    for at in range(0, elements, CHUNK):
        some = seen[at : at + CHUNK]
        append(
            *((key, RemoteObserved(element=one)) for key, one in some), advanced(len(some), START_S + at + len(some))
        )
    append(listed("full", elements))
    for at in range(0, elements, FETCHED):
        append(*((key, fetched(one)) for key, one in seen[at : at + FETCHED]))
    signer = SigningKey.generate("bench", draw.randbytes)
    for number in range(1, listings + 1):
        if number % NEW_EVERY == 0:
            key, one = element(elements + number)
            append((key, RemoteObserved(element=one)), advanced(1, one.date))
            append((key, fetched(one)))
        append(listed("window", 0))
        if number % SIGNED_EVERY == 0:
            head = ledger.head()
            origin = origin_of(ledger.identity().ledger_id)
            checkpoint = Checkpoint(origin=origin, size=head.position, root=head.frontier.root)
            store.blobs.save_checkpoint(head.position, sign_checkpoint(checkpoint, signer).decode())
            checkpoints += 1
    events = ledger.head().position
    store.close()
    return Counts(events=events, batches=batches, checkpoints=checkpoints)
