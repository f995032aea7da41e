"""Damage and loss, found by the program and mended from a real server; what cannot be mended is said plainly."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from contextlib import closing, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import pytest

from kropot.cli.failures import explain
from kropot.cli.main import cli
from kropot.cli.verify import show_summary
from kropot.errors import KropotError
from kropot.lister.conversation import NewEntries
from kropot.securecopy.wire import Listed
from kropot.verify import Summary
from kropot.verify.source import SourceAudit
from kropot.verify.ways_out import Way
from ledger.errors import LedgerError
from ledger.memory import MemoryStore
from tests.kropot.replay_world import World
from tests.oldserver import OldServer, Quirks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {f"file-{number:02d}.bin": bytes([number]) * (1000 + number) for number in range(12)}


class Backup:
    """A replica of a server in a folder, worked on by the commands themselves, in this process."""

    def __init__(self, server: OldServer, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def run(self, *args: str, server: bool = True, code: int = 0) -> list[dict[str, Any]]:
        """Run a command, expect its exit code, return its lines of JSON."""
        where = ["--storage-path", f"{self.folder}/storage", "--db-string", f"sqlite:///{self.folder}/ledger.db"]
        there = ["--token", self.server.token, "--server-url", self.server.url] if server else []
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                found = cli.main(["--json", *where, *there, *args], standalone_mode=False) or 0
            except (KropotError, LedgerError) as error:
                found = explain(error)[1]
        assert found == code, f"{found}\n{out.getvalue()}\n{err.getvalue()}"
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def verify(self, *args: str, server: bool = False, code: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        *findings, summary = self.run("verify", *args, server=server, code=code)
        assert summary["kind"] == "summary"
        return findings, summary

    def copies(self) -> dict[str, dict[str, Any]]:
        """Return the elements' copies by id."""
        return {row["id"]: row["copy"] for row in self.run("ls", server=False)}

    def object(self, sha256: str) -> Path:
        return self.folder / "storage" / "objects" / sha256[:2] / sha256

    def count(self, type_name: str) -> int:
        with closing(sqlite3.connect(self.folder / "ledger.db")) as database:
            return int(database.execute("SELECT count(*) FROM event WHERE type = ?", (type_name,)).fetchone()[0])


@pytest.fixture
def backup(tmp_path: Path) -> Iterator[Backup]:
    with OldServer(FILES) as server:
        made = Backup(server, tmp_path)
        made.run("collect", "--once")
        yield made


def test_damage_is_recorded_and_the_next_collect_mends_it(backup: Backup) -> None:
    (first, one), (second, two) = list(backup.copies().items())[:2]
    backup.object(one["sha256"]).write_bytes(b"rotten")
    backup.object(two["sha256"]).unlink()
    findings, summary = backup.verify(code=4)
    assert {(each["kind"], each["element"]) for each in findings} == {
        ("damaged_object", first),
        ("lost_object", second),
    }
    assert all("collect" in each["hint"] for each in findings)
    assert (summary["errors"], summary["complete"], summary["sound"]) == (2, True, False)
    backup.run("collect", "--once")
    findings, summary = backup.verify()
    assert summary["sound"]
    assert {each["kind"] for each in findings} == {"replaced_object"}
    assert {copy["sha256"] for copy in backup.copies().values()}.isdisjoint({one["sha256"], two["sha256"]})


def test_repair_sets_aside_and_fetches_at_once(backup: Backup) -> None:
    element, copy = next(iter(backup.copies().items()))
    held = bytearray(backup.object(copy["sha256"]).read_bytes())
    held[10] ^= 1
    backup.object(copy["sha256"]).write_bytes(held)
    findings, summary = backup.verify("--repair", server=True)
    kinds = [each["kind"] for each in findings if each["element"] == element]
    assert kinds == ["damaged_object", "repaired_copy"]
    assert (summary["errors"], summary["repaired"], summary["sound"]) == (1, 1, True)
    assert not backup.object(copy["sha256"]).exists()
    (aside,) = (backup.folder / "storage" / "quarantine").iterdir()
    assert aside.read_bytes() == held
    findings, summary = backup.verify()
    assert summary["sound"]
    assert {each["kind"] for each in findings} == {"replaced_object", "quarantined_file"}


