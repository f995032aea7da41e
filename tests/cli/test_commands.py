"""The commands that read a ledger, as a user starts them: what they print, what they refuse, how they end."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from ledger.events import (
    SOURCE_KIND,
    Copy,
    CopyStored,
    Failure,
    FetchFailed,
    HeldListing,
    ListingHeldBack,
    RemoteObserved,
    SourceBegan,
    StreamKey,
)
from ledger.log import Ledger, NewFact
from ledger.sql import open_store
from tests.ledger.fresh import fresh_element, fresh_listing, fresh_source

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

ONE = bytes.fromhex("a1" + "00" * 15)
TWO = bytes.fromhex("b2" + "00" * 15)
NOW = 1_750_000_000_000_000

ELEMENT = fresh_element(date=1_700_000_000, form=b"{}")
COPY = Copy(sha256=b"\x11" * 32, size=48, iv=b"\x22" * 16, revision=1, instance="main")
FAILURE = Failure(reason="http_500", attempts=3, since_us=NOW, next_try_us=NOW + 1)
SOURCE = fresh_source(urls=("https://a.example",), cursor=1_700_000_000, listed_us=NOW, full_listed_us=NOW)
KIT = {
    "secureCopyEncryptionKey": "a-key-of-a-test",
    "secureCopyEncryptionMethod": "aes-256-cbc",
    "secureCopyDigestMethod": "sha512",
    "secureCopyDigestRounds": 1,
}
NO_LISTING = fresh_listing(seen=70)


def element(id_: str, source: bytes = ONE) -> StreamKey:
    return StreamKey(source=source, kind="file", id=id_)


def source_key(source: bytes) -> StreamKey:
    return StreamKey(source=source, kind=SOURCE_KIND, id="")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Return a ledger with two sources: one element stored, one pending, one failing, one in both sources."""
    path = tmp_path / "database.db"
    store = open_store(f"sqlite:///{path}", create=True)
    ledger = Ledger(store, clock=lambda: NOW)
    facts = [
        (source_key(ONE), SourceBegan(source=SOURCE)),
        (source_key(TWO), SourceBegan(source=replace(SOURCE, urls=("https://b.example",)))),
        (element("stored"), RemoteObserved(element=ELEMENT)),
        (element("stored"), CopyStored(element=replace(ELEMENT, copy=COPY))),
        (element("pending"), RemoteObserved(element=ELEMENT)),
        (element("failing"), RemoteObserved(element=ELEMENT)),
        (element("failing"), FetchFailed(element=replace(ELEMENT, failure=FAILURE))),
        (element("both"), RemoteObserved(element=ELEMENT)),
        (element("both", TWO), RemoteObserved(element=ELEMENT)),
    ]
    ledger.append([NewFact(key=key, fact=fact, observed_us=NOW) for key, fact in facts])
    store.close()
    return path


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def listed(run_cli: RunCli, *args: str) -> list[str]:
    done = run_cli("ls", "--json", *args)
    assert done.returncode == 0, done.stderr
    return [f"{str(row['source'])[:2]}:{row['id']}" for row in rows(done.stdout)]


@pytest.mark.parametrize(
    "args",
    [
        ["ls"],
        ["status"],
        ["source", "list"],
        ["source", "accept"],
        ["source", "alias", "a1", "--server-url", "https://c.example"],
        ["rebuild"],
        ["history", "x"],
        ["verify"],
        ["replay"],
        ["restore", "--key", "x", "--to", "y"],
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_a_missing_ledger_exits_10_with_its_absolute_path_and_is_not_made(
    run_cli: RunCli, tmp_path: Path, args: list[str]
) -> None:
    (tmp_path / "x").write_text(json.dumps(KIT))
    before = set(tmp_path.iterdir())
    done = run_cli(*args)
    assert done.returncode == 10, done.stderr
    assert str(tmp_path / "database.db") in done.stderr
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "args",
    [
        ["ls"],
        ["status"],
        ["collect", "--once", "--server-url", "http://127.0.0.1:1"],
        ["db", "init"],
        ["db", "upgrade"],
        ["rebuild"],
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_the_first_clients_database_is_refused_and_left_as_it_was(
    run_cli: RunCli, tmp_path: Path, args: list[str]
) -> None:
    path = tmp_path / "database.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE replication_log (element_id TEXT)")
        connection.execute("INSERT INTO replication_log VALUES ('x')")
    connection.close()
    before = path.read_bytes()
    done = run_cli(*args, env={"KROPOT_TOKEN": "a-token-of-a-test"})
    assert done.returncode == 1
    assert "replication_log" in done.stderr
    assert "--db-string" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
        ("nonsense", 2, "does not name a database: try sqlite:///"),
        ("sqlite://", 2, "needs a file"),
        ("mssql://host/name", 2, "'mssql' cannot hold a ledger"),
        ("sqlite:///letter.txt", 1, "letter.txt is not an SQLite database"),
        ("sqlite:///.", 1, "Is a directory"),
    ],
)
def test_a_database_that_is_none_is_told_in_one_sentence(
    run_cli: RunCli, tmp_path: Path, url: str, code: int, told: str
) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader, " * 100)
    done = run_cli("--db-string", url, "status")
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


@pytest.mark.usefixtures("filled")
def test_elements_are_listed_and_filtered(run_cli: RunCli) -> None:
    assert listed(run_cli) == ["a1:both", "a1:failing", "a1:pending", "a1:stored", "b2:both"]
    assert listed(run_cli, "--state", "current") == ["a1:stored"]
    assert listed(run_cli, "--state", "current", "--state", "pending", "--source", "a") == [
        "a1:both",
        "a1:failing",
        "a1:pending",
        "a1:stored",
    ]
    assert listed(run_cli, "--failing") == ["a1:failing"]
    assert listed(run_cli, "--source", "b2") == ["b2:both"]
    assert listed(run_cli, "stored", "b2:both") == ["a1:stored", "b2:both"]


