"""Further storages: filled and kept in step, whoever is killed; away, wrong or swapped; freed, healed and recovered."""

from __future__ import annotations

import json
import random
import secrets
import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from kropot import processes
from kropot.durable.errors import StorageFullError
from kropot.errors import Exit, LockedError
from kropot.further.catching_up import CatchingUp, CaughtUp
from kropot.further.description import KEY, Description, parse
from kropot.further.joining import FurtherAwayError, FurtherStorageError, Surroundings
from kropot.further.keeping import InStep
from kropot.objects.stores.address import parse_storage, shown_storage
from kropot.objects.stores.local import LocalFiles
from kropot.query.further import FurtherFacts, further_alarms
from ledger.log import Ledger
from ledger.rows import FurtherRow
from tests.kropot.replicas import Folder
from tests.kropot.retention_world import DAY, HOUR, KilledError, sha
from tests.kropot.test_retention_packs import PackedWorld
from tests.oldserver import OldServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kropot.objects.stores.address import StorageAddress
    from kropot.objects.stores.files import RemoteFiles
    from tests.remote_stores import Servers

pytestmark = pytest.mark.xdist_group("stores")


class Pair:
    """A world whose storage has a further one at `address`."""

    def __init__(self, packed: PackedWorld, address: StorageAddress) -> None:
        self.packed, self.world, self.ledger = packed, packed.world, packed.world.ledger
        self.address = address
        self.surroundings = Surroundings(first=packed.folder / "storage")

    def step(
        self,
        address: StorageAddress | None = None,
        *,
        begin: bool = False,
        wrap: Callable[[RemoteFiles], RemoteFiles] = lambda files: files,
    ) -> CaughtUp:
        with (
            closing(self.surroundings.files_of_first()) as source,
            self.surroundings.join(self.ledger, address or self.address, begin=begin) as further,
        ):
            further.files = wrap(further.files)
            return CatchingUp(self.ledger, source, further).run()

    @property
    def row(self) -> FurtherRow:
        (row,) = self.ledger.work.further()
        return row

    def objects(self) -> set[bytes]:
        """Return the objects there that are what their names say."""
        with (
            self.surroundings.visit(self.ledger, self.address) as further,
            closing(further.objects(self.ledger)) as found,
        ):
            sound = set()
            for sha256, _ in found.walk():
                with found.open(sha256) as file:
                    sound |= {sha256} if sha(file.read().decode(errors="replace")) == sha256 else set()
            return sound

    def keys(self, kind: str) -> set[str]:
        with self.surroundings.visit(self.ledger, self.address) as further:
            return {stat.key for stat in further.files.walk(kind)}

    def packs(self) -> set[str]:
        return {key.rpartition("/")[2] for key in self.keys("packs")}

    def named(self, until: int) -> set[bytes]:
        return {row.sha256 for row in self.ledger.copies() if row.position <= until and row.state != "released"}


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[PackedWorld]:
    made = PackedWorld(tmp_path)
    yield made
    made.world.objects.close()
    made.store.close()


@pytest.fixture
def pair(packed: PackedWorld) -> Pair:
    return Pair(packed, packed.folder / "second")