def test_repair_without_a_server_says_who_will_fetch(backup: Backup) -> None:
    copy = next(iter(backup.copies().values()))
    backup.object(copy["sha256"]).write_bytes(b"")
    findings, _ = backup.verify("--repair", code=4)
    assert [each["kind"] for each in findings][-1] == "not_repaired"
    assert not backup.object(copy["sha256"]).exists()
    backup.run("collect", "--once")
    assert backup.verify()[1]["sound"]


def test_a_refused_token_promises_no_fetch(backup: Backup) -> None:
    element, copy = next(iter(backup.copies().items()))
    backup.object(copy["sha256"]).unlink()
    backup.server.repository.tokens.clear()
    findings, summary = backup.verify("--repair", server=True, code=4)
    last = [each for each in findings if each["element"] == element][-1]
    assert (last["kind"], last["detail"]) == ("not_repaired", "the server refuses the token")
    assert last["hint"] == Way.REFUSED.value
    assert not summary["sound"]
    findings, _ = backup.verify("--source", server=True, code=4)
    (finding,) = [each for each in findings if each["element"] == element]
    assert (finding["kind"], finding["hint"]) == ("lost_object", Way.REFUSED.value)


def test_a_source_that_another_token_took_over_promises_no_fetch(backup: Backup) -> None:
    element, copy = next(iter(backup.copies().items()))
    backup.object(copy["sha256"]).unlink()
    backup.server.add_token("fd8a0c55-second")  # the wall of secrets hides it from now on, so it is no word
    backup.run("--token", "fd8a0c55-second", "collect", "--once")
    for args in (), ("--repair",):
        findings, _ = backup.verify(*args, server=True, code=4)
        (finding,) = [each for each in findings if each["element"] == element]
        assert finding["hint"] == Way.PAST.value


def test_what_the_source_no_longer_has_is_a_standing_alarm(backup: Backup) -> None:
    gone = next(iter(backup.server.repository.by_name))
    before = backup.copies()
    backup.server.repository.delete(gone)
    backup.run("collect", "--once", "--full")
    (element,) = [row["id"] for row in backup.run("ls", "--state", "vanished", server=False)]
    backup.object(before[element]["sha256"]).unlink()
    for _ in range(2):
        findings, _ = backup.verify("--repair", server=True, code=4)
        (finding,) = [each for each in findings if each["kind"] == "lost_object"]
        assert finding["element"] == element
        assert "cannot be fetched again" in finding["hint"]
    assert backup.count("CopyLost") == 1
    status = backup.run("status", "--check", server=False, code=3)[0]
    assert any("gone" in alarm["text"] or "no longer" in alarm["text"] for alarm in status["alarms"])


def test_a_damaged_old_version_cannot_be_fetched_and_is_said_so(backup: Backup) -> None:
    name = next(iter(backup.server.repository.by_name))
    before = backup.copies()
    at = backup.server.repository.clock()
    backup.server.repository.delete(name)
    backup.server.repository.add(name, b"a new version", at=at)
    backup.run("collect", "--once")
    after = backup.copies()
    (element,) = [each for each in before if before[each]["sha256"] != after[each]["sha256"]]
    backup.object(before[element]["sha256"]).write_bytes(b"rotten")
    for _ in range(2):
        findings, summary = backup.verify("--repair", server=True, code=4)
        (finding,) = [each for each in findings if each["severity"] == "error"]
        assert (finding["element"], finding["object"]) == (element, before[element]["sha256"])
        assert "older revision" in finding["hint"]
        assert summary["repaired"] == 0
    assert backup.copies()[element] == after[element]
    assert backup.count("CopyDamaged") == 1
    assert backup.count("CopyLost") == 0


def test_an_object_of_several_elements_is_mended_for_all_of_them(tmp_path: Path) -> None:
    twins = {"one.bin": b"the same" * 100, "two.bin": b"the same" * 100, "other.bin": b"other" * 100}
    with OldServer(twins, encrypted=False, quirks=Quirks(plain_content_fails=False)) as server:
        backup = Backup(server, tmp_path)
        backup.run("collect", "--once")
        copies = backup.copies()
        shared = [element for element in copies if element.endswith(("one.bin", "two.bin"))]
        assert len({copies[element]["sha256"] for element in shared}) == 1
        backup.object(copies[shared[0]]["sha256"]).write_bytes(b"rotten")
        findings, summary = backup.verify("--repair", server=True)
        assert {each["element"] for each in findings if each["kind"] == "damaged_object"} == set(shared)
        assert {each["element"] for each in findings if each["kind"] == "repaired_copy"} == set(shared)
        assert summary["repaired"] == 2
        assert backup.verify()[1]["sound"]
        assert backup.copies() == copies


