"""Ledgers with long histories, written by the ledger's own append in large batches."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import (
    Copy,
    CopyStored,
    Failure,
    FetchFailed,
    RemoteChanged,
    RemoteObserved,
    RemoteVanished,
    SourceBegan,
    StreamKey,
)
from ledger.log import Ledger, NewFact, source_key
from ledger.sql import open_store
from tests.ledger.fresh import fresh_element, fresh_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BATCH = 5_000
START_US = 1_790_000_000_000_000
_FORM = b'{"encrypted":"' + b"A" * 300 + b'"}'


def make(path: Path, events: int, *, say: Callable[[str], None]) -> None:
    """Write a ledger of `events` events: half of them new elements, each with its copy; then changes and losses.

    For every ten elements there are: ten observed, nine stored, one failed; two changed and stored again; one gone.
    """
    now = [START_US]
    ledger = Ledger(open_store(f"sqlite:///{path}", create=True), writer="bench", clock=lambda: now[0])
    draw = random.Random(events)
    source = draw.randbytes(16)
    began = SourceBegan(source=fresh_source(salt=draw.randbytes(32)))
    ledger.append([NewFact(key=source_key(source), fact=began, observed_us=START_US)])
    facts = _life(source, draw)
    written = 2
    while written < events:
        count = min(BATCH, events - written)
        now[0] += 1_000_000
        ledger.append(
            [NewFact(key=key, fact=fact, observed_us=now[0]) for key, fact in (next(facts) for _ in range(count))]
        )
        written += count
        if written % 500_000 < BATCH:
            say(f"{written:,} events")
    ledger.store.close()


Fact = RemoteObserved | CopyStored | FetchFailed | RemoteChanged | RemoteVanished


def _life(source: bytes, draw: random.Random) -> Iterator[tuple[StreamKey, Fact]]:
    """Yield what happens, page by page as a collector meets it: listed together, then fetched one after the other."""
    number = 0
    while True:
        page = []
        for _ in range(100):
            number += 1
            name = hashlib.sha512(b"%d" % number).hexdigest()
            key = StreamKey(source=source, kind="file", id=name)
            page.append((key, fresh_element(1_790_000_000 + number, form=_FORM)))
        yield from ((key, RemoteObserved(element=element)) for key, element in page)
        stored = {}
        for at, (key, element) in enumerate(page):
            if at % 10 == 9:
                failure = Failure(reason="truncated", attempts=1, since_us=START_US, next_try_us=START_US + 1)
                yield key, FetchFailed(element=replace(element, failure=failure))
            else:
                stored[key] = replace(element, copy=_copy(draw, element.revision))
                yield key, CopyStored(element=stored[key])
        for key, element in draw.sample(sorted(stored.items(), key=lambda pair: pair[0].id), 30):
            match draw.randrange(3):
                case 0:
                    yield key, RemoteVanished(element=replace(element, present=False))
                case _:
                    changed = replace(element, revision=2, date=element.date + 60)
                    yield key, RemoteChanged(element=changed)
                    yield key, CopyStored(element=replace(changed, copy=_copy(draw, 2)))


def _copy(draw: random.Random, revision: int) -> Copy:
    return Copy(sha256=draw.randbytes(32), size=4112, iv=draw.randbytes(16), revision=revision, instance="main")
