"""What parts of the format cost that could be left out, in bytes of an SQLite ledger: `python -m tests.bench.format`.

docs/decisions/0009-what-the-format-keeps.md decides about them. A part's cost is how much less there is without it: the
same ledger is copied, the part is taken out, and both are packed (`VACUUM`). "rows" are the bytes of all rows and
indexes, "file" those of the file, whose pages have room left over.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from ledger.codec import decode_header
from ledger.log import Ledger
from ledger.sql import open_store
from tests.bench.format.life import live

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPEATED = ("type", "schema_version", "flags", "recorded_us", "observed_us", "writer")
"""The columns of `event` that repeat the header and that no index needs."""


def main(arguments: Sequence[str]) -> int:
    """Make a ledger, and print a line for each part: its bytes, and its share of the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.format", description=__doc__)
    parser.add_argument("--elements", type=int, default=20_000, help="how many elements the source has (20000)")
    parser.add_argument("--listings", type=int, default=2016, help="how many listings follow the first one (a week's)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.db"
        counts = live(whole, elements=options.elements, listings=options.listings)
        rows, file = _without(whole, lambda _: None)
        print(f"{counts.events:,} events in {counts.batches:,} batches, {counts.checkpoints} checkpoints")
        print(f"{'':44}{'rows':>12}{'share':>8}{'file':>12}{'share':>8}")
        print(f"{'all of it':44}{rows:>12,}{1:>8.2%}{file:>12,}{1:>8.2%}")
        for name, take_out in PARTS.items():
            its_rows, its_file = (
                all_ - rest for all_, rest in zip((rows, file), _without(whole, take_out), strict=True)
            )
            print(f"{name:44}{its_rows:>12,}{its_rows / rows:>8.2%}{its_file:>12,}{its_file / file:>8.2%}", flush=True)
        _time(whole)
    return 0


def _without(whole: Path, take_out: Callable[[sqlite3.Connection], None]) -> tuple[int, int]:
    """Return the bytes of all rows, and of the file, of the packed ledger without the part that this takes out."""
    copy = whole.with_name("copy.db")
    shutil.copy(whole, copy)
    with closing(sqlite3.connect(copy)) as sql:
        for (trigger,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            sql.execute(f"DROP TRIGGER {trigger}")
        take_out(sql)
        # SQLite writes rows anew in another form when a column is dropped: compare only ledgers that went through it.
        sql.execute("ALTER TABLE event ADD COLUMN spare INTEGER")
        _columns("spare")(sql)
        sql.commit()
        sql.execute("VACUUM")
        (rows,) = sql.execute("SELECT sum(payload) FROM dbstat").fetchone()
    return int(rows), copy.stat().st_size


def _columns(*names: str) -> Callable[[sqlite3.Connection], None]:
    def take_out(sql: sqlite3.Connection) -> None:
        for name in names:
            sql.execute(f"ALTER TABLE event DROP COLUMN {name}")

    return take_out


def _frontiers(sql: sqlite3.Connection) -> None:
    sql.execute("UPDATE batch SET frontier = NULL")


def _leaves(sql: sqlite3.Connection) -> None:
    sql.execute("ALTER TABLE event DROP COLUMN leaf")


def _flags_of_headers(sql: sqlite3.Connection) -> None:
    sql.execute("UPDATE event SET header = substr(header, 2)")


def _digests(sql: sqlite3.Connection) -> None:
    sql.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY, size INTEGER, note TEXT)")
    sql.execute("INSERT INTO kept SELECT id, size, note FROM checkpoint")
    sql.execute("DROP TABLE checkpoint")


def _post_images(sql: sqlite3.Connection) -> None:
    """Take salt, MAC of the token and addresses out of every fact about a source but those that change them."""

    def shorter(payload: bytes) -> bytes:
        held: dict[str, Any] = msgpack.unpackb(payload)
        for name in ("salt", "token_mac", "urls"):
            del held["source"][name]
        return bytes(msgpack.packb(held))

    sql.create_function("shorter", 1, shorter)
    sql.execute(
        "UPDATE event SET payload = shorter(payload) WHERE type IN"
        " ('ListingAdvanced', 'ListingCompleted', 'ListingHeldBack', 'AlarmsAccepted', 'ZoneChanged')"
    )


PARTS: dict[str, Callable[[sqlite3.Connection], None]] = {
    "event: all columns that repeat the header": _columns(*REPEATED),
    **{f"event.{name}": _columns(name) for name in REPEATED},
    "event.leaf": _leaves,
    "batch.frontier": _frontiers,
    "salt, token_mac, urls in later source facts": _post_images,
    "flags in the header's bytes": _flags_of_headers,
    "checkpoint.digest and its index": _digests,
}


def _time(whole: Path) -> None:
    """Print what the parts save in time."""
    ledger = Ledger(open_store(f"sqlite:///{whole}"))
    head = ledger.head().position
    headers = [bytes(event.header) for event in ledger.log.events_at(list(range(1, min(head, 2000))))]
    began = time.perf_counter()
    for header in headers:
        decode_header(header)
    print(f"decoding a header: {(time.perf_counter() - began) / len(headers) * 1e6:.1f} us")
    began = time.perf_counter()
    with_stored = ledger.frontier_at(head // 2)
    stored = time.perf_counter() - began
    ledger.store.close()
    with closing(sqlite3.connect(whole)) as sql:
        began = time.perf_counter()
        leaves = [leaf for (leaf,) in sql.execute("SELECT leaf FROM event WHERE seq <= ? ORDER BY seq", (head // 2,))]
        if type(with_stored)().extend(leaves) != with_stored:
            raise RuntimeError("the frontiers differ")
    computed = time.perf_counter() - began
    print(
        f"the tree at position {head // 2:,}: {stored * 1e3:.2f} ms, without stored frontiers {computed * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
