"""What `replay`, `history` and `snapshot` say on the command line, and with which exit code."""

from __future__ import annotations

import base64
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kropot.replay.kept import MARKS, Checksums
from kropot.replay.marks import encode, state_at
from kropot.replay.sd1 import digest_at
from kropot.replay.snapshots import take_snapshot
from kropot.wording import instant
from ledger.checkpoint import Checkpoint, SigningKey, origin_of, sign_checkpoint
from tests.kropot.replay_world import random_life

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli
    from tests.kropot.replay_cli import Run
    from tests.kropot.replay_world import World


pytest_plugins = ["tests.kropot.replay_cli"]

# --- replay ----------------------------------------------------------------------------------------------------------


def test_replay_says_what_the_replica_was(world: World, run: Run) -> None:
    random_life(world, 40)
    answer = run("replay", "--json")
    assert answer.code == 0
    head = world.ledger.head()
    held = answer.json
    assert held["position"] == head.position
    assert held["until"] is None
    assert held["recorded_at"] == instant(head.recorded_us)
    assert held["root"] == head.frontier.root.hex()
    assert held["state_digest"].startswith("sd2:")
    assert set(held["source_digests"]) == {key.source.hex() for key in world.elements}
    assert held["elements"] == len(world.elements)
    assert held["elements"] == sum(held[state] for state in ("current", "pending", "vanished", "damaged", "lost"))
    assert {"copies", "bytes"} <= set(held)
    assert len(answer.out.splitlines()) == 1
    assert held["state_digest"] in run("replay").out


def test_every_form_of_when_leads_to_the_same_moment(world: World, run: Run, tmp_path: Path) -> None:
    random_life(world, 40)
    records = [record for record in world.ledger.events() if record.recorded_us > world.ledger.head().recorded_us // 2]
    at = records[len(records) // 2].recorded_us
    position = max(record.position for record in records if record.recorded_us < at)
    key = SigningKey.generate("test", os.urandom)
    checkpoint = Checkpoint(
        origin=origin_of(world.ledger.identity().ledger_id),
        size=position,
        root=world.ledger.frontier_at(position).root,
    )
    (tmp_path / "checkpoint").write_bytes(sign_checkpoint(checkpoint, key))
    answers = [
        run("replay", "--json", "--until", text)
        for text in (instant(at), f"@{position}", str(tmp_path / "checkpoint"), instant(at).replace("Z", "+00:00"))
    ]
    assert [answer.code for answer in answers] == [0] * 4
    assert len({(answer.json["position"], answer.json["root"], answer.json["state_digest"]) for answer in answers}) == 1
    assert answers[0].json["position"] == position
    assert answers[0].json["until"] == instant(at)


def test_a_naive_time_and_a_future_one_are_explained(world: World, run: Run) -> None:
    random_life(world, 10)
    assert "read as UTC" in run("replay", "--until", "2020-01-01T10:00").err
    future = run("replay", "--json", "--until", "9999-12-31T23:59:59-23:59")
    assert "the state now" in future.err
    assert "the state now" in future.json["notes"][0]
    assert future.json["position"] == world.ledger.head().position
    assert "the ledger ends at position" in run("replay", "--until", "@999999999").err


def test_before_everything_there_is_nothing(world: World, run: Run) -> None:
    random_life(world, 10)
    held = run("replay", "--json", "--until", "1999-01-01").json
    assert (held["position"], held["elements"], held["recorded_at"]) == (0, 0, None)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "@x", "7", "", "no such file", "a\x00b"])
def test_nonsense_is_a_usage_error_that_lists_the_forms(world: World, run: Run, text: str) -> None:
    random_life(world, 3)
    answer = run("replay", "--until", text)
    assert answer.code == 2
    assert "@120411" in answer.err
    assert "7d" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_checkpoint_of_another_history_is_refused(world: World, run: Run, tmp_path: Path) -> None:
    random_life(world, 10)
    note = f"{origin_of(world.ledger.identity().ledger_id)}\n5\n{base64.b64encode(bytes(32)).decode()}\n"
    (tmp_path / "checkpoint").write_text(note)
    answer = run("replay", "--until", str(tmp_path / "checkpoint"))
    assert answer.code == 4
    assert "kropotcli verify" in answer.err


