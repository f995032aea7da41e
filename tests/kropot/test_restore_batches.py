"""A restore writes small files in batches: whatever ends it, files are whole, and a second run writes only the rest."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kropot.durable import batch, rename
from kropot.durable.filesystem import OsFiles
from kropot.durable.new_files import NewFiles
from kropot.durable.refusals import TreeError
from kropot.durable.target import WORK, TargetFolder
from kropot.errors import WrongKeyError
from kropot.objects.directory import DirectoryObjects
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published
from kropot.replay.copies import StoredCopies
from kropot.restore import batches, worker
from kropot.restore import crew as crews
from kropot.restore.crew import Crew
from kropot.restore.fingerprints import Fingerprints
from kropot.restore.job import Restored, restore
from kropot.restore.journal import Journal
from kropot.restore.names import NameGiver
from kropot.restore.owners import Owners
from kropot.restore.patterns import Patterns
from kropot.restore.plan import RestoreCounts, RestoreProblem, Selection, plan
from kropot.restore.small import SmallFiles
from kropot.sc2.kit import CbcKey
from tests.kropot.replay_world import KIT, OTHER_KIT, World
from tests.kropot.test_restore_faults import Trap, killed_at, whole
from tests.kropot.test_restore_job import MANIFEST, back, held_in, manifest

if TYPE_CHECKING:
    from pathlib import Path

    from kropot.securecopy.sealing import Kit

pytestmark = pytest.mark.usefixtures("forking")

FILES = 7


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let three files be a batch, and two forms a page."""
    monkeypatch.setattr(batches, "BATCH", 3)
    monkeypatch.setattr(crews, "_PAGE", 2)


def some_world() -> tuple[World, dict[str, bytes]]:
    world = World()
    source = world.source()
    contents = {f"folder {number % 2}/file {number}": b"%d" % number * 50 for number in range(FILES)}
    for name, content in contents.items():
        world.put_path(source, name.encode(), content, mtime_ns=10**18, mode=0o640)
    return world, contents


def back_by_workers(
    world: World,
    to: Path,
    workers: int,
    *,
    kits: list[Kit] | None = None,
    copies: StoredCopies | None = None,
    at_first: Any = lambda _: None,
) -> tuple[dict[str, Restored], list[RestoreProblem]]:
    """Restore with so many worker processes; `at_first` gets the crew at the first outcome."""
    done: dict[str, Restored] = {}
    findings: list[RestoreProblem] = []
    keys = [CbcKey(kit=kit) for kit in kits or [KIT]]
    copies, owners = copies or StoredCopies(world.objects), Owners(numeric=False)
    with ExitStack() as stack:
        helds = stack.enter_context(held_in(world))
        crew = Crew(copies, keys, owners, workers=workers)
        assert len(crew._processes) == (workers if workers > 1 else 0)
        stack.callback(crew.close)
        pool = stack.enter_context(ThreadPoolExecutor(3))
        opened: list[tuple[TargetFolder, Journal]] = []

        def giver() -> NameGiver:
            tree = stack.enter_context(TargetFolder(to))
            opened.append((tree, stack.enter_context(Journal(tree, MANIFEST))))
            stack.callback(crew.close)
            return NameGiver(tree.rules, Fingerprints(), (WORK, MANIFEST))

        wanted = Selection(patterns=Patterns(()))
        plans = plan(
            helds, kits=keys, wanted=wanted, giver=giver, pool=pool, tally=RestoreCounts(), sources=1, crew=crew
        )
        first = next(plans)
        tree, journal = opened[0]

        def all_plans() -> Any:
            yield first
            yield from plans

        for outcome in restore(
            all_plans(), copies=copies, tree=tree, journal=journal, pool=pool, keys=keys, owners=owners, crew=crew
        ):
            at_first(crew)
            if isinstance(outcome, Restored):
                done[outcome.planned.shown] = outcome
            else:
                findings.append(outcome)
    return done, findings