@pytest.fixture(params=["folder", "seaweedfs", "sftp"])
def anywhere(
    request: pytest.FixtureRequest, packed: PackedWorld, store_servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> Pair:
    """Return a pair with a second storage of one kind. SFTP is dear: one test does everything that is done there."""
    if request.param == "folder":
        return Pair(packed, packed.folder / "second")
    server = store_servers.get(request.param)
    for name, value in {**server.env(), "XDG_STATE_HOME": str(packed.folder / "state")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_is_forbidden", False)
    return Pair(packed, parse_storage(server.address(f"further-{secrets.token_hex(6)}")))


# --- in step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anywhere", ["folder", "seaweedfs"], indirect=True)
def test_it_is_filled_and_then_gets_what_is_new(anywhere: Pair) -> None:
    done = anywhere.step()
    assert done.is_done
    assert (done.copied.files, done.missing) == (1, 0)
    assert anywhere.packs() == anywhere.packed.packs()
    assert anywhere.row.position == anywhere.ledger.head().position == done.position
    assert anywhere.keys("ledger") == {f"ledger/00000000.partial-{done.position}"}

    again = anywhere.step()
    assert (again.copied.files, again.removed) == (0, 0)
    anywhere.world.listed({"new": "something new", "live 1": "another content"})
    assert anywhere.step().copied.files == 2
    assert anywhere.objects() >= anywhere.named(anywhere.row.position) | {sha("something new")}


def test_packs_that_are_made_and_rewritten_follow(anywhere: Pair) -> None:
    anywhere.world.listed({f"n{i}": f"new {i}" for i in range(5)})
    anywhere.step()
    assert len(anywhere.keys("objects")) == 5
    anywhere.packed.pack_all()
    anywhere.step()
    assert anywhere.keys("objects") == set()
    assert anywhere.packs() == anywhere.packed.packs()
    before = anywhere.packs()
    assert anywhere.packed.free(max_unused=40).objects == 10
    anywhere.step()
    assert anywhere.packs() == anywhere.packed.packs() != before
    assert anywhere.objects() == {sha(text) for text in anywhere.packed.live} | {sha(f"new {i}") for i in range(5)}
    assert anywhere.objects() == anywhere.packed.objects()


@pytest.mark.parametrize("anywhere", ["folder", "seaweedfs"], indirect=True)
def test_what_is_freed_in_the_first_goes_there_too_also_later(anywhere: Pair) -> None:
    world = anywhere.world
    world.listed({"doomed": "to be freed"})
    anywhere.step()
    assert sha("to be freed") in anywhere.objects()
    world.clock_us += DAY
    world.listed({"doomed": None})
    world.clock_us += DAY
    world.listed({})
    assert world.release().total[0] == 1
    anywhere.step()
    assert sha("to be freed") in anywhere.objects(), "it can still be taken back"
    assert anywhere.packed.free().objects == 1
    done = anywhere.step()
    assert done.removed == 1
    assert sha("to be freed") not in anywhere.objects()
    assert anywhere.step().removed == 0


def test_wherever_it_is_killed_it_goes_on_and_nothing_is_missing(tmp_path: Path) -> None:
    class Killed(LocalFiles):
        left = 0

        def put(self, *args: Any) -> None:
            self._count()
            super().put(*args)

        def put_file(self, *args: Any) -> None:
            self._count()
            super().put_file(*args)

        def remove(self, *args: Any) -> None:
            self._count()
            super().remove(*args)

        def _count(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise KilledError

    def killed_after(count: int, address: Path) -> Callable[[RemoteFiles], RemoteFiles]:
        files = Killed(address)
        files.left = count
        return lambda _: files

    (tmp_path / "whole").mkdir()
    packed = PackedWorld(tmp_path / "whole")
    try:
        pair = Pair(packed, tmp_path / "second")
        pair.step()
        packed.world.listed({f"more {i}": f"more content {i}" for i in range(4)})
        packed.pack_all()
        packed.world.listed({f"loose {i}": f"loose content {i}" for i in range(4)})
        packed.free(max_unused=40)
        before = tmp_path / "before"
        shutil.copytree(tmp_path / "second", before)
        row = pair.row
        for count in (0, 1, 3, 5, 7, 99):
            shutil.rmtree(tmp_path / "second")
            shutil.copytree(before, tmp_path / "second")
            pair.ledger.work.keep_further(row)
            try:
                done = pair.step(wrap=killed_after(count, tmp_path / "second"))
            except KilledError:
                assert count < 99
                assert pair.objects() >= pair.named(pair.row.position)
                done = pair.step()
            assert done.is_done
            assert pair.objects() == packed.objects()
            assert pair.packs() == packed.packs()
        assert pair.step().copied.files == 0
    finally:
        packed.world.objects.close()
        packed.store.close()


def test_two_processes_do_not_work_there_at_once(pair: Pair) -> None:
    pair.step()
    other = Ledger(pair.packed.store, writer="other", clock=lambda: pair.world.clock_us)
    name = f"further:{pair.row.id.hex()}"
    assert other.work.reserve(name, lease_us=HOUR)
    with pytest.raises(LockedError, match="another process"):
        pair.step()
    other.work.unreserve(name)
    assert pair.step().is_done


def test_damage_in_the_first_is_told_and_does_not_stop_the_rest(pair: Pair) -> None:
    pair.world.listed({"bad": "bad content", "good": "good content"})
    storage = pair.packed.folder / "storage"
    bad = storage / "objects" / sha("bad content").hex()[:2] / sha("bad content").hex()
    bad.write_bytes(b"rotten bytes")
    done = pair.step()
    assert (done.is_done, done.copied.damaged) == (True, 1)
    assert sha("good content") in pair.objects()
    assert sha("bad content") not in pair.objects()
    pair.world.listed({"gone": "gone content"})
    (storage / "objects" / sha("gone content").hex()[:2] / sha("gone content").hex()).unlink()
    assert pair.step().missing == 1


# --- away, wrong, swapped, tampered ----------------------------------------------------------------------------------


def test_place_that_is_away_is_left_alone_and_goes_on_when_it_is_back(pair: Pair, tmp_path: Path) -> None:
    pair.step()
    (tmp_path / "second").rename(tmp_path / "off")
    pair.world.listed({"meanwhile": "came meanwhile"})
    for _ in range(2):  # no folder, and then an empty one
        with pytest.raises(FurtherAwayError, match="is its disk mounted"):
            pair.step()
        (tmp_path / "second").mkdir(exist_ok=True)
    assert list((tmp_path / "second").iterdir()) == []
    (tmp_path / "second").rmdir()
    (tmp_path / "off").rename(tmp_path / "second")
    assert pair.step().copied.files == 1
    assert sha("came meanwhile") in pair.objects()


def test_new_disk_begins_only_where_somebody_says_so(pair: Pair, tmp_path: Path) -> None:
    pair.step()
    first = pair.row
    shutil.rmtree(tmp_path / "second")
    pair.step(begin=True)
    assert pair.row.id != first.id
    assert pair.objects() == pair.packed.objects()


def test_two_disks_take_turns_at_one_address(pair: Pair, tmp_path: Path) -> None:
    pair.step()
    (tmp_path / "second").rename(tmp_path / "a")
    pair.step(tmp_path / "b")
    pair.world.listed({"one": "content one"})
    (tmp_path / "b").rename(tmp_path / "second")
    assert pair.step().copied.files == 1
    pair.world.listed({"two": "content two"})
    (tmp_path / "second").rename(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "second")
    assert pair.step().copied.files == 2
    assert {row.address for row in pair.ledger.work.further()} == {str(tmp_path / "second")}
    assert len(pair.ledger.work.further()) == 2


def test_storage_of_another_ledger_or_of_nobody_is_refused(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Pair(PackedWorld(tmp_path / "other", seed=2), tmp_path / "second")
    other.step()
    other.packed.world.objects.close()
    other.packed.store.close()
    kept = {path: path.read_bytes() for path in (tmp_path / "second").rglob("*") if path.is_file()}
    with pytest.raises(FurtherStorageError, match="another ledger"):
        pair.step()
    (tmp_path / "second" / KEY).unlink()
    with pytest.raises(FurtherStorageError, match="history of ledger"):
        pair.step()
    shutil.rmtree(tmp_path / "second" / "ledger")
    with pytest.raises(FurtherStorageError, match="no history that names their ledger"):
        pair.step()
    assert all(kept[path] == path.read_bytes() for path in (tmp_path / "second").rglob("*") if path.is_file())
    for wrong in (pair.packed.folder / "storage", pair.packed.folder / "storage" / "below", pair.packed.folder):
        with pytest.raises(FurtherStorageError, match="first storage itself"):
            pair.step(wrong)
    assert pair.ledger.work.further() == []


def test_copy_that_was_made_by_hand_is_taken_over(pair: Pair, tmp_path: Path) -> None:
    pair.packed.storage.segments(writing=True).write(pair.ledger)
    shutil.copytree(pair.packed.folder / "storage", tmp_path / "second")
    assert pair.step().copied.files == 0
    assert pair.objects() == pair.packed.objects()


def test_cursor_that_was_set_ahead_is_not_believed_alone(pair: Pair, tmp_path: Path) -> None:
    pair.step()
    pair.world.listed({"new": "never copied"})
    head = pair.ledger.head().position
    pair.ledger.work.keep_further(pair.row._replace(position=head))
    assert pair.step().copied.files == 1
    # The storage was put back from an earlier day: what it says of itself counts.
    pair.world.listed({"newer": "copied, and then lost"})
    shutil.copytree(tmp_path / "second", tmp_path / "earlier")
    pair.step()
    shutil.rmtree(tmp_path / "second")
    (tmp_path / "earlier").rename(tmp_path / "second")
    assert pair.step().copied.files == 1
    # The ledger was put back: it does not know how far the storage is, and looks at everything.
    pair.ledger.work.forget_further(pair.row.id)
    assert pair.step().is_done
    assert pair.row.position == pair.ledger.head().position


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"format": "other"}', b"\xff", b'{"ledger": 1}', b"[" * 4000], ids=range(7)
)
def test_rubbish_is_no_description(data: bytes) -> None:
    assert parse(data) is None


def test_description_is_what_was_written_and_nothing_else(pair: Pair, tmp_path: Path) -> None:
    described = Description(ledger=b"l" * 16, id=b"i" * 16, position=7)
    assert parse(described.stored) == described
    assert parse(described.stored.replace(b": 7", b": -7")) is None
    assert parse(described.stored.replace(b": 7", b": true")) is None
    pair.step()
    (tmp_path / "second" / KEY).write_bytes(b"{}")
    with pytest.raises(FurtherStorageError, match="is damaged"):
        pair.step()


def test_full_disk_is_said_once_and_work_goes_on_when_there_is_room(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    in_step = InStep(
        pair.ledger, pair.surroundings, [pair.address], segments=True, warn=said.append, stopped=lambda: False
    )
    write = LocalFiles.put_file

    def full(self: LocalFiles, key: str, _file: Any) -> None:
        raise StorageFullError(
            f"writing {key} to {self.place}: the disk is full: free some space, and it goes on by itself"
        )

    monkeypatch.setattr(LocalFiles, "put_file", full)
    for _ in range(3):
        in_step.look()
    (text,) = said
    assert "the disk is full" in text
    assert "the first one is not affected" in text
    assert pair.row.position == 0
    monkeypatch.setattr(LocalFiles, "put_file", write)
    in_step.look()
    assert len(said) == 1
    assert pair.objects() == pair.packed.objects()


# --- as a user sees it -----------------------------------------------------------------------------------------------


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Folder]:
    files = {f"file {i}.txt": random.Random(i).randbytes(500 + i) for i in range(6)}
    with OldServer(files) as server:
        folder = Folder(tmp_path, server, options=("--min-free", "1MiB", "--pack-below", "0"))
        ran = folder.collect("--also-store", str(tmp_path / "second"))
        assert ran.code == 0, ran.err
        yield folder


def status_of(replica: Folder, *args: str) -> dict[str, Any]:
    ran = replica.run("status", "--json", *args)
    return dict(json.loads(ran.out))


def objects_in(root: Path) -> list[Path]:
    return sorted(path for path in (root / "objects").rglob("*") if path.is_file())


def test_disk_dies_and_the_second_is_a_whole_replica(replica: Folder, tmp_path: Path) -> None:
    (further,) = status_of(replica)["further"]
    assert (further["there"], further["behind"], further["address"]) == (True, 0, str(tmp_path / "second"))
    shutil.rmtree(tmp_path / "storage")
    ran = replica.collect()
    assert ran.code == Exit.ERROR
    assert f"--storage-path {tmp_path / 'second'}" in ran.err
    second = ("--storage-path", str(tmp_path / "second"))
    assert replica.collect(*second).code == 0
    verified = replica.run("verify", *second)
    assert (verified.code, "everything is sound" in verified.out) == (0, True), verified.out
    assert status_of(replica, *second)["further"] == []
    again = ("--db-string", f"sqlite:///{tmp_path / 'again.db'}", *second)
    assert replica.run("db", "recover", "--from-storage", *again).code == 0
    recovered = replica.run("verify", *again)
    assert (recovered.code, "everything is sound" in recovered.out) == (0, True), recovered.out


def test_either_heals_the_other(replica: Folder, tmp_path: Path) -> None:
    here, there = objects_in(tmp_path / "storage"), objects_in(tmp_path / "second")
    here[0].write_bytes(b"rotten")
    here[1].unlink()
    ran = replica.run("verify", "--repair", "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 0, ran.out
    assert [row["kind"] for row in rows].count("repaired_copy") == 2
    assert all(
        f"healed from the further storage {tmp_path / 'second'}" in row["detail"]
        for row in rows
        if row["kind"] == "repaired_copy"
    )

    there[2].write_bytes(b"rotten")
    there[3].unlink()
    found = replica.run("verify", "--json", "--also-store", "all")
    kinds = {json.loads(line)["kind"] for line in found.out.splitlines()}
    assert found.code == Exit.FINDINGS
    assert kinds >= {"further_damaged", "further_lost"}
    healed = replica.run("verify", "--repair", "--also-store", str(tmp_path / "second"))
    assert healed.code == 0, healed.out
    assert healed.out.count("from the first storage") == 2
    sound = replica.run("verify", "--also-store", "all")
    assert (sound.code, "everything is sound" in sound.out) == (0, True), sound.out
    assert len(list((tmp_path / "second" / "quarantine").iterdir())) == 1
    assert [path.name for path in objects_in(tmp_path / "storage")] == [path.name for path in there]


def test_object_that_neither_has_stays_a_finding(replica: Folder, tmp_path: Path) -> None:
    lost = objects_in(tmp_path / "second")[0]
    lost.unlink()
    (tmp_path / "storage" / lost.relative_to(tmp_path / "second")).write_bytes(b"rotten")
    found = replica.run("verify", "--also-store", "all", "--no-record")
    assert found.code == Exit.FINDINGS
    assert "further_lost" in found.out
    assert "damaged_object" in found.out


def test_cursor_that_lies_is_found_by_verify(replica: Folder, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "second" / "objects")
    (tmp_path / "second" / "objects").mkdir()
    replica.collect("--also-store", str(tmp_path / "second"))
    found = replica.run("verify", "--also-store", "all")
    assert found.code == Exit.FINDINGS
    assert found.out.count("further_lost") == 6
    assert replica.run("verify", "--also-store", "all", "--repair").code == 0
    assert replica.run("verify", "--also-store", "all").code == 0


def test_commands_say_what_is_away_and_forget_it(replica: Folder, tmp_path: Path) -> None:
    (tmp_path / "second").rename(tmp_path / "off")
    ran = replica.collect("--also-store", str(tmp_path / "second"))
    assert ran.code == 0
    assert ran.err.count("is its disk mounted") == 1
    assert replica.run("storage", "catch-up").code == Exit.ERROR
    missed = replica.run("verify", "--also-store", "all")
    assert missed.code == Exit.ERROR
    assert "is its disk mounted" in missed.err
    assert "1 were not read" in replica.run("verify").out
    (further,) = status_of(replica)["further"]
    assert not further["there"]
    assert "away: it is not there" in replica.run("status").out
    (tmp_path / "off").rename(tmp_path / "second")
    caught = replica.run("storage", "catch-up", "--json")
    assert json.loads(caught.out)["storages"][0]["done"]
    assert replica.run("storage", "forget", str(tmp_path / "nothing")).code == Exit.USAGE
    assert replica.run("storage", "forget", further["id"]).code == 0
    assert status_of(replica)["further"] == []
    assert replica.run("storage", "catch-up").code == Exit.USAGE


def test_alarm_comes_when_it_was_not_in_step_for_too_long() -> None:
    row = FurtherRow(b"i" * 16, "/mnt/second", 7, 0, DAY)
    away = FurtherFacts(row=row, why_away="it is not there")
    assert list(further_alarms(2 * DAY, [away], 86_400)) == []
    (alarm,) = further_alarms(2 * DAY + 1, [away], 86_400)
    assert (alarm.name, alarm.since_us) == ("further_behind", DAY)
    assert "it is not there" in alarm.text
    assert row.id.hex() in alarm.text


def test_configuration_file_names_it_too(replica: Folder, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[collect]\nalso-store = ["{tmp_path / "third"}"]\n')
    assert replica.collect("--config", str(config)).code == 0
    assert {each["address"] for each in status_of(replica)["further"]} == {
        shown_storage(tmp_path / "second"),
        shown_storage(tmp_path / "third"),
    }
