"""`kropotcli db` as a user starts it: make, describe, move, and the sentences when it cannot be done."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kropot.cli.main import cli
from ledger.log import Ledger
from ledger.sql import open_store
from ledger.sql.schema import REVISION
from tests.ledger.databases import SQL_KINDS, fresh_url
from tests.ledger.world import began, copied, observed

if TYPE_CHECKING:
    from tests.conftest import RunCli


def fill(url: str, elements: int = 20) -> bytes:
    """Make a ledger and return its root."""
    store = open_store(url, create=True)
    ledger = Ledger(store)
    ledger.append([began(), *(observed(n) for n in range(elements))])
    ledger.append([copied(n) for n in range(elements)])
    root = ledger.head().frontier.root
    store.close()
    return root


@pytest.mark.parametrize("kind", SQL_KINDS)
def test_a_database_is_made_and_described(kind: str, tmp_path: Path, run_cli: RunCli) -> None:
    with fresh_url(kind, tmp_path) as url:
        missing = run_cli("db", "info", env={"KROPOT_DB_STRING": url})
        assert (missing.returncode, missing.stdout) == (10, "")
        for _ in range(2):
            made = run_cli("--db-string", url, "db", "init")
            assert made.returncode == 0, made.stderr
            assert "is ready" in made.stdout
        root = fill(url)
        info = run_cli("db", "info", "--json", "--db-string", url)
        assert info.returncode == 0, info.stderr
        found = json.loads(info.stdout)
        assert (found["position"], found["root"], found["schema"]) == (42, root.hex(), REVISION)
        assert found["protection"] == "triggers"
        assert found["bytes"] > 10_000
        shown = run_cli("db", "info", "--db-string", url)
        assert "stop accidents" in shown.stdout
        same = run_cli("db", "upgrade", "--db-string", url)
        assert "nothing to do" in same.stdout


def test_a_missing_ledger_is_not_upgraded(run_cli: RunCli) -> None:
    result = run_cli("db", "upgrade", "--db-string", "sqlite:///nothing.db")
    assert result.returncode == 10
    assert "nothing.db" in result.stderr


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_a_ledger_moves_to_another_database_and_back(kind: str, tmp_path: Path, run_cli: RunCli) -> None:
    start, end = f"sqlite:///{tmp_path / 'start.db'}", f"sqlite:///{tmp_path / 'end.db'}"
    root = fill(start)
    with fresh_url(kind, tmp_path) as url:
        for source, target in ((start, url), (url, end)):
            result = run_cli("db", "copy", source, target, "--json")
            assert result.returncode == 0, result.stderr
            report = json.loads(result.stdout)
            assert (report["events"], report["position"], report["root"]) == (42, 42, root.hex())
    again = run_cli("db", "copy", start, end)
    assert again.returncode == 0
    assert "copied 0 events" in again.stdout
    rows = [
        sqlite3.connect(tmp_path / name).execute("SELECT * FROM event ORDER BY seq").fetchall()
        for name in ("start.db", "end.db")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 42


def test_a_copy_is_refused_where_it_would_overwrite_or_finds_nothing(tmp_path: Path, run_cli: RunCli) -> None:
    one, two = f"sqlite:///{tmp_path / 'one.db'}", f"sqlite:///{tmp_path / 'two.db'}"
    fill(one)
    fill(two)
    other = run_cli("db", "copy", one, two)
    assert other.returncode == 1
    assert "a different ledger" in other.stderr
    nothing = run_cli("db", "copy", f"sqlite:///{tmp_path / 'no.db'}", f"sqlite:///{tmp_path / 'made.db'}")
    assert nothing.returncode == 10
    assert not (tmp_path / "made.db").exists()


def test_a_damaged_ledger_is_not_copied_silently(tmp_path: Path, run_cli: RunCli) -> None:
    one, two = f"sqlite:///{tmp_path / 'one.db'}", f"sqlite:///{tmp_path / 'two.db'}"
    fill(one)
    database = sqlite3.connect(tmp_path / "one.db")
    database.execute("DROP TRIGGER event_update")
    database.execute("UPDATE event SET payload = (SELECT payload FROM event WHERE seq = 30) WHERE seq = 8")
    database.commit()
    database.close()
    result = run_cli("db", "copy", one, two)
    assert result.returncode == 4
    assert "event 8" in result.stderr


def test_no_password_reaches_the_screen(run_cli: RunCli, free_port: int) -> None:
    url = f"postgresql://user:hunter2hunter2@127.0.0.1:{free_port}/ledger"
    for args in (
        ("db", "info", "--db-string", url),
        ("db", "init", "--db-owner-url", url, "--db-string", url),
        ("db", "copy", url, url),
        ("--log-level", "debug", "db", "copy", "sqlite:///x.db", f"{url}?password=hunter2hunter2"),
    ):
        result = run_cli(*args)
        assert result.returncode in {1, 10}
        assert "hunter2" not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr


def test_sqlite_has_no_owner(tmp_path: Path, run_cli: RunCli) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    result = run_cli("db", "init", "--db-string", url, "--db-owner-url", url)
    assert result.returncode == 1
    assert "has no users" in result.stderr


@pytest.mark.parametrize("command", [["db", "init"], ["db", "recover", "--from-storage"]])
def test_a_ledger_whose_triggers_the_server_refuses_is_made_with_a_warning(
    command: list[str],
    tmp_path: Path,
    ledger_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    storage = Path(__file__).parents[1] / "vectors" / "replicas" / "0001" / "storage"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ledger.sql.opening._guard", lambda *_, **__: False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--db-string", ledger_url, "--storage-path", str(storage), *command], prog_name="kropotcli")
    told = capfd.readouterr()
    assert (ended.value.code or 0) == 0, told.err
    assert told.err.count("refuses triggers to this user") == 1
    # What it points to names the way out.
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert '"Servers with a binary log"' in told.err
    assert "log_bin_trust_function_creators = 1" in page.partition("**Servers with a binary log**")[2]
