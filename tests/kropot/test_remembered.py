"""A replica whose disk is away is not begun a second time: where it lies is remembered outside of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from kropot.remembered import ForgetfulError, RememberedReplica, ReplicaAwayError
from ledger.sql import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return this test's own state folder, which does not exist yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_what_is_remembered_is_missed_and_nothing_else(state: Path, tmp_path: Path) -> None:
    mine = RememberedReplica.at(f"sqlite:///{tmp_path}/usb/ledger.db", tmp_path / "usb" / "storage")
    mine.demand_new()
    mine.remember()
    mine.remember()
    assert len(list(state.rglob("*.json"))) == 1
    with pytest.raises(ReplicaAwayError, match=r"mount its disk.*db recover --from-storage.*db init"):
        mine.demand_new()
    RememberedReplica.at(f"sqlite:///{tmp_path}/other.db", tmp_path / "other").demand_new()
    # The same database with another storage, and the same storage with another database.
    with pytest.raises(ReplicaAwayError, match="has collected into one there"):
        RememberedReplica.at(f"sqlite:///{tmp_path}/usb/../usb/ledger.db", tmp_path / "other").demand_new()
    with pytest.raises(ReplicaAwayError, match=r"belongs to another one \(.*/usb/ledger.db\)"):
        RememberedReplica.at(f"sqlite:///{tmp_path}/other.db", tmp_path / "usb" / "storage").demand_new()


def test_a_marker_holds_no_secret(state: Path, tmp_path: Path) -> None:
    url = "postgresql://collector:geheim-17@db.example/kropot?sslpassword=geheim-18"
    RememberedReplica.at(url, tmp_path).remember()
    (marker,) = state.rglob("*.json")
    assert "geheim" not in marker.read_text() + marker.name
    assert "db.example/kropot" in json.loads(marker.read_text())["database"]
    with pytest.raises(ReplicaAwayError) as missed:
        RememberedReplica.at(url.replace("geheim-17", "a new password"), tmp_path).demand_new()
    assert "geheim" not in str(missed.value)


def test_a_damaged_marker_still_says_that_there_was_a_ledger(state: Path, tmp_path: Path) -> None:
    RememberedReplica.at("sqlite:///a.db", tmp_path).remember()
    (marker,) = state.rglob("*.json")
    marker.write_text("")
    with pytest.raises(ReplicaAwayError, match="belongs to another one"):
        RememberedReplica.at("sqlite:///b.db", tmp_path).demand_new()


def test_a_state_folder_that_cannot_be_used_is_named(state: Path, tmp_path: Path) -> None:
    state.write_text("a file, and no folder")
    for act in (
        RememberedReplica.at("sqlite:///a.db", tmp_path).remember,
        RememberedReplica.at("sqlite:///a.db", tmp_path).demand_new,
    ):
        with pytest.raises(
            ForgetfulError, match=r"cannot remember where this replica is \(.*state/.*\).*XDG_STATE_HOME"
        ):
            act()


@pytest.mark.usefixtures("state")
def test_collect_makes_nothing_where_a_replica_is_away(run_cli: RunCli, tmp_path: Path) -> None:
    def collect(**env: str) -> tuple[int, str]:
        done = run_cli("collect", "--once", "--server-url", "http://127.0.0.1:9", env={"KROPOT_TOKEN": "abcdef", **env})
        return done.returncode, done.stderr

    # A first collect makes ledger and storage; here no server answers it.
    collect()
    assert (tmp_path / "database.db").exists()
    assert (tmp_path / "storage" / "objects").is_dir()
    (tmp_path / "database.db").rename(tmp_path / "away.db")
    (tmp_path / "storage").rename(tmp_path / "away")
    before = sorted(tmp_path.iterdir())
    code, told = collect()
    assert code == Exit.ERROR
    assert told.splitlines()[-1].startswith(
        f"error: there is no ledger at {tmp_path}/database.db, although this user has"
    )
    assert sorted(tmp_path.iterdir()) == before
    # The disk is mounted again; or a person says that this is a new replica.
    (tmp_path / "away.db").rename(tmp_path / "database.db")
    assert "no ledger" not in collect()[1]
    (tmp_path / "database.db").unlink()
    assert run_cli("db", "init").returncode == 0
    assert "no ledger" not in collect()[1]
    # Without a state folder it says so, and works.
    (tmp_path / "state-file").write_text("")
    new = {"KROPOT_DB_STRING": "sqlite:///new.db", "KROPOT_STORAGE_PATH": "new"}
    _, told = collect(XDG_STATE_HOME=str(tmp_path / "state-file"), **new)
    assert "warning: cannot remember where this replica is" in told
    open_store(f"sqlite:///{tmp_path}/new.db", read_only=True).close()
