"""CPU time of packing small objects, of recording and finding their places: `python -m tests.bench.packs --help`."""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kropot.objects.directory import DirectoryObjects
from kropot.objects.store import Published
from ledger.places import Placement
from ledger.sql import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH = 2048


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a line for each step: microseconds of CPU an object, of the program and of the system."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--objects", type=int, default=20_480)
    options.add_argument("--size", type=int, default=4096)
    options.add_argument("--placed", type=int, default=0, help="so many placements are there already")
    options.add_argument("--folder", type=Path, help="default: a temporary one")
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        _bench(Path(folder), chosen.objects, chosen.size, chosen.placed)
    return 0


def _bench(folder: Path, count: int, size: int, placed: int) -> None:
    contents = [os.urandom(size) for _ in range(count)]
    hashes = [hashlib.sha256(content).digest() for content in contents]
    objects = DirectoryObjects(folder / "storage", "bench")
    objects.lock()
    places: list[Placement] = []

    def publish(at: int) -> None:
        batch = [objects.stage_whole(contents[n], hashes[n]) for n in range(at, min(at + BATCH, count))]
        outcomes = objects.publish(batch)
        places.extend(one.place for one in outcomes if isinstance(one, Published) and one.place is not None)

    _measure("publish", publish, count)
    objects.close()
    store = open_store(f"sqlite:///{folder / 'ledger.db'}", create=True)
    for first in range(0, placed, 1 << 16):
        pack = os.urandom(32)
        numbers = range(min(1 << 16, placed - first))
        store.places.add([Placement(sha256=os.urandom(32), pack=pack, offset=n, length=1) for n in numbers])
    _measure("record places", lambda at: store.places.add(places[at : at + BATCH]), count)
    _measure("find places", lambda at: len(store.places.find(hashes[at : at + BATCH])), count)
    store.close()


def _measure(what: str, act: Callable[[int], object], count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    for at in range(0, count, BATCH):
        act(at)
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    print(f"{what:16}{user / count * 1e6:8.2f} us + {system / count * 1e6:6.2f} us", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