# --- by processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_workers_give_back_what_one_process_does(tmp_path: Path, workers: int) -> None:
    world, contents = some_world()
    back(world, tmp_path / "one")
    done, findings = back_by_workers(world, tmp_path / "to", workers)
    assert findings == []
    assert whole(tmp_path / "to") == contents
    assert {name: each.size for name, each in done.items()} == {name: len(each) for name, each in contents.items()}
    status = (tmp_path / "to/folder 0/file 0").stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (10**18, 0o640)
    by_file = {line["file"]: line for line in manifest(tmp_path / "one")}
    assert {line["file"]: line for line in manifest(tmp_path / "to")} == by_file
    again, findings = back_by_workers(world, tmp_path / "to", workers)
    assert findings == []
    assert all(each.existed for each in again.values())
    assert len(manifest(tmp_path / "to")) == FILES


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_worker_cannot_do_is_named_as_ever(tmp_path: Path, workers: int) -> None:
    world, contents = some_world()
    source = next(iter(world.elements)).source
    world.spoil(world.store_copy(world.see(source, "bad"), b"b" * 50))
    world.lose(world.store_copy(world.see(source, "gone"), b"z" * 50))
    world.put(source, "exchanged", b"content", sha256="11" * 32)
    _, findings = back_by_workers(world, tmp_path / "to", workers)
    assert {(each.name, each.problem) for each in findings} == {
        ("bad", "damaged"),
        ("gone", "missing"),
        ("exchanged", "bad_content"),
    }
    assert whole(tmp_path / "to") == contents


def test_workers_do_not_open_what_no_key_opens(tmp_path: Path) -> None:
    world, _ = some_world()
    with pytest.raises(WrongKeyError):
        back_by_workers(world, tmp_path / "to", 2, kits=[OTHER_KIT])
    assert not (tmp_path / "to").exists()


def test_a_worker_that_is_killed_ends_the_run_and_a_second_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise all is written before the first outcome.
    monkeypatch.setattr(batches, "SYNC_EVERY", 0)
    world, contents = some_world()

    def kill(crew: Crew) -> None:
        for process in crew._processes:
            os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(TreeError, match="a worker process of the restore ended: signal 9 killed it"):
        back_by_workers(world, tmp_path / "to", 2, at_first=kill)
    assert whole(tmp_path / "to").items() <= contents.items()
    assert not (tmp_path / "to" / WORK.decode()).exists()
    assert back_by_workers(world, tmp_path / "to", 2)[1] == []
    assert whole(tmp_path / "to") == contents


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_gets_a_name_after_a_sync_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    world, contents = some_world()
    real, failed = NewFiles.sync, tmp_path / "failed"

    def fail_once(files: NewFiles) -> None:
        if not failed.exists():
            failed.touch()
            raise TreeError("the disk failed")
        real(files)

    with monkeypatch.context() as patched:
        patched.setattr(NewFiles, "sync", fail_once)
        with pytest.raises(TreeError, match="the disk failed"):
            back_by_workers(world, tmp_path / "to", workers)
    assert whole(tmp_path / "to").items() <= contents.items()
    assert back_by_workers(world, tmp_path / "to", workers)[1] == []
    assert whole(tmp_path / "to") == contents


def test_many_batches_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, contents = some_world()
    real, synced = NewFiles.sync, tmp_path / "synced"

    def count(files: NewFiles) -> None:
        with synced.open("a") as file:
            file.write(f"{os.getpid()}\n")
        real(files)

    monkeypatch.setattr(NewFiles, "sync", count)
    monkeypatch.setattr(batches, "BATCH", 1)
    assert back_by_workers(world, tmp_path / "to", 2)[1] == []
    assert whole(tmp_path / "to") == contents
    assert set(Counter(synced.read_text().split()).values()) == {1}


def test_a_worker_whose_sync_failed_names_no_later_batch(tmp_path: Path) -> None:
    world, _ = some_world()
    with held_in(world) as helds:
        held = next(helds)
    small = SmallFiles(StoredCopies(world.objects), [CbcKey(kit=KIT)], Owners(numeric=False))
    at_work = worker._Worker(small, os.getpid())
    with TargetFolder(tmp_path):
        for number, name in enumerate((b"one", b"two")):
            question = worker.write_question(number, str(tmp_path), [(-1, held, (name,), None)])
            _, kind, what = worker._unpacked(question)
            assert at_work.take(number, (kind, what)) is None
        assert at_work.take(0, (worker.SYNC, None)) is None
        (_, one), (_, two) = at_work._written.get()
        answers = [at_work.name(one, TreeError("the disk failed")), at_work.name(two, None)]
        assert [str(each) for each in answers] == ["the disk failed"] * 2
        assert isinstance(at_work.take(2, (kind, what)), TreeError)
        small.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_gets_a_name_once_the_run_that_asked_is_gone(tmp_path: Path) -> None:
    world, _ = some_world()
    with held_in(world) as helds:
        held = next(helds)
    small = SmallFiles(StoredCopies(world.objects), [CbcKey(kit=KIT)], Owners(numeric=False))
    with TargetFolder(tmp_path):
        assert small.write(str(tmp_path), [(-1, held, (b"name",), None)], goes_on=lambda: False) == [None]
        small.close()
    assert list(tmp_path.iterdir()) == []