@pytest.mark.usefixtures("filled")
def test_a_listed_element_shows_its_copy_and_its_failure(run_cli: RunCli) -> None:
    (row,) = rows(run_cli("ls", "--json", "stored").stdout)
    assert row["copy"] == {"sha256": "11" * 32, "size": 48, "iv": "22" * 16, "revision": 1, "instance": "main"}
    (row,) = rows(run_cli("ls", "--json", "failing").stdout)
    assert row["failure"] == {
        "reason": "http_500",
        "attempts": 3,
        "since": "2025-06-15T15:06:40.000000Z",
        "next_try": "2025-06-15T15:06:40.000001Z",
    }
    assert "11" * 32 in run_cli("ls", "stored").stdout


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("name", "told"),
    [("both", "SOURCE:ID"), ("nothing", "no element"), ("c3:both", "no element"), ("n", "4 characters or more")],
)
def test_an_ambiguous_or_unknown_element_exits_2(run_cli: RunCli, name: str, told: str) -> None:
    done = run_cli("ls", name)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.usefixtures("filled")
def test_an_unknown_source_exits_2(run_cli: RunCli) -> None:
    assert run_cli("ls", "--source", "c").returncode == 2
    assert run_cli("source", "accept", "c").returncode == 2


@pytest.mark.usefixtures("filled")
def test_sources_are_listed_without_salt_or_mac(run_cli: RunCli) -> None:
    found = rows(run_cli("source", "list", "--json").stdout)
    assert [row["url"] for row in found] == ["https://a.example", "https://b.example"]
    assert found[0]["states"] == {
        "current": {"elements": 1, "bytes": 48},
        "pending": {"elements": 3, "bytes": 0},
    }
    assert not {"salt", "token_mac"} & set(found[0])


@pytest.mark.usefixtures("filled")
def test_a_moved_server_is_recorded_once(run_cli: RunCli) -> None:
    args = ("source", "alias", "a1", "--server-url", "https://new.example/", "--json")
    assert json.loads(run_cli(*args).stdout)["changed"] is True
    assert json.loads(run_cli(*args).stdout)["changed"] is False
    (first, _) = rows(run_cli("source", "list", "--json").stdout)
    assert first["urls"] == ["https://a.example", "https://new.example"]


def test_what_was_held_back_is_accepted_once(run_cli: RunCli, filled: Path) -> None:
    assert "nothing to accept" in run_cli("source", "accept").stdout
    store = open_store(f"sqlite:///{filled}")
    ledger = Ledger(store, clock=lambda: NOW)
    held = replace(SOURCE, held=HeldListing(reason="missing", missing=30, known=100, since_us=NOW))
    fact = ListingHeldBack(source=held, listing=NO_LISTING)
    ledger.append([NewFact(key=source_key(ONE), fact=fact, observed_us=NOW)])
    store.close()
    alarms = json.loads(run_cli("status", "--json").stdout)["alarms"]
    assert "vanishing_held" in [alarm["name"] for alarm in alarms]
    assert json.loads(run_cli("source", "accept", "--json").stdout)["accepted"] == [ONE.hex()]
    alarms = json.loads(run_cli("status", "--json").stdout)["alarms"]
    assert "vanishing_held" not in [alarm["name"] for alarm in alarms]
    assert json.loads(run_cli("source", "accept", "--json").stdout)["accepted"] == []


@pytest.mark.usefixtures("filled")
def test_status_exits_3_only_when_it_is_asked_to_check(run_cli: RunCli) -> None:
    # The ledger is of 2025, hence its last listing is long ago.
    assert run_cli("status").returncode == 0
    done = run_cli("status", "--check", "--json")
    assert done.returncode == 3
    status = json.loads(done.stdout)
    assert status["healthy"] is False
    assert {source["source"] for source in status["sources"]} == {ONE.hex(), TWO.hex()}
    assert status["sources"][0]["failing"]["reasons"] == {"http_500": 1}


def test_status_check_exits_0_when_all_is_well(run_cli: RunCli, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'database.db'}", create=True)
    now = time.time_ns() // 1000
    fact = SourceBegan(source=replace(SOURCE, listed_us=now))
    Ledger(store).append([NewFact(key=source_key(ONE), fact=fact, observed_us=now)])
    store.close()
    done = run_cli("status", "--check")
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("healthy")
    # Cron mails what is printed.
    assert run_cli("--quiet", "status", "--check").stdout == ""
    assert run_cli("--quiet", "status").stdout.rstrip().endswith("healthy")


def test_status_check_exits_3_when_a_source_was_never_listed(run_cli: RunCli, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'database.db'}", create=True)
    fact = SourceBegan(source=replace(SOURCE, listed_us=None))
    Ledger(store).append([NewFact(key=source_key(ONE), fact=fact, observed_us=NOW)])
    store.close()
    done = run_cli("--quiet", "status", "--check")
    assert done.returncode == 3
    assert "never_listed" in done.stdout


def test_a_rebuild_brings_back_the_same_rows(run_cli: RunCli, filled: Path) -> None:
    before = run_cli("ls", "--json").stdout, run_cli("status", "--json").stdout
    done = run_cli("rebuild", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["entries"] == 5
    after = run_cli("ls", "--json").stdout, run_cli("status", "--json").stdout
    assert after[0] == before[0]
    assert json.loads(after[1])["sources"][0]["states"] == json.loads(before[1])["sources"][0]["states"]
    assert filled.exists()
