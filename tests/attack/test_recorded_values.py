"""Well-formed but hostile values in a ledger, as a keeper may hand it over: no command crashes over them."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.cli.base import Exit
from kropot.cli.failures import explain
from kropot.cli.main import cli
from kropot.errors import KropotError
from kropot.objects.directory import DirectoryObjects
from ledger.bounds import MAX_INT, MAX_US, MIN_INT
from ledger.errors import LedgerError
from ledger.events import (
    AuditAdvanced,
    AuditRange,
    Copy,
    CopyStored,
    Element,
    Fact,
    Failure,
    FetchFailed,
    HeldListing,
    ListingAdvanced,
    RemoteObserved,
    StreamKey,
    Surge,
)
from ledger.log import AUDIT_KEY, Ledger, NewFact, source_key
from ledger.sql import open_store
from tests.attack.ranges import drawn
from tests.ledger.world import SOURCE, began, element, source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = (
    ("status",),
    ("status", "--check"),
    ("ls",),
    ("--json", "ls", "--failing"),
    ("history", "e"),
    ("replay",),
    ("replay", "--list"),
    ("restore", "--list-names"),
    ("verify", "--no-record"),
    ("source", "list"),
    ("snapshot",),
    ("rebuild",),
)
COPY = Copy(sha256=bytes(32), size=0, iv=None, revision=1, instance="x")
FAILURE = Failure(reason="x\x1b[31m\ny", attempts=MAX_INT, since_us=MAX_US, next_try_us=MAX_US)


def _element(**fields: object) -> Callable[[], Fact]:
    return lambda: RemoteObserved(element=replace(element(), **fields))  # type: ignore[arg-type]


def _source(**fields: object) -> Callable[[], Fact]:
    return lambda: ListingAdvanced(source=replace(source(SOURCE.hex()), **fields))  # type: ignore[arg-type]


CASES: dict[str, Callable[[], Fact]] = {
    "last date": _element(date=MAX_INT),
    "first date": _element(date=MIN_INT),
    "last times of a failure": lambda: FetchFailed(element=replace(element(), failure=FAILURE)),
    "form that is not JSON": _element(form=b"\xff\x00"),
    "deep form": _element(form=b"[" * 900_000),
    "form with NaN": _element(form=b'{"mtime_ns":1e999,"mode":NaN}'),
    "form with a long number": _element(form=b'{"mtime_ns":' + b"9" * 5000 + b"}"),
    "largest copy": lambda: CopyStored(element=replace(element(), copy=replace(COPY, size=MAX_INT))),
    "zone that is a path": _element(tz="../../../../etc/passwd"),
    "last revision": _element(revision=MAX_INT),
    "last epoch": _element(epoch=MAX_INT),
    "last listing": _source(listed_us=MAX_US, full_listed_us=MAX_US, cursor=MAX_INT),
    "first cursor": _source(cursor=MIN_INT),
    "unlistable ends of time": _source(unlistable=(MAX_INT, MIN_INT)),
    "address with escapes": _source(urls=("http://a\x1b]0;x\x07\nhealthy",)),
    "held listing": _source(held=HeldListing(known=MAX_INT, missing=MAX_INT, reason="empty", since_us=MAX_US)),
    "surge": _source(surge=Surge(changed=MAX_INT, known=0, since_us=MAX_US)),
    "churn": _source(churn=tuple((hour, MAX_INT) for hour in range(20_000))),
    "zone shifts": _source(zone="\x00/etc/passwd", zone_shifts=((MAX_INT,),) * 1000),
    "audited at the end of time": lambda: AuditAdvanced(
        ranges=(AuditRange(at_us=MAX_US, end=b"\xff" * 32, position=MAX_INT, start=bytes(32)),) * 3
    ),
    "audit that ends before it starts": lambda: AuditAdvanced(
        ranges=(AuditRange(at_us=0, end=bytes(32), position=0, start=b"\xff" * 32),)
    ),
}
REFUSED: dict[str, Callable[[], Fact]] = {
    "time of a try": lambda: FetchFailed(element=replace(element(), failure=replace(FAILURE, next_try_us=MAX_INT))),
    "time of a hold": _source(held=HeldListing(known=1, missing=1, reason="empty", since_us=MAX_INT)),
    "time of a surge": _source(surge=Surge(changed=1, known=1, since_us=MAX_INT)),
    "no address": _source(urls=()),
}


def _new(fact: Fact, *, id_: str = "e", kind: str = "file") -> NewFact:
    key = {AuditAdvanced: AUDIT_KEY, ListingAdvanced: source_key(SOURCE)}.get(type(fact))
    return NewFact(key=key or StreamKey(source=SOURCE, kind=kind, id=id_), fact=fact, observed_us=1)


def _run(folder: Path, *args: str) -> tuple[int, str]:
    where = ["--db-string", f"sqlite:///{folder}/ledger.db", "--storage-path", str(folder / "storage")]
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown):
        try:
            code = cli.main([*where, *args], standalone_mode=False) or 0
        except (KropotError, LedgerError, OSError) as error:
            sentence, code = explain(error)
            shown.write(sentence)
    return int(code), shown.getvalue()


def _answers(folder: Path, id_: str = "e") -> None:
    for command in COMMANDS:
        code, shown = _run(folder, *[id_ if word == "e" else word for word in command])
        known = {Exit.DONE, Exit.USAGE, Exit.PARTIAL, Exit.FINDINGS, Exit.WRONG_KEY}
        assert code in known, (command, code, shown[-500:])
        assert "\x1b" not in shown, command


def _withstands(folder: Path, *facts: NewFact, id_: str = "e") -> None:
    (folder / "storage" / "objects").mkdir(parents=True)
    store = open_store(f"sqlite:///{folder}/ledger.db", create=True)
    ledger = Ledger(store, writer="m")
    ledger.append([began()])
    ledger.append(facts)
    store.close()
    _answers(folder, id_)


ONCE_CRASHED = ("last date", "last times of a failure", "held listing", "surge")


@pytest.mark.parametrize("name", drawn(CASES, always=ONCE_CRASHED, more=4))
def test_no_command_crashes_over_a_value(tmp_path: Path, name: str) -> None:
    fact = CASES[name]()
    observed: Element | None = getattr(fact, "element", None)
    first = [] if observed is None else [_new(RemoteObserved(element=replace(observed, copy=None, failure=None)))]
    _withstands(tmp_path, *first, *([] if type(fact) is RemoteObserved else [_new(fact)]))


@pytest.mark.parametrize("id_", ["..", "a\nb", "a\x1b[2Jb"])
def test_no_command_crashes_over_an_id(tmp_path: Path, id_: str) -> None:
    _withstands(tmp_path, _new(RemoteObserved(element=element()), id_=id_), id_=id_)


def test_no_command_crashes_over_a_type(tmp_path: Path) -> None:
    _withstands(tmp_path, _new(RemoteObserved(element=element()), kind="\x1b[2J/.."))


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_value_out_of_bounds_is_refused_when_it_is_appended(tmp_path: Path, make: Callable[[], Fact]) -> None:
    store = open_store(f"sqlite:///{tmp_path}/ledger.db", create=True)
    ledger = Ledger(store, writer="m")
    ledger.append([began()])
    with pytest.raises(LedgerError, match="not allowed"):
        ledger.append([_new(make())])
    assert ledger.head().position == 2
    store.close()


ONCE_BROKE = (
    "DELETE FROM head",
    "UPDATE head SET position = 1 << 62",
    "UPDATE head SET streams = 1 << 62",
    "DELETE FROM source",
    "UPDATE source SET no = 9",
    "UPDATE source SET seq = 1 << 62",
    "UPDATE tally SET source = 99 WHERE state = 'pending'",
    "UPDATE stream SET key = CAST(substr(key, 1, 21) || x'ff' AS BLOB) WHERE id = 3",
)
BROKEN = (
    *ONCE_BROKE,
    "UPDATE head SET recorded_us = 9223372036854775807",
    "UPDATE tally SET elements = 9223372036854775807",
    "UPDATE entry SET seq = 1 << 62",
    "UPDATE entry SET due_us = 9223372036854775807",
    "DELETE FROM entry",
)


@pytest.mark.parametrize("statement", drawn(BROKEN, always=ONCE_BROKE, more=2))
def test_no_command_crashes_over_a_broken_row(tmp_path: Path, statement: str) -> None:
    """Whoever can write the database can write this; every command still ends with a sentence."""
    _withstands(tmp_path, _new(RemoteObserved(element=element())))
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as sql:
        for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            sql.execute(f"DROP TRIGGER {name}")
        assert sql.execute(statement).rowcount
        sql.commit()
    _answers(tmp_path)


def test_a_size_that_a_ledger_claims_does_not_cut_few_objects_into_many_parts(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "storage", "main")
    with closing(objects.bulk_reader(objects=2, size=MAX_INT, stopped=lambda: False)) as reader:
        assert len(list(reader.read(bytes(32), b"\xff" * 32, lambda _start, _end: ()))) <= 16