# --- out of packs -----------------------------------------------------------------------------------------------------


def packed(world: World, root: Path) -> StoredCopies:
    """Put the objects of a world into one pack, and return the copies in it."""
    objects = DirectoryObjects(root, "main", places=world.ledger.places, pack=PackRule(worth=1))
    staged = []
    for data in world.objects.disk.objects.values():
        upload = objects.stage()
        upload.write(data)
        staged.append(upload.finish())
    published = [each for each in objects.publish(staged) if isinstance(each, Published)]
    places = [each.place for each in published if each.place is not None]
    assert len({place.pack for place in places}) == 1
    assert len(places) == len(world.objects.disk.objects)
    world.ledger.places.add(places)
    return StoredCopies(objects)


@pytest.mark.parametrize("workers", [0, 2])
def test_packs_are_read_where_the_ledger_says_and_no_worker_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    world, contents = some_world()
    copies = packed(world, tmp_path / "storage")
    asked, here, find = list[int](), os.getpid(), copies.objects.placed  # type: ignore[attr-defined]

    def only_here(sha256s: Any) -> Any:
        assert os.getpid() == here
        asked.append(len(sha256s))
        return find(sha256s)

    monkeypatch.setattr(copies.objects, "placed", only_here)
    monkeypatch.setattr(copies.objects, "open", lambda _: pytest.fail("one by one"))
    done, findings = back_by_workers(world, tmp_path / "to", workers, copies=copies)
    assert findings == []
    assert len(done) == FILES
    assert whole(tmp_path / "to") == contents
    assert sum(asked) == FILES
    assert max(asked) <= 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_placement_that_lies_costs_nothing_and_a_damaged_pack_one_file(tmp_path: Path, workers: int) -> None:
    world, contents = some_world()
    copies = packed(world, tmp_path / "storage")
    places = sorted(world.ledger.places.walk(), key=lambda place: place.offset)
    lying = [place._replace(offset=place.offset + 1) if place is places[0] else place for place in places]
    world.ledger.places.replace(places[0].pack, lying)
    assert back_by_workers(world, tmp_path / "one", workers, copies=copies)[1] == []
    assert whole(tmp_path / "one") == contents
    (pack,) = [path for path in (tmp_path / "storage/packs").rglob("*") if path.is_file()]
    raw = bytearray(pack.read_bytes())
    raw[places[1].offset] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(raw)
    _, findings = back_by_workers(world, tmp_path / "two", workers, copies=copies)
    assert [each.problem for each in findings] == ["damaged"]
    assert len(whole(tmp_path / "two")) == FILES - 1


# --- stopped between and within batches ------------------------------------------------------------------------------


def test_a_kill_in_any_batch_leaves_whole_files_and_what_is_recorded_is_not_written_again(tmp_path: Path) -> None:
    world, contents = some_world()
    call, recorded = 1, set[int]()
    while killed_at(call, partial(back, world, tmp_path / f"{call}")):
        to = tmp_path / f"{call}"
        assert whole(to).items() <= contents.items()
        lines = manifest(to) if (to / MANIFEST.decode()).exists() else []
        inodes = {line["file"]: (to / line["file"]).stat().st_ino for line in lines}
        recorded.add(len(lines))
        back(world, to)
        assert whole(to) == contents
        assert {name: (to / name).stat().st_ino for name in inodes} == inodes
        assert not (to / WORK.decode()).exists()
        call += 5
    assert call > 60
    # Whole batches, and nothing between them.
    assert {0, 3, 6} <= recorded <= {0, 3, 6, FILES}


