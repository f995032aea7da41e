"""What is appended: elements of an encrypted source as they are first seen, and then their copies."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import Copy, CopyStored, Element, RemoteObserved, StreamKey
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from tests.ledger.world import SOURCE, began

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.rows import Batch
    from ledger.stores import Writing

FORM_BYTES = 300
"""An encrypted listing form of the real server, in base64, is about this long."""


def batches(writer: int, events: int, size: int) -> list[list[NewFact]]:
    """Return batches of `size` facts, `events` in all: the first half sights, the second half the copies of these."""
    rng = random.Random(writer)
    count = events // 2
    observed, copied = [], []
    for _ in range(count):
        key = StreamKey(source=SOURCE, kind="file", id=rng.randbytes(64).hex())
        element = Element(
            date=1_795_000_000 + rng.randrange(10_000_000),
            tz="UTC",
            form=b'{"encrypted":"' + rng.randbytes(FORM_BYTES // 2).hex().encode() + b'"}',
            revision=1,
            present=True,
            epoch=0,
            size=None,
            etag=None,
            copy=None,
            damage=None,
            failure=None,
        )
        copy = Copy(sha256=rng.randbytes(32), size=4112, iv=rng.randbytes(16), revision=1, instance=f"writer-{writer}")
        stored = CopyStored(element=replace(element, copy=copy))
        observed.append(NewFact(key=key, fact=RemoteObserved(element=element), observed_us=1, expected=0))
        copied.append(NewFact(key=key, fact=stored, observed_us=1, expected=1))
    return [half[at : at + size] for half in (observed, copied) for at in range(0, count, size)]


def planned(writer: int, events: int, size: int) -> list[Batch]:
    """Return the same batches as rows ready to be written, as if this writer were alone on a ledger that has begun."""
    store = _Recorder()
    ledger = Ledger(store, writer=f"writer-{writer}")
    ledger.append([began()])
    store.written.clear()
    for facts in batches(writer, events, size):
        ledger.append(facts)
    return store.written


class _Recorder(MemoryStore):
    """A memory store that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Batch] = []

    @contextmanager
    def writing(self) -> Iterator[Writing]:  # type: ignore[override]
        with super().writing() as tx:
            write = tx.write

            def keep(batch: Batch) -> None:
                self.written.append(batch)
                write(batch)

            tx.write = keep  # type: ignore[method-assign]
            yield tx
