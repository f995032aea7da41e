"""A ledger file of every released schema is opened, upgraded, believed, and gone on with, for ever.

`tests/vectors/ledgers/<revision>.sql` is such a file as SQL text, as it was when that schema was the newest: every kind
of fact, two sources, an erasure, a snapshot, a checkpoint, and a collector in the midst of its work.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from ledger.audit import IndexAudit, LogAudit
from ledger.log import Ledger
from ledger.sql import open_store
from ledger.sql.opening import REVISIONS
from ledger.sql.schema import REVISION
from tests.ledger.world import observed

if TYPE_CHECKING:
    from tests.conftest import RunCli

FOLDER = Path(__file__).parents[1] / "vectors" / "ledgers"


@pytest.fixture(params=REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(revision: str, tmp_path: Path, run_cli: RunCli) -> str:
    """Return the URL of that ledger, upgraded as a user does it."""
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.executescript((FOLDER / f"{revision}.sql").read_text())
    address = f"sqlite:///{tmp_path / 'ledger.db'}"
    upgraded = run_cli("db", "upgrade", "--json", "--db-string", address)
    assert upgraded.returncode == Exit.DONE, upgraded.stderr
    said = json.loads(upgraded.stdout)
    assert (said["before"], said["after"]) == (revision, REVISION)
    return address


def expected(revision: str) -> dict[str, object]:
    return dict(json.loads((FOLDER / f"{revision}.json").read_text()))


def test_it_says_what_it_said_when_it_was_made(revision: str, url: str, run_cli: RunCli) -> None:
    replayed = run_cli("replay", "--json", "--digest", "sd1", "--db-string", url)
    assert replayed.returncode == Exit.DONE, replayed.stderr
    said, before = json.loads(replayed.stdout), expected(revision)
    # Keys may be added, and times have been spelt to the microsecond since.
    assert moment(said) == moment(before)
    assert {name: said[name] for name in before if name != "recorded_at"} == {
        name: value for name, value in before.items() if name != "recorded_at"
    }


def moment(answer: dict[str, object]) -> datetime:
    return datetime.fromisoformat(str(answer["recorded_at"]))


def test_nothing_in_it_is_found_wrong(url: str) -> None:
    store = open_store(url, read_only=True)
    log = LogAudit(store.log)
    assert [*log.findings(), *IndexAudit(store, log).findings()] == []
    assert log.unknown == 0
    assert [size for size, _ in store.blobs.checkpoints()] == [3]
    assert [row.name for row in store.work.instances()] == ["main"]
    store.close()


def test_it_can_be_gone_on_with_and_derived_anew(revision: str, url: str) -> None:
    store = open_store(url)
    ledger = Ledger(store, writer="later")
    last = expected(revision)["position"]
    assert ledger.append([observed("a new one")]).first == int(str(last)) + 1
    tallies = ledger.tallies()
    assert ledger.rebuild().skipped == 0
    assert ledger.tallies() == tallies
    store.close()


def test_its_history_is_guarded(url: str) -> None:
    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in ("UPDATE event SET leaf = x'00' WHERE seq = 2", "DELETE FROM event WHERE seq = 68"):
            with pytest.raises(sqlite3.DatabaseError, match="ledger"):
                connection.execute(statement)