def test_a_second_run_opens_no_object_of_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, contents = some_world()
    back(world, tmp_path / "to")
    journal = tmp_path / "to" / MANIFEST.decode()
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4]))
    for line in manifest(tmp_path / "to"):
        assert line["file"] in contents
    kept = {line["file"] for line in manifest(tmp_path / "to")}
    for name in contents.keys() - kept:
        (tmp_path / "to" / name).unlink()
    read: list[str] = []
    real = StoredCopies.read
    monkeypatch.setattr(StoredCopies, "read", lambda *asked: (read.append(asked[1].key.id), real(*asked))[1])
    back(world, tmp_path / "to")
    assert len(read) == FILES - len(kept) == 3
    assert whole(tmp_path / "to") == contents


@pytest.mark.parametrize("call", range(4, 60, 8))
def test_a_full_disk_within_a_batch_keeps_every_name_whole(tmp_path: Path, call: int) -> None:
    """It stays full from there on."""
    world, contents = some_world()

    class Full(Trap):
        def _guard(self, real: Any) -> Any:
            def call_(*args: Any, **named: Any) -> Any:
                self.calls += 1
                if self.calls >= self._at and getattr(real, "__name__", "") in {"write", "mkdir"}:
                    self._spring()
                return real(*args, **named)

            return call_

    def fill_up() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        Full(patched, call, fill_up)
        with suppress(OSError, TreeError):
            back(world, tmp_path / "to")
    assert whole(tmp_path / "to").items() <= contents.items()
    assert back(world, tmp_path / "to")[1] == []
    assert whole(tmp_path / "to") == contents


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_nothing_of_a_batch_that_could_not_be_synced_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    world, contents = some_world()
    calls = 0

    def sync_volume(_self: OsFiles, _fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(OsFiles, "sync_volume", sync_volume)
    with pytest.raises(TreeError, match="its disk fails"):
        back(world, tmp_path / "to")
    assert len(whole(tmp_path / "to")) == 3 * (failing - 1)
    monkeypatch.undo()
    assert back(world, tmp_path / "to")[1] == []
    assert whole(tmp_path / "to") == contents


def test_where_no_sync_of_the_volume_can_be_trusted_every_file_and_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, contents = some_world()
    monkeypatch.setattr(batch, "_TRUSTED", {})
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115 -- as the kernel names it
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    back(world, tmp_path / "to")
    assert whole(tmp_path / "to") == contents
    assert sum(name.endswith(".part") for name in synced) == FILES
    last = {name: at for at, name in enumerate(synced)}
    assert {str(tmp_path / "to/folder 0"), str(tmp_path / "to/folder 1"), str(tmp_path / "to")} <= last.keys()
    first = min(at for name, at in last.items() if name.endswith(".part"))
    assert last[str(tmp_path / "to/folder 0")] > first + 2


# --- names that somebody else took -----------------------------------------------------------------------------------


def test_a_file_that_appears_in_a_new_folder_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, contents = some_world()
    place = NewFiles.place

    def late(self: NewFiles, name: bytes, path: Any) -> None:
        if path[-1] == b"file 2":
            (tmp_path / "to/folder 0/file 2").write_bytes(b"mine")
        place(self, name, path)

    monkeypatch.setattr(NewFiles, "place", late)
    _, findings = back(world, tmp_path / "to")
    assert [(each.name, each.problem) for each in findings] == [("folder 0/file 2", "in_the_way")]
    assert whole(tmp_path / "to") == contents | {"folder 0/file 2": b"mine"}


@pytest.mark.parametrize("way", ["renameat2", "unknown to the file system", "no such call"])
def test_a_name_is_never_taken_from_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "no such call":
        monkeypatch.setattr(rename, "_renameat2", None)
    elif way != "renameat2":
        monkeypatch.setattr(rename, "_UNKNOWN", {*rename._UNKNOWN, errno.ENOENT, errno.EEXIST, 0})
        monkeypatch.setattr(rename, "_renameat2", lambda *_: -1)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "taken").write_bytes(b"old")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            rename.rename_new(b"new", b"taken", src_dir_fd=folder, dst_dir_fd=folder)
        rename.rename_new(b"new", b"free", src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"taken": b"old", "free": b"new"}