def test_without_a_ledger_it_says_where_it_looked(run: Run, tmp_path: Path) -> None:
    for command in ("replay", "snapshot"):
        answer = run(command)
        assert answer.code == 10
        assert str(tmp_path / "ledger.db") in answer.err
    assert not (tmp_path / "ledger.db").exists()


def test_no_digest_leaves_it_null_and_counts_the_same(world: World, run: Run) -> None:
    random_life(world, 60)
    run("snapshot")
    random_life(world, 20)
    for until in ("@30", "@70", f"@{world.ledger.head().position}"):
        whole, quick = (
            run("replay", "--json", "--until", until).json,
            run("replay", "--json", "--no-digest", "--until", until).json,
        )
        assert (quick.pop("state_digest"), quick.pop("source_digests")) == (None, {})
        del whole["state_digest"], whole["source_digests"]
        assert quick == whole


def test_the_digest_of_before_can_be_asked_for(world: World, run: Run) -> None:
    random_life(world, 40)
    head = world.ledger.head().position
    answer = run("replay", "--json", "--digest", "sd1").json
    assert answer["state_digest"] == digest_at(world.ledger, head)[1]
    assert answer["source_digests"] == {}
    assert answer["state_digest"] in run("replay", "--digest", "sd1").out
    now = run("replay", "--json").json
    assert now.pop("state_digest").startswith("sd2:")
    assert {name: answer[name] for name in now if name != "source_digests"} == {
        name: now[name] for name in now if name != "source_digests"
    }


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_digest_that_was_written_down_can_be_compared(world: World, run: Run, kind: str) -> None:
    random_life(world, 40)
    told = run("replay", "--json", "--until", "@30", "--digest", kind).json["state_digest"]
    same = run("replay", "--json", "--until", "@30", "--digest", told)
    assert (same.code, same.json["state_digest"]) == (0, told)
    for other in (run("replay", "--until", "@29", "--digest", told), run("replay", "--json", "--digest", told)):
        assert other.code == 4
        assert f"not {told}" in other.err
    for wrong in (told[:-1], told + "0", "sd3", told.upper(), ""):
        answer = run("replay", "--digest", wrong)
        assert answer.code == 2
        assert len(answer.err.splitlines()) == 1


def test_each_source_has_a_digest_of_its_own(world: World, run: Run) -> None:
    random_life(world, 40)
    answer = run("replay", "--json").json
    assert len(answer["source_digests"]) == 2
    shown = run("replay").out.splitlines()
    for source, text in answer["source_digests"].items():
        assert any(line.split() == [source[:8], text] for line in shown), shown


def test_verify_tells_both_digests_and_finds_a_mark_that_lies(world: World, run: Run) -> None:
    random_life(world, 60)
    run("snapshot")
    now, before = run("replay", "--json").json, run("replay", "--json", "--digest", "sd1").json
    digests = (now["state_digest"], before["state_digest"])

    def checked() -> tuple[list[int], tuple[str, str]]:
        *findings, summary = run("verify", "--no-record", "--quick", "--json").lines
        index = summary["covered"]["index"]
        unsound = [finding["position"] for finding in findings if finding["kind"] == "bad_snapshot"]
        return unsound, (index["state_digest"], index["state_digest_sd1"])

    assert checked() == ([], digests)
    text = run("verify", "--no-record", "--quick").out
    assert all(digest in text for digest in digests)

    head = world.ledger.head().position
    chunk = Checksums(world.ledger, MARKS, head).sign(0, encode(state_at(world.ledger, head - 20)))
    world.store.blobs.save_snapshot(MARKS, head, [chunk])
    assert run("replay", "--json").json["state_digest"] != digests[0]
    assert run("replay", "--json", "--no-snapshots").json["state_digest"] == digests[0]
    assert checked() == ([head], digests)
    assert run("verify", "--no-record", "--quick").code == 4


