"""A ledger of a year of monthly rounds, made fast: a small one through `append`, copied many times over by SQL.

The copies are laid out as real rounds are: all that one round changed lies together, so the history of an element is
spread over the whole file. What a decision about retention does not read is left out: names, copies and leaves.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from ledger.events import (
    Copy,
    CopyStored,
    Element,
    ListingCompleted,
    RemoteChanged,
    RemoteObserved,
    RemoteVanished,
    SourceBegan,
    StreamKey,
)
from ledger.log import Ledger, NewFact, source_key
from ledger.sql import open_store
from tests.ledger.fresh import fresh_element, fresh_listing, fresh_source

if TYPE_CHECKING:
    from pathlib import Path

SEED: Final = 50_000
"""The elements of the small ledger at most."""

ROUNDS: Final = 13
CHANGED, VANISHED = 0.03, 0.003
"""What each round after the first changes, and what it finds gone."""

_DAY_US: Final = 86_400_000_000
_BATCH: Final = 5_000
_FORM: Final = b'{"encrypted":"' + b"A" * 300 + b'"}'
_LISTING: Final = fresh_listing(seen=1)


def make(path: Path, elements: int) -> int:
    """Write a ledger of this many elements, a multiple of `SEED` or fewer, and return the number of its events."""
    small = min(elements, SEED)
    times, rest = divmod(elements, small)
    if rest:
        raise ValueError(f"{elements:,} is not a multiple of {SEED:,}")
    seed = path.with_suffix(".seed")
    year = _Year(seed, small)
    year.write()
    open_store(f"sqlite:///{path}", create=True).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("PRAGMA journal_mode=OFF")
        sql.execute("PRAGMA synchronous=OFF")
        sql.execute("PRAGMA cache_size=-500000")
        sql.execute("ATTACH ? AS seed", (str(seed),))
        for (trigger,) in sql.execute("SELECT name FROM main.sqlite_master WHERE type = 'trigger'").fetchall():
            sql.execute(f"DROP TRIGGER main.{trigger}")
        sql.execute("BEGIN")
        head = _multiply(sql, year.parts, small, times)
        sql.execute("COMMIT")
        sql.execute("PRAGMA journal_mode=WAL")
    seed.unlink()
    return head


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The events in (`after`, `until`] of the small ledger; those of elements are there many times in the large one."""

    after: int
    until: int
    is_of_elements: bool