def test_found_again_means_not_fetched_again(backup: Backup) -> None:
    element, copy = next(iter(backup.copies().items()))
    away = backup.folder / "elsewhere"
    backup.object(copy["sha256"]).rename(away)
    assert backup.verify(code=4)[0][0]["kind"] == "lost_object"
    away.rename(backup.object(copy["sha256"]))
    findings, summary = backup.verify()
    assert [(each["kind"], each["element"]) for each in findings] == [("recovered_object", element)]
    assert summary["sound"]
    assert backup.run("ls", element, server=False)[0]["state"] == "current"
    assert backup.verify()[0] == []


def test_storage_without_nearly_all_objects_is_not_taken_for_loss(backup: Backup) -> None:
    more = {f"more-{number:02d}.bin": b"x" * 100 for number in range(30)}
    for number, (name, content) in enumerate(more.items()):
        backup.server.repository.add(name, content, at=backup.server.repository.clock() - number - 1)
    backup.run("collect", "--once", "--full")
    (backup.folder / "storage").rename(backup.folder / "unmounted")
    (backup.folder / "storage" / "objects").mkdir(parents=True)
    findings, summary = backup.verify(code=4)
    assert len([each for each in findings if each["kind"] == "lost_object"]) == 42
    assert "mounted" in summary["covered"]["copies"]["not_recorded_because"]
    shutil.rmtree(backup.folder / "storage")
    (backup.folder / "unmounted").rename(backup.folder / "storage")
    assert backup.count("CopyLost") == 0
    assert backup.verify()[1]["sound"]


def test_the_source_is_compared_without_downloading(backup: Backup) -> None:
    findings, summary = backup.verify("--source", server=True)
    assert findings == []
    assert summary["covered"]["source"]["listed"] == summary["covered"]["source"]["agreeing"] == 12
    told = io.StringIO()
    with redirect_stdout(told):
        show_summary(Summary(covered=summary["covered"]), as_json=False)
    assert "\nsource       12 elements listed, 12 the same here, 0 of them by content\n" in told.getvalue()
    before = len([request for request in backup.server.requests if request.kind == "content"])
    names = list(backup.server.repository.by_name)
    backup.server.repository.delete(names[0])
    backup.server.repository.add("new.bin", b"new", at=backup.server.repository.clock())
    row = backup.server.repository.by_name[names[1]]
    backup.server.repository.delete(names[1])
    backup.server.repository.add(names[1], b"rewritten", at=row.wall - 86_400)
    findings, summary = backup.verify("--source", server=True, code=4)
    kinds = sorted((each["kind"], each["severity"]) for each in findings)
    assert kinds == [("rewritten_date", "error"), ("unknown_here", "note"), ("vanished_at_source", "note")]
    after = len([request for request in backup.server.requests if request.kind == "content"])
    assert after == before


def test_a_source_that_cannot_be_listed_is_no_clean_source(backup: Backup) -> None:
    backup.server.stop()
    findings, summary = backup.verify("--source", server=True, code=1)
    assert findings == []
    assert not summary["complete"]
    assert any(each.startswith("source:") for each in summary["not_covered"])
    backup.server.start()


def test_a_refused_token_exits_12(backup: Backup) -> None:
    backup.server.repository.tokens.clear()
    assert not backup.verify("--source", server=True, code=12)[1]["complete"]


def test_an_unknown_element_that_two_pages_list_is_counted_once() -> None:
    world = World(MemoryStore())
    key = world.see(world.source(None), "known")
    source = world.ledger.sources()[key.source].source
    audit = SourceAudit(world.ledger, key.source, client=None)  # type: ignore[arg-type]  # nothing is asked
    listed = tuple(Listed(type="file", id=id_, date=9, tz="UTC", form=b"{}") for id_ in ("known", "new"))
    found = [finding for _ in range(2) for finding in audit._compare(NewEntries(entries=listed, rejected=()), source)]
    assert sorted(finding.element or "" for finding in found) == ["known", "new"]
    assert (audit.listed, audit.unknown) == (2, 1)