def test_snapshots_change_no_answer(world: World, run: Run) -> None:
    random_life(world, 60)
    before = [run("replay", "--json", "--until", f"@{at}").out for at in (20, 50, 60)]
    assert run("snapshot", "--json").json["taken"]
    assert world.store.blobs.list_snapshots()
    assert [run("replay", "--json", "--until", f"@{at}").out for at in (20, 50, 60)] == before
    assert [run("replay", "--json", "--no-snapshots", "--until", f"@{at}").out for at in (20, 50, 60)] == before
    assert run("snapshot", "--check").code == 0
    assert run("snapshot", "--drop").code == 0
    assert world.store.blobs.list_snapshots() == []


def test_an_unsound_snapshot_is_found_by_the_check(world: World, run: Run) -> None:
    random_life(world, 30)
    run("snapshot")
    kind, position = world.store.blobs.list_snapshots()[0]
    world.store.blobs.save_snapshot(kind, position, [b"nonsense"])
    answer = run("snapshot", "--check", "--json")
    assert answer.code == 4
    assert answer.lines[0]["kind"] == kind
    assert answer.lines[-1] == {"message_type": "snapshots_checked", "checked": 2, "unsound": 1}


def test_the_list_is_ordered_by_key_and_complete(world: World, run: Run) -> None:
    random_life(world, 60)
    rows = run("replay", "--list", "--json").lines
    assert [(row["source"], row["id"]) for row in rows] == [
        (key.source.hex(), key.id) for key in sorted(world.elements, key=lambda key: key.stored)
    ]
    for row in rows:
        assert set(row) == {
            "message_type",
            "present",
            "revision",
            *("source", "type", "id", "date", "tz", "state", "sha256", "size", "iv", "position", "recorded_at"),
        }
    shown = run("replay", "--list").out.splitlines()
    assert len(shown) == len(rows)
    assert rows[0]["id"] in shown[0]


def test_diff_tells_what_happened_between_two_moments_in_either_order(world: World, run: Run) -> None:
    source = world.source(None)
    quiet, changed, gone, hurt, back = (world.put(source, name, b"1") for name in ("q", "c", "g", "h", "b"))
    world.vanish(back)
    then = world.ledger.head().position
    world.see(source, "c", date=1_790_000_500)
    world.vanish(gone)
    world.damage(hurt)
    world.see(source, "b")
    new = world.put(source, "new", b"2")
    world.fail(world.see(source, "late"))
    now = world.ledger.head().position
    one = run("replay", "--until", f"@{then}", "--diff", f"@{now}", "--json")
    other = run("replay", "--until", f"@{now}", "--diff", f"@{then}", "--json")
    assert one.out == other.out
    assert {row["id"]: row["change"] for row in one.lines} == {
        changed.id: "changed",
        gone.id: "vanished",
        hurt.id: "damaged",
        back.id: "reappeared",
        new.id: "added",
        "late": "added",
    }
    assert quiet.id not in one.out
    assert "2 added" in one.err
    assert run("replay", "--diff", f"@{now}").err.strip().endswith("no differences")


def test_questions_are_asked_one_at_a_time(world: World, run: Run) -> None:
    random_life(world, 3)
    assert run("replay", "--list", "--diff", "@1").code == 2


def test_an_export_is_made_told_and_continued(world: World, run: Run, tmp_path: Path) -> None:
    source = world.source()
    kept, bad = world.put(source, "kept", b"1"), world.put(source, "bad", b"2")
    world.see(source, "pending")
    target = str(tmp_path / "export")
    first = run("replay", "--export", target, "--json")
    assert first.code == 0
    assert (first.json["exported"], first.json["existed"], first.json["unstored"]) == (2, 0, 1)
    assert run("replay", "--export", target, "--json").json["existed"] == 2
    copy = world.elements[bad].copy
    assert copy is not None
    (tmp_path / "storage/objects" / copy.sha256.hex()[:2] / copy.sha256.hex()).unlink()
    answer = run("replay", "--export", str(tmp_path / "again"), "--json")
    assert answer.code == 3
    assert answer.lines[0]["problem"] == "missing"
    assert answer.lines[0]["id"] == bad.id
    assert answer.lines[-1]["exported"] == 1
    assert (tmp_path / "again" / kept.id[:2] / kept.id[2:4] / "v1" / kept.id).is_file()


