"""`kropotcli collect` as it is run, over real HTTP, against the server of 2020."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from random import Random
from typing import TYPE_CHECKING

import pytest

from kropot.objects.layout import Layout
from kropot.objects.packs.folder import PackFolder
from ledger.events import CopyLost, CopyStored, FetchFailed, ListingHeldBack, RemoteVanished, SourceBegan
from tests.kropot.replicas import Folder, wait_until
from tests.oldserver import OldServer, Quirks, Status, first_visits, for_ids, stall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.oldserver import Request

FILES = {f"file number {i}.txt": Random(i).randbytes(i * 37) for i in range(60)}


@pytest.fixture
def server() -> Iterator[OldServer]:
    with OldServer(FILES) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, server: OldServer) -> Folder:
    return Folder(tmp_path, server)


def test_everything_is_collected_and_then_only_what_changed(folder: Folder, server: OldServer) -> None:
    first = folder.collect()
    assert (first.code, first.summary["copied"], first.summary["zero_knowledge"]) == (0, 60, True)
    assert folder.contents() == folder.expected()
    again = folder.collect()
    assert (again.code, again.summary["copied"], again.summary["new"]) == (0, 0, 0)

    server.add("later.txt", b"bread")
    server.replace("file number 3.txt", b"roses")
    gone = server.id_of("file number 5.txt")
    server.delete("file number 5.txt")
    changed = folder.collect("--full")
    assert changed.code == 0
    counts = {name: changed.summary[name] for name in ("new", "changed", "vanished", "copied")}
    assert counts == {"new": 1, "changed": 1, "vanished": 1, "copied": 2}
    elements = folder.elements()
    assert elements[gone].state == "vanished"
    assert elements[gone].copy is not None
    assert {id_: data for id_, data in folder.contents().items() if id_ != gone} == folder.expected()
    assert folder.temporary() == []

    status = folder.run("status", "--check")
    assert status.code == 0, status.out + status.err


def test_no_name_and_no_token_reaches_storage_ledger_or_output(folder: Folder, server: OldServer) -> None:
    server.lose_on_disk("file number 7.txt")
    ran = folder.collect("--log-format", "json", "--log-level", "debug")
    assert ran.code == 3
    secrets = [server.token.encode(), b"file number", server.kit.passphrase.encode()]
    places = [path for path in folder.path.rglob("*") if path.is_file() and path.name != "token"]
    texts = [path.read_bytes() + str(path).encode() for path in places] + [ran.out.encode(), ran.err.encode()]
    assert len(places) > 60
    assert not [secret for secret in secrets for text in texts if secret in text]
    modes = {oct(path.stat().st_mode & 0o777) for path in folder.path.rglob("*") if "storage" in path.parts}
    assert modes <= {"0o600", "0o700"}


def test_what_cannot_be_had_is_named_with_its_reason_and_had_once_it_can(folder: Folder, server: OldServer) -> None:
    server.lose_on_disk("file number 7.txt")
    server.fail_reading("file number 40.txt", 64)
    server.poison("file number 20.txt")
    ran = folder.collect()
    assert ran.code == 3
    assert (ran.summary["copied"], ran.summary["pending"]) == (57, 2)
    assert set(ran.summary["reasons"]) == {"http_500", "error_page"}
    assert ran.summary["unlistable"] == 1
    (said,) = (line for line in ran.err.splitlines() if "cannot list all elements of 1 second" in line)
    assert "copies that were already stored are kept" in said
    assert re.search(r"\(20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\)", said)
    failing = {id_: element.failure.reason for id_, element in folder.elements().items() if element.failure is not None}
    assert failing == {
        server.id_of("file number 7.txt"): "http_500",
        server.id_of("file number 40.txt"): "error_page",
    }
    server.replace("file number 7.txt", b"found again")
    server.fail_reading("file number 40.txt", None)
    server.cure("file number 20.txt")
    assert folder.collect("--full").code == 0
    assert folder.contents() == folder.expected()


def test_a_fault_that_passes_is_overcome_within_one_run(folder: Folder, server: OldServer) -> None:
    server.plan = first_visits(1, Status(500))
    ran = folder.collect()
    assert ran.code == 0
    assert folder.contents() == folder.expected()
    assert {record.fact.element.failure.reason for record in folder.facts(FetchFailed)} == {"http_500"}


def test_an_element_that_the_server_denies_is_gone(folder: Folder, server: OldServer) -> None:
    gone = server.id_of("file number 9.txt")
    # First the token is tried, then comes the listing; then the file goes, before its content is asked for.
    server.before(3, lambda: server.delete("file number 9.txt"))
    ran = folder.collect()
    assert ran.code == 0
    assert folder.elements()[gone].state == "vanished"
    assert [record.key.id for record in folder.facts(RemoteVanished) if record.key is not None] == [gone]


def test_a_refused_token_ends_the_run_with_12_and_fails_no_element(folder: Folder, server: OldServer) -> None:
    folder.collect()
    server.add("later.txt", b"bread")
    server.expire_token()
    ran = folder.collect()
    assert ran.code == 12
    assert "refuses the token" in ran.err
    server.change_token(expires=None)
    server.before(len(server.asked()) + 3, server.expire_token)
    for number in range(80):
        server.add(f"more {number}.txt", b"roses")
    ran = folder.collect()
    assert (ran.code, ran.summary["pending"]) == (
        12,
        sum(each.state == "pending" for each in folder.elements().values()),
    )
    assert ran.summary["pending"] > 0
    assert folder.facts(FetchFailed) == []
    server.change_token(expires=None)
    assert folder.collect().code == 0
    assert folder.contents() == folder.expected()


def test_a_server_that_is_not_there_is_an_error_and_fails_no_element(folder: Folder, server: OldServer) -> None:
    port = server.port
    server.stop()
    ran = folder.collect()
    assert ran.code == 1
    failure = json.loads(ran.err.splitlines()[-1])
    assert failure["message"].startswith(f"cannot collect any more from {server.url}: nothing listens at this")
    assert (failure["event"], failure["exit"], failure["level"]) == ("failed", 1, "error")
    server.start(port)
    assert folder.collect().code == 0


def test_a_disk_that_is_not_mounted_is_not_taken_for_a_loss(folder: Folder, server: OldServer) -> None:
    folder.collect()
    storage, away = folder.path / "storage", folder.path / "away"
    storage.rename(away)
    storage.mkdir()
    before = len(folder.facts(object))
    server.add("later.txt", b"bread")
    for command in (("verify",), ("verify", "--repair"), ("collect", "--once")):
        ran = folder.run(*command)
        assert (ran.code, "is the disk mounted" in ran.err) == (1, True), ran.out + ran.err
    assert list(storage.iterdir()) == []
    assert len(folder.facts(object)) == before
    storage.rmdir()
    away.rename(storage)
    assert folder.collect().code == 0
    assert folder.run("verify").code == 0
    assert folder.contents() == folder.expected()


def test_a_storage_that_is_lost_for_good_is_fetched_again_once_a_person_says_so(folder: Folder) -> None:
    assert folder.collect().code == 0
    (folder.path / "storage").rename(folder.path / "lost")
    (folder.path / "storage" / "objects").mkdir(parents=True)
    looked = folder.run("verify")
    assert looked.code == 4
    assert "not recorded: so much is newly missing or damaged" in looked.out
    assert folder.facts(CopyLost) == []
    assert folder.run("verify", "--repair").code == 0
    assert len(folder.facts(CopyLost)) == len(folder.elements())
    assert folder.contents() == folder.expected()


def test_a_run_that_was_killed_is_taken_up_where_it_was(folder: Folder, server: OldServer) -> None:
    server.plan = first_visits(1, Status(500), "list")
    for number in range(300):
        server.add(f"more {number}.txt", Random(number).randbytes(20_000))
    for stored in (5, 150):
        with folder.collecting() as process:
            wait_until("copies", lambda stored=stored: stored_objects(folder) > stored)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
    ran = folder.collect()
    assert ran.code == 0
    assert folder.contents() == folder.expected()
    assert folder.temporary() == []
    revisions = [(record.stream, record.fact.element.revision) for record in folder.facts(CopyStored)]
    assert len(revisions) == len(set(revisions)) == 360


def stored_objects(folder: Folder) -> int:
    """Return how many objects lie in the storage: in files of their own and in packs."""
    layout = Layout(str(folder.path / "storage"))
    packs = PackFolder(layout)
    opened = [pack for name in packs.names() if (pack := packs.open(name)) is not None]
    return sum(1 for _ in layout.walk(b"", None)) + sum(pack.footer.objects for pack in opened)


def test_a_second_process_of_the_same_name_is_refused_while_the_first_lives(folder: Folder) -> None:
    with folder.collecting() as process:
        wait_until("copies", lambda: stored_objects(folder) >= 59)
        second = folder.collect()
        assert second.code == 11
        assert "already running" in second.err
        (folder.path / "elsewhere" / "objects").mkdir(parents=True)
        elsewhere = folder.collect("--storage-path", str(folder.path / "elsewhere"))
        assert elsewhere.code == 11
        assert "free after 5 minutes" in elsewhere.err
        assert folder.collect("--instance-name", "other").code == 0
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        assert folder.collect().code == 0


def test_a_content_that_takes_very_long_does_not_hold_up_the_others(folder: Folder, server: OldServer) -> None:
    large = server.id_of("file number 59.txt")
    server.plan = for_ids({large: stall(100, 300)})
    with folder.collecting() as process:
        wait_until("the other copies", lambda: stored_objects(folder) == len(FILES) - 1)
        wait_until("their events", lambda: len(folder.facts(CopyStored)) == len(FILES) - 1)
        assert process.poll() is None
        assert folder.elements()[large].state == "pending"
        assert [request.id for request in server.asked("content")].count(large) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_continuous_run_cleanly(
    folder: Folder, server: OldServer, number: signal.Signals, code: int
) -> None:
    with folder.collecting("--refresh-time", "1") as process:
        wait_until("copies", lambda: stored_objects(folder) >= 59)
        server.add("later.txt", b"bread")
        wait_until("the later copy", lambda: stored_objects(folder) >= 60)
        (folder.path / "storage" / "tmp" / "main" / "1-1").write_bytes(b"what a transfer that was broken off left")
        process.send_signal(number)
        assert process.wait(20) == code
    assert folder.temporary() == []
    with folder.ledger() as ledger:
        assert ledger.store.work.instances() == []


def test_nothing_is_recorded_or_fetched_while_the_disk_is_low_and_that_is_said(folder: Folder) -> None:
    ran = folder.collect("--min-free", "1000TiB")
    assert ran.code == 3
    assert "MiB are free for the storage and the ledger, so fetching has stopped: free some space" in ran.err
    assert "the ledger's disk has less free space than --min-free" in ran.err
    assert (ran.summary["new"], ran.summary["copied"]) == (0, 0)
    assert folder.facts(FetchFailed) == []
    assert folder.collect().code == 0
    assert folder.contents() == folder.expected()


def test_a_new_token_begins_a_new_source_and_nothing_is_taken_for_gone(folder: Folder, server: OldServer) -> None:
    folder.collect()
    server.use_new_token("11111111-0000-4000-8000-0f0d5a6b7c81")
    folder.use_token(server.token)
    ran = folder.collect("--full")
    assert ran.code == 0
    assert "this token is new" in ran.err
    assert len(folder.facts(SourceBegan)) == 2
    assert folder.facts(RemoteVanished) == []
    assert {element.state for element in folder.elements().values()} == {"current"}


def test_a_mistyped_token_is_not_where_a_ledger_begins(folder: Folder, server: OldServer) -> None:
    folder.use_token("mistyped")
    ran = folder.collect()
    assert ran.code == 12
    assert "the server refused the token" in ran.err
    assert folder.facts(SourceBegan) == []
    folder.use_token(server.token)
    ran = folder.collect()
    assert ran.code == 0
    assert "this token is new" not in ran.err


def test_a_mistyped_token_begins_no_source_beside_those_that_there_are(folder: Folder, server: OldServer) -> None:
    folder.collect()
    folder.use_token("mistyped")
    ran = folder.collect()
    assert ran.code == 12
    assert "the server refused the token" in ran.err
    assert len(folder.facts(SourceBegan)) == 1
    folder.use_token(server.token)
    assert folder.run("status", "--check").code == 0


def test_a_slip_in_the_first_address_binds_nothing(folder: Folder, server: OldServer) -> None:
    slip = folder.collect("--server-url", "http://127.0.0.1:9/slip")
    assert slip.code not in {0, 2}
    right = folder.collect()
    assert (right.code, right.summary["copied"]) == (0, 60), right.err
    assert f"is now at {server.url}, because http://127.0.0.1:9/slip was never listed" in right.err
    with folder.ledger() as ledger:
        (entry,) = ledger.sources().values()
    assert entry.source.urls == (server.url,)
    again = folder.collect("--server-url", "http://127.0.0.1:9/slip")
    assert (again.code, "source alias" in again.err) == (2, True)


def test_a_retired_source_is_not_collected_until_a_person_says_so(folder: Folder) -> None:
    folder.collect()
    with folder.ledger() as ledger:
        (source_id,) = ledger.sources()
    assert folder.run("source", "label", source_id.hex(), "old web").code == 0
    assert folder.run("source", "retire", "old web").code == 0
    refused = folder.collect()
    assert refused.code == 2
    assert "the source of this token, old web, was retired at " in refused.err
    assert "`kropotcli source retire 'old web' --undo`" in refused.err
    assert folder.run("source", "retire", "old web", "--undo").code == 0
    assert folder.collect().code == 0


def test_a_server_that_moved_is_asked_about_and_nothing_is_fetched_again(folder: Folder, server: OldServer) -> None:
    folder.collect()
    server.stop()
    server.start()
    ran = folder.collect()
    assert ran.code == 2
    assert "source alias" in ran.err
    with folder.ledger() as ledger:
        (source_id,) = ledger.sources()
    assert folder.run("source", "alias", source_id.hex(), "--server-url", server.url).code == 0
    moved = folder.collect("--full")
    assert (moved.code, moved.summary["copied"]) == (0, 0)
    server.stop()
    server.start()
    another = folder.collect("--new-source")
    assert (another.code, another.summary["copied"]) == (0, 60)


def test_a_mass_vanishing_is_held_back_until_a_person_accepts_it(folder: Folder, server: OldServer) -> None:
    folder.collect()
    for name in list(FILES)[:30]:
        server.delete(name)
    held = folder.collect("--full")
    assert held.code == 3
    assert held.summary["held"] is True
    assert "source accept" in held.err
    assert folder.facts(RemoteVanished) == []
    assert len(folder.facts(ListingHeldBack)) == 1
    assert folder.run("status", "--check").code == 3
    assert folder.run("source", "accept").code == 0
    accepted = folder.collect()
    assert accepted.code == 0
    assert accepted.summary["vanished"] == 30


def test_an_empty_list_is_not_believed(folder: Folder, server: OldServer) -> None:
    folder.collect()
    for name in server.names():
        server.delete(name)
    held = folder.collect("--full", "--missing-percent", "100")
    assert held.code == 3
    assert folder.facts(RemoteVanished) == []


def test_files_that_all_change_within_a_day_raise_an_alarm_and_keep_their_old_versions(
    folder: Folder, server: OldServer
) -> None:
    folder.collect()
    before = {id_: element.copy for id_, element in folder.elements().items()}
    for name in server.names():
        server.replace(name, b"encrypted by somebody else")
    ran = folder.collect()
    assert (ran.code, ran.summary["copied"], ran.summary["surge"]) == (3, len(before), True)
    assert "changed within 24 hours" in ran.err
    assert folder.run("status", "--check").code == 3
    assert folder.run("source", "accept").code == 0
    assert folder.collect().code == 0
    for copy in before.values():
        assert copy is not None
        assert folder.object(copy.sha256)


def test_a_few_files_that_change_all_the_time_are_no_surge(folder: Folder, server: OldServer) -> None:
    folder.collect()
    name = server.names()[0]
    for number in range(8):
        server.replace(name, b"line after line %d" % number, at=server.now() - 20 + number)
        ran = folder.collect("--surge-count", "2", "--surge-percent", "5")
        assert (ran.code, ran.summary["changed"], ran.summary["surge"]) == (0, 1, False)


def test_a_change_of_the_servers_zone_is_one_event_and_nothing_is_fetched_again(
    folder: Folder, server: OldServer
) -> None:
    folder.collect()
    server.set_zone("Asia/Kolkata")
    ran = folder.collect("--full")
    assert ran.code == 0
    assert ran.summary["copied"] == 0
    assert "time zone changed" in ran.err
    server.add("later.txt", b"bread")
    later = folder.collect()
    assert (later.code, later.summary["new"], later.summary["changed"]) == (0, 1, 0)


def test_a_zone_that_changes_again_and_back_fetches_nothing_again(folder: Folder, server: OldServer) -> None:
    folder.collect()
    for number, zone in enumerate(["America/New_York", "Asia/Kathmandu", "UTC"]):
        server.set_zone(zone)
        ran = folder.collect("--full")
        assert (ran.code, ran.summary["copied"], ran.summary["changed"]) == (0, 0, 0), zone
        server.add(f"later-{number}.txt", b"bread")
        later = folder.collect("--full")
        assert (later.code, later.summary["new"], later.summary["changed"]) == (0, 1, 0), zone


def test_a_plain_token_collects_and_says_that_nothing_is_hidden(tmp_path: Path) -> None:
    quirks = Quirks(plain_content_fails=False)
    with OldServer({"a.txt": b"bread", "b.txt": b""}, encrypted=False, quirks=quirks) as server:
        folder = Folder(tmp_path, server)
        ran = folder.collect()
        assert ran.code == 0
        assert "not zero-knowledge" in ran.err
        assert ran.summary["zero_knowledge"] is False
        assert folder.contents() == {"a.txt": b"bread", "b.txt": b""}


def test_a_run_that_is_to_end_waits_for_another_collectors_listing_and_leaves_nothing_undone(
    folder: Folder, server: OldServer
) -> None:
    gate, is_listing = threading.Event(), threading.Event()

    def hold_back(request: Request) -> None:
        if request.kind == "list":
            is_listing.set()
            assert gate.wait(60)

    server.plan = hold_back
    with folder.collecting("--once", "--instance-name", "lister") as lister:
        assert is_listing.wait(60)
        with folder.collecting("--once", "--instance-name", "follower") as follower:
            assert follower.stderr is not None
            assert any("another collector is listing" in line for line in follower.stderr)
            assert folder.elements() == {}
            gate.set()
            assert (lister.wait(60), follower.wait(60)) == (0, 0)
    assert folder.contents() == folder.expected()
    assert len(folder.facts(CopyStored)) == len(FILES)


def test_a_signal_before_the_work_begins_leaves_no_name_behind(folder: Folder, server: OldServer) -> None:
    server.plan = None
    program = (
        "import os, signal, sys; import ledger.work\n"
        "record = ledger.work.WorkSession.enroll\n"
        "def enroll(*args, **options):\n"
        "    record(*args, **options)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "ledger.work.WorkSession.enroll = enroll\n"
        "from kropot.cli.main import main; sys.argv[0] = 'kropotcli'; sys.exit(main())\n"
    )
    for options, code in (((), 0), (("--once",), 3)):
        line = [sys.executable, "-c", program, *folder.line("collect", *folder.options, *options)[1:]]
        ended = subprocess.run(line, cwd=folder.path, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == code, ended.stderr
        with folder.ledger() as ledger:
            assert ledger.store.work.instances() == []
    assert folder.collect().code == 0


def test_the_sentence_at_the_end_tells_failing_elements_from_failed_attempts(folder: Folder, server: OldServer) -> None:
    server.lose_on_disk("file number 7.txt")
    ran = folder.run("collect", "--once", *folder.options)
    assert ran.code == 3
    attempts = len(folder.facts(FetchFailed))
    assert attempts > 1
    assert (
        f"; 1 failing (`kropotcli ls --failing` lists them); {attempts} failed attempts: http_500 {attempts}" in ran.out
    )
