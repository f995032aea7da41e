"""Choose the fastest reader for a store and for what to read in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.objects.bulk.any_store import BLOCK_BYTES, StoreReader
from kropot.objects.bulk.protocol import BulkReadable
from kropot.objects.bulk.reading import ThreadReading, Throttle

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.objects.bulk.protocol import BulkReader
    from kropot.objects.store import ObjectStore
    from kropot.verify.scope import Scope
    from kropot.verify.world import World
    from ledger.log import Ledger


def reader_of(objects: ObjectStore, ledger: Ledger, scope: Scope, world: World, ends: Callable[[], bool]) -> BulkReader:
    """Return the fastest reader for the scope. `ends` says whether to stop."""
    if scope.quick:
        return StoreReader(objects, None, stopped=ends)
    throttle = Throttle(scope.rate, sleep=world.sleep, monotonic=world.monotonic)
    if isinstance(objects, BulkReadable):
        tallies = ledger.tallies()
        count, size = sum(each.elements for each in tallies), sum(each.bytes for each in tallies)
        take = None if scope.rate is None else throttle.take
        reader = objects.bulk_reader(objects=count, size=size, stopped=ends, take=take)
        if reader is not None:
            return reader
    reading = ThreadReading(objects, throttle=throttle, stopped=ends)
    # Read one second's worth at a time. Otherwise a stop would wait for all blocks that were already handed out.
    block_bytes = BLOCK_BYTES if scope.rate is None else min(scope.rate, BLOCK_BYTES)
    return StoreReader(objects, reading, stopped=ends, block_bytes=block_bytes)