def test_without_storage_an_export_says_where_it_looked(world: World, run: Run, tmp_path: Path) -> None:
    random_life(world, 3)
    (tmp_path / "storage").rename(tmp_path / "elsewhere")
    answer = run("replay", "--export", str(tmp_path / "export"))
    assert answer.code == 2
    assert str(tmp_path / "storage") in answer.err
    assert not (tmp_path / "export").exists()


def test_the_digest_is_the_same_whatever_the_zone_and_hash_seed(world: World, run_cli: RunCli) -> None:
    random_life(world, 40)
    answers = [
        run_cli("replay", "--db-string", "sqlite:///ledger.db", "--json", env={"TZ": zone, "PYTHONHASHSEED": seed})
        for zone, seed in (("UTC", "0"), ("Asia/Kathmandu", "77"))
    ]
    assert answers[0].returncode == 0
    assert answers[0].stdout == answers[1].stdout


def test_looking_back_writes_nothing_into_the_ledger(world: World, run: Run, tmp_path: Path) -> None:
    source = world.source(None)
    key = world.put(source, "a", b"1")
    take_snapshot(world.ledger, 3)
    dump = sqlite_dump(tmp_path / "ledger.db")
    for how in (
        ("replay",),
        ("replay", "--list"),
        ("replay", "--diff", "@2"),
        ("replay", "--export", str(tmp_path / "export")),
        ("history", key.id),
        ("recipe", key.id),
        ("restore", "--to", str(tmp_path / "to")),
        ("snapshot", "--check"),
    ):
        assert run(*how).code == 0
        assert sqlite_dump(tmp_path / "ledger.db") == dump
    assert run("snapshot").code == 0
    assert sqlite_dump(tmp_path / "ledger.db") != dump


def sqlite_dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


# --- history ---------------------------------------------------------------------------------------------------------


def test_history_tells_every_event_oldest_first(world: World, run: Run) -> None:
    source = world.source()
    key = world.see(source, "a.txt")
    world.fail(key)
    world.store_copy(key, b"1")
    world.damage(key)
    world.vanish(key)
    world.put(source, "other", b"2")
    rows = run("history", key.id, "--json").lines
    assert [row["event"] for row in rows] == [
        "RemoteObserved",
        "FetchFailed",
        "CopyStored",
        "CopyDamaged",
        "RemoteVanished",
    ]
    assert [row["version"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[1]["failure"]["reason"] == "truncated"
    assert rows[3]["object"] == rows[2]["sha256"]
    assert rows[2]["position"] < rows[3]["position"]
    shown = run("history", f"{source.hex()[:6]}:{key.id}").out.splitlines()
    assert len(shown) == 5
    assert "truncated, attempt 1" in shown[1]


def test_history_is_one_index_probe(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger.sql.log import SqlLog
    from ledger.sql.projection import SqlProjection

    key = world.put(world.source(), "a.txt", b"1")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a history must not scan")

    erased = SqlLog.streams
    for name in ("page", "pointers", "streams", "streams_by_key", "last_positions"):
        monkeypatch.setattr(SqlLog, name, refuse)
    # Erased streams have an index of their own: looking for them reads nothing else.
    monkeypatch.setattr(
        SqlLog, "streams", lambda log, **how: erased(log, **how) if how == {"erased": True} else refuse()
    )
    for name in ("scan", "page"):
        monkeypatch.setattr(SqlProjection, name, refuse)
    assert len(run("history", key.id).out.splitlines()) == 2


def test_an_unknown_element_is_a_usage_error(world: World, run: Run) -> None:
    random_life(world, 3)
    assert run("history", "nobody").code == 2