@dataclass(slots=True)
class _Year:
    """Writes the small ledger, part by part."""

    path: Path
    elements: int
    parts: list[_Part] = field(default_factory=list)

    def write(self) -> None:
        draw, now = random.Random(1), [time.time_ns() // 1000 - 30 * _DAY_US * (ROUNDS - 1)]
        ledger = Ledger(open_store(f"sqlite:///{self.path}", create=True), writer="bench", clock=lambda: now[0])
        source_id = draw.randbytes(16)
        source = fresh_source(salt=draw.randbytes(32))
        self._append(ledger, [NewFact(key=source_key(source_id), fact=SourceBegan(source=source), observed_us=now[0])])
        known: list[tuple[StreamKey, Element]] = []
        for number in range(self.elements):
            name = hashlib.sha512(b"%d" % number).hexdigest()
            known.append(
                (StreamKey(source=source_id, kind="file", id=name), fresh_element(1_790_000_000 + number, form=_FORM))
            )
        for no in range(ROUNDS):
            if no == 0:
                wanted = list(range(self.elements))
                listed = [(key, RemoteObserved(element=element)) for key, element in known]
            else:
                wanted, listed = self._changes(known, draw)
            self._append(
                ledger, [NewFact(key=key, fact=fact, observed_us=now[0]) for key, fact in listed], of_elements=True
            )
            done = ListingCompleted(source=replace(source, listed_us=now[0]), listing=_LISTING)
            self._append(ledger, [NewFact(key=source_key(source_id), fact=done, observed_us=now[0])])
            stored = []
            for at in wanted:
                key, element = known[at]
                copy = Copy(
                    sha256=draw.randbytes(32), size=4112, iv=draw.randbytes(16), revision=element.revision, instance="a"
                )
                known[at] = key, replace(element, copy=copy)
                stored.append(NewFact(key=key, fact=CopyStored(element=known[at][1]), observed_us=now[0]))
            self._append(ledger, stored, of_elements=True)
            now[0] += 30 * _DAY_US
        ledger.store.close()

    def _changes(
        self, known: list[tuple[StreamKey, Element]], draw: random.Random
    ) -> tuple[list[int], list[tuple[StreamKey, RemoteChanged | RemoteVanished]]]:
        """Return what is to be stored anew, and what the listing says; `known` moves on."""
        present = [at for at, (_, element) in enumerate(known) if element.present]
        drawn = draw.sample(present, int(self.elements * (CHANGED + VANISHED)))
        gone = set(drawn[: int(self.elements * VANISHED)])
        listed: list[tuple[StreamKey, RemoteChanged | RemoteVanished]] = []
        for at in sorted(drawn):
            key, element = known[at]
            if at in gone:
                known[at] = key, replace(element, present=False)
                listed.append((key, RemoteVanished(element=known[at][1])))
            else:
                known[at] = key, replace(element, revision=element.revision + 1, date=element.date + 60)
                listed.append((key, RemoteChanged(element=known[at][1])))
        return sorted(set(drawn) - gone), listed

    def _append(self, ledger: Ledger, facts: list[NewFact], *, of_elements: bool = False) -> None:
        after = self.parts[-1].until if self.parts else 0
        until = after
        for start in range(0, len(facts), _BATCH):
            until = ledger.append(facts[start : start + _BATCH]).last
        if until > after:
            self.parts.append(_Part(after=after, until=until, is_of_elements=of_elements))


def _multiply(sql: sqlite3.Connection, parts: list[_Part], small: int, times: int) -> int:
    """Fill the tables of the large ledger, and return its last position."""
    columns = [row[1] for row in sql.execute("PRAGMA main.table_info(event)")]
    placed = {"seq": "seq - :after + :base", "stream": "stream + :streams"}
    chosen = ", ".join(placed.get(name, name) for name in columns)
    sql.execute("CREATE TEMP TABLE part (after INTEGER, until INTEGER, base INTEGER, step INTEGER)")
    head = 0
    for part in parts:
        size, copies = part.until - part.after, times if part.is_of_elements else 1
        sql.execute("INSERT INTO part VALUES (?, ?, ?, ?)", (part.after, part.until, head, size if copies > 1 else 0))
        for number in range(copies):
            values = {"after": part.after, "until": part.until, "base": head, "streams": number * small}
            sql.execute(
                f"INSERT INTO main.event ({', '.join(columns)}) SELECT {chosen} FROM seed.event"
                " WHERE seq > :after AND seq <= :until ORDER BY seq",
                values,
            )
            head += size
        sql.execute(
            "INSERT INTO main.batch (last, first, recorded_us) SELECT ?, ?, recorded_us FROM seed.event WHERE seq = ?",
            (head, head - size * copies + 1, part.until),
        )
    placed = {"seq": "entry.seq - after + base + :number * step", "stream": "stream + :streams"}
    columns = [row[1] for row in sql.execute("PRAGMA main.table_info(entry)")]
    chosen = ", ".join(placed.get(name, name) for name in columns)
    for number in range(times):
        sql.execute(
            f"INSERT INTO main.entry ({', '.join(columns)}) SELECT {chosen} FROM seed.entry AS entry"
            " JOIN part ON seq > after AND seq <= until ORDER BY stream",
            {"number": number, "streams": number * small},
        )
    sql.execute(
        "INSERT INTO main.source SELECT no, id, stream, version, seq - after + base FROM seed.source"
        " JOIN part ON seq > after AND seq <= until"
    )
    sql.execute("INSERT INTO main.stream SELECT * FROM seed.stream WHERE id <= 2")
    sql.execute("DELETE FROM main.head")
    sql.execute("INSERT INTO main.head SELECT * FROM seed.head")
    sql.execute(
        "UPDATE main.head SET position = ?, streams = streams + ?, frontier = zeroblob(?)",
        (head, small * (times - 1), 32 * head.bit_count()),
    )
    return head
