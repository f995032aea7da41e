"""A directory store that is killed, broken or robbed of its power between any two steps keeps what it acknowledged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from kropot.durable.batch import Choice
from kropot.durable.errors import DiscardedError, StorageError, StorageFullError, storage_error
from kropot.durable.filesystem import OsFiles
from kropot.errors import LockedError
from kropot.objects.directory import DirectoryObjects
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published, PublishError
from tests.faults.files import ForgetfulFiles, Killed, UnsyncedFiles, WatchedFiles, failing_at, killed_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.durable.batch import Method
    from kropot.durable.filesystem import FileSystem

BATCHES = [
    [b"a", b"bb", bytes(2_300), b"a"],
    [b"", b"known before", b"damaged before", b"bb"],
    [b"last"],
]
"""What one run stores: small, large, empty, twice, known and damaged objects."""

METHODS: list[Method] = ["syncfs", "fsync"]

RULES = [PackRule()]
"""The last of them says what goes into packs in this test."""


@pytest.fixture(params=["files", "packs"])
def rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything small in files of their own, or in packs."""
    if request.param == "packs":
        monkeypatch.setattr(sys.modules[__name__], "RULES", [PackRule(below=1000, worth=1)])


def name(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def choice(method: Method) -> Choice:
    return Choice(method=method, why="the test says so")


def prepare(root: Path, files: FileSystem) -> None:
    """Leave what an earlier run and a bad disk left: one object, one damaged object, one unfinished upload."""
    store = DirectoryObjects(root, "one", files=files, choice=choice("syncfs"), held_back=1000)
    store.lock()
    batch = []
    for content in (b"known before", b"damaged before"):
        upload = store.stage()
        upload.write(content)
        batch.append(upload.finish())
    store.publish(batch)
    upload = store.stage()
    upload.write(b"unfinished")
    upload.finish()
    store.close()
    sha256 = name(b"damaged before").hex()
    (root / "objects" / sha256[:2] / sha256).write_bytes(b"rotten")


def run(store: DirectoryObjects, acknowledged: set[bytes]) -> list[PublishError]:
    """Store everything; note what was acknowledged as soon as it was, return what was refused."""
    refused = []
    store.clean_own_leftovers(lambda _: False)
    for contents in BATCHES:
        batch = []
        for content in contents:
            upload = store.stage()
            for start in range(0, len(content), 400):
                upload.write(content[start : start + 400])
            batch.append(upload.finish())
        for outcome in store.publish(batch):
            if isinstance(outcome, Published):
                acknowledged.add(outcome.sha256)
            else:
                refused.append(outcome)
    return refused


def run_and_close(store: DirectoryObjects, acknowledged: set[bytes]) -> None:
    assert run(store, acknowledged) == []
    store.close()


def bury(store: DirectoryObjects, files: WatchedFiles) -> None:
    """End what a process that is gone takes with it: its threads, its descriptors and its lock."""
    if store._durability is not None and store._durability._pool is not None:
        store._durability._pool.shutdown()
    files.bury()
    store._lock.release()


def assert_nothing_lost(root: Path, acknowledged: set[bytes]) -> None:
    """Whatever was acknowledged is there; whatever has a name is what its name says, old damage aside."""
    store = DirectoryObjects(root, "reader")
    found = {}
    for sha256, _ in store.walk():
        with store.open(sha256) as reader:
            found[sha256] = reader.read()
    store.close()
    assert acknowledged <= found.keys()
    wrong = {sha256 for sha256, content in found.items() if name(content) != sha256}
    assert wrong <= {name(b"damaged before")} - acknowledged


def assert_recovers(root: Path) -> None:
    """The next start takes over at once, cleans up and stores everything."""
    store = DirectoryObjects(root, "one", files=UnsyncedFiles(), choice=choice("syncfs"), pack=RULES[-1])
    acknowledged: set[bytes] = set()
    assert run(store, acknowledged) == []
    assert acknowledged == {name(content) for batch in BATCHES for content in batch}
    assert_nothing_lost(root, acknowledged)
    assert [left for left in store.leftovers() if left.kind == "temporary"] == []
    store.close()


def steps_of(root: Path, method: Method) -> list[str]:
    """Return the names of all steps of an undisturbed run."""
    prepare(root, UnsyncedFiles())
    files = WatchedFiles(UnsyncedFiles())
    store = DirectoryObjects(root, "one", files=files, choice=choice(method), held_back=1000, pack=RULES[-1])
    assert run(store, set()) == []
    store.close()
    return [step for step, _ in files.steps]


@pytest.mark.usefixtures("rule")
@pytest.mark.parametrize("method", METHODS)
def test_kill_between_any_two_steps_loses_nothing_acknowledged(tmp_path: Path, method: Method) -> None:
    steps = steps_of(tmp_path / "undisturbed", method)
    assert {"create", "write", "rename", "unlink", "make_folder", "sync_folder", "sync_file"} <= set(steps)
    for at in range(len(steps)):
        root = tmp_path / str(at)
        prepare(root, UnsyncedFiles())
        met: list[int] = []

        def kill(number: int, name: str, at: int = at, met: list[int] = met) -> None:
            met.append(number)
            killed_at(at)(number, name)

        files = WatchedFiles(UnsyncedFiles(), kill)
        store = DirectoryObjects(root, "one", files=files, choice=choice(method), held_back=1000, pack=RULES[-1])
        acknowledged: set[bytes] = set()
        try:
            run_and_close(store, acknowledged)
        except Killed:
            pass
        else:
            # It can be a thread's whose file went into a pack, so that nobody waits for it; ours never hides it.
            assert threading.current_thread() not in files.killed
        assert at in met
        assert files.killed
        bury(store, files)
        assert_nothing_lost(root, acknowledged)
        assert_recovers(root)


@pytest.mark.usefixtures("rule")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("method", METHODS)
def test_failure_of_any_step_is_a_clear_error_and_loses_nothing(tmp_path: Path, method: Method, number: int) -> None:
    steps = steps_of(tmp_path / "undisturbed", method)
    for at in range(len(steps)):
        root = tmp_path / str(at)
        prepare(root, UnsyncedFiles())
        files = WatchedFiles(UnsyncedFiles(), failing_at(at, number))
        store = DirectoryObjects(root, "one", files=files, choice=choice(method), held_back=1000, pack=RULES[-1])
        acknowledged: set[bytes] = set()
        try:
            told: list[StorageError] = [refused.error for refused in run(store, acknowledged)]
            store.close()
        except StorageError as error:
            told = [error]
        for error in told:
            assert "full" in str(error) or "input/output" in str(error) or isinstance(error, DiscardedError)
            assert str(root) in str(error) or "a file" in str(error)
        bury(store, files)
        assert_nothing_lost(root, acknowledged)
        assert_recovers(root)


@pytest.mark.usefixtures("rule")
@pytest.mark.parametrize("method", METHODS)
def test_power_loss_at_any_step_loses_nothing_acknowledged(tmp_path: Path, method: Method) -> None:
    steps = len(steps_of(tmp_path / "undisturbed", method))
    for at in range(steps + 1):
        for seed in range(1 if RULES[-1].worth == 1 else 3):
            assert_survives(tmp_path / f"{at}-{seed}", method, at, random.Random(1000 * at + seed))


@pytest.mark.usefixtures("rule")
@pytest.mark.parametrize("method", METHODS)
def test_power_loss_after_a_kill_and_a_second_run_loses_nothing_acknowledged(tmp_path: Path, method: Method) -> None:
    """The killed process made folders that it did not sync: the next one finds them, and MUST sync them itself."""
    steps = len(steps_of(tmp_path / "undisturbed", method))
    for at in range(steps + 1):
        folder = tmp_path / str(at)
        root, disk = folder / "volume" / "new" / "store", ForgetfulFiles(folder)
        for made in (folder, folder / "volume"):
            disk.make_folder(str(made))
        disk.sync_folder(str(folder))
        acknowledged = die_at(root, disk, method, at) | die_at(root, disk, method, 10**6)
        disk.lose_power(folder / "survivors", random.Random(at))
        assert_nothing_lost(folder / "survivors" / "volume" / "new" / "store", acknowledged)


def test_what_was_set_aside_survives_a_power_loss(tmp_path: Path) -> None:
    for seed in range(20):
        folder = tmp_path / str(seed)
        disk = ForgetfulFiles(folder)
        disk.make_folder(str(folder))
        store = DirectoryObjects(folder, "one", files=disk, choice=choice("fsync"), held_back=1000)
        acknowledged: set[bytes] = set()
        run(store, acknowledged)
        sha256 = name(b"last")
        disk.rot(str(folder / "objects" / sha256.hex()[:2] / sha256.hex()), b"rotten")
        store.set_aside(sha256)
        disk.lose_power(folder / "survivors", random.Random(seed))
        assert [path.read_bytes() for path in (folder / "survivors" / "quarantine").iterdir()] == [b"rotten"]
        assert_nothing_lost(folder / "survivors", acknowledged - {sha256})
        store.close()


def assert_survives(folder: Path, method: Method, at: int, chance: random.Random) -> None:
    disk = ForgetfulFiles(folder)
    root = folder / "volume" / "store"
    disk.make_folder(str(folder))
    disk.make_folder(str(folder / "volume"))
    disk.sync_folder(str(folder))
    acknowledged = die_at(root, disk, method, at)
    disk.lose_power(folder / "survivors", chance)
    survivors = folder / "survivors" / "volume" / "store"
    assert_nothing_lost(survivors, acknowledged)
    survivors.mkdir(parents=True, exist_ok=True)
    assert_recovers(survivors)


def die_at(root: Path, disk: FileSystem, method: Method, at: int) -> set[bytes]:
    """Run until step `at` on a disk, and return what was acknowledged by then."""
    files = WatchedFiles(disk, killed_at(at))
    store = DirectoryObjects(root, "one", files=files, choice=choice(method), held_back=1000, pack=RULES[-1])
    acknowledged: set[bytes] = set()
    with contextlib.suppress(Killed):
        run(store, acknowledged)
    bury(store, files)
    return acknowledged


class ForgetfulLiar(ForgetfulFiles):
    """A disk whose syncs say that all is well, and do nothing."""

    def sync_volume(self, fd: int) -> None:
        self._inode_free = fd

    def sync_file(self, fd: int) -> None:
        self._inode_free = fd


@pytest.mark.usefixtures("rule")
@pytest.mark.parametrize("method", METHODS)
def test_power_loss_check_finds_a_store_whose_syncs_do_nothing(tmp_path: Path, method: Method) -> None:
    folder = tmp_path / "liar"
    disk = ForgetfulLiar(folder)
    disk.make_folder(str(folder))
    acknowledged = die_at(folder / "store", disk, method, 10**6)
    disk.lose_power(tmp_path / "survivors", random.Random(1))
    with pytest.raises(AssertionError):
        assert_nothing_lost(tmp_path / "survivors" / "store", acknowledged)


def test_unsynced_rename_of_another_writer_is_made_durable_before_it_is_named(tmp_path: Path) -> None:
    """One writer dies between its rename and the folder's sync; another then stores the same content."""
    for seed in range(20):
        folder = tmp_path / str(seed)
        disk = ForgetfulFiles(folder)
        disk.make_folder(str(folder))
        first = WatchedFiles(disk)

        def die_after_the_rename(number: int, step: str, watched: WatchedFiles = first) -> None:
            if step == "sync_folder" and any(done == "rename" for done, _ in watched.steps[:number]):
                raise Killed

        first._before = die_after_the_rename
        dead = DirectoryObjects(folder, "one", files=first, choice=choice("syncfs"), held_back=1000)
        with pytest.raises(Killed):
            run(dead, set())
        bury(dead, first)
        other = DirectoryObjects(folder, "two", files=disk, choice=choice("fsync"), held_back=1000)
        upload = other.stage()
        upload.write(b"bb")
        outcome = other.publish([upload.finish()])[0]
        assert isinstance(outcome, Published)
        assert outcome.existed
        disk.lose_power(folder / "survivors", random.Random(seed))
        assert_nothing_lost(folder / "survivors", {outcome.sha256})
        other.close()


def failing_volume_sync(files: list[str]) -> Callable[[int, str], None]:
    def before(_number: int, step: str) -> None:
        files.append(step)
        if step == "sync_volume" and files.count(step) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    return before


def test_after_a_failed_volume_sync_the_batch_is_discarded_and_never_synced_again(tmp_path: Path) -> None:
    seen: list[str] = []
    files = WatchedFiles(UnsyncedFiles(), failing_volume_sync(seen))
    store = DirectoryObjects(tmp_path, "one", files=files, choice=choice("syncfs"), held_back=1000)
    batch = []
    for content in (b"a", b"b"):
        upload = store.stage()
        upload.write(content)
        batch.append(upload.finish())
    late = store.stage()
    late.write(bytes(1 << 20))
    outcomes = store.publish(batch)
    assert all(isinstance(outcome, PublishError) for outcome in outcomes)
    assert all("input/output" in str(outcome.error) for outcome in outcomes if isinstance(outcome, PublishError))
    # An upload that was under way had bytes in the failed sync: it is discarded too, and not synced.
    outcome = store.publish([late.finish()])[0]
    assert isinstance(outcome, PublishError)
    assert isinstance(outcome.error, DiscardedError)
    assert seen.count("sync_volume") == 1
    assert "sync_file" not in seen
    assert [left for left in store.leftovers() if left.kind == "temporary"] == []
    # What is written from now on is synced one by one, which tells the sound from the unsound.
    upload = store.stage()
    upload.write(b"a")
    assert isinstance(store.publish([upload.finish()])[0], Published)
    assert seen.count("sync_volume") == 1
    assert seen.count("sync_file") == 1
    store.close()


def test_volume_is_opened_before_the_first_write_of_a_batch(tmp_path: Path) -> None:
    steps = steps_of(tmp_path, "syncfs")
    assert steps.index("open_volume") < steps.index("create")
    assert steps.count("open_volume") == 1


def test_failed_fsync_discards_its_own_file_only(tmp_path: Path) -> None:
    failed: list[int] = []

    def before(number: int, step: str) -> None:
        if step == "sync_file" and not failed:
            failed.append(number)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = DirectoryObjects(tmp_path, "one", files=WatchedFiles(UnsyncedFiles(), before), choice=choice("fsync"))
    batch = []
    for value in range(20):
        upload = store.stage()
        upload.write(bytes([value]))
        batch.append(upload.finish())
    outcomes = store.publish(batch)
    assert sum(isinstance(outcome, PublishError) for outcome in outcomes) == 1
    assert len(list(store.walk())) == 19
    store.close()


def test_folder_whose_sync_failed_is_written_again_before_it_is_believed(tmp_path: Path) -> None:
    seen: list[str] = []
    is_bad = [True]

    def before(_number: int, step: str) -> None:
        seen.append(step)
        if step == "sync_folder" and "rename" in seen and is_bad[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = DirectoryObjects(tmp_path, "one", files=WatchedFiles(UnsyncedFiles(), before), choice=choice("syncfs"))
    for kind in (PublishError, Published):
        upload = store.stage()
        upload.write(b"content")
        seen_before = seen.count("rename")
        outcome = store.publish([upload.finish()])[0]
        assert isinstance(outcome, kind)
        assert seen.count("rename") > seen_before
        is_bad[0] = False
    store.close()


def test_large_object_sets_the_disk_to_work_before_its_end_and_a_failure_of_that_counts(tmp_path: Path) -> None:
    files = WatchedFiles(UnsyncedFiles())
    store = DirectoryObjects(tmp_path / "sound", "one", files=files, choice=choice("syncfs"))
    upload = store.stage()
    for _ in range(20):
        upload.write(bytes(1 << 20))
    started = [args[1:] for step, args in files.steps if step == "start_writing"]
    assert started == [(0, 8 << 20), (8 << 20, 8 << 20)]
    assert isinstance(store.publish([upload.finish()])[0], Published)
    store.close()

    def before(_number: int, step: str) -> None:
        if step == "start_writing":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = DirectoryObjects(
        tmp_path / "bad", "one", files=WatchedFiles(UnsyncedFiles(), before), choice=choice("syncfs")
    )
    upload = store.stage()
    with pytest.raises(StorageError, match="input/output"):
        upload.write(bytes(8 << 20))
    assert list(store.leftovers()) == []
    store.close()


def test_file_size_limit_is_a_clear_error(tmp_path: Path) -> None:
    """A real refusal by the kernel, in a process of its own: the limit cannot be taken back."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from kropot.objects.directory import DirectoryObjects\n"
        "from kropot.durable.errors import StorageFullError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = DirectoryObjects(Path(sys.argv[1]), 'one'); store.lock()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        "upload = store.stage()\n"
        "try:\n"
        "    upload.write(bytes(2_000_000))\n"
        "except StorageFullError as error:\n"
        "    print(error); print(list(store.leftovers()))\n"
        "upload = store.stage(); upload.write(b'small'); print(store.publish([upload.finish()])[0].size)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "larger than the limit" in lines[0]
    assert lines[1:] == ["[]", "5"]


def test_lock_of_a_living_process_holds_and_of_a_killed_one_does_not(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from kropot.objects.directory import DirectoryObjects\n"
        "store = DirectoryObjects(Path(sys.argv[1]), 'one'); store.lock()\n"
        "print('claimed', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "claimed\n"
        store = DirectoryObjects(tmp_path, "one")
        with pytest.raises(LockedError, match=rf"instance one is already running \(process {holder.pid}\)"):
            store.lock()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        store.lock()
        store.close()


def test_files_and_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = DirectoryObjects(tmp_path / "store", "one")
        upload = store.stage()
        upload.write(b"content")
        store.publish([upload.finish()])
        store.stage().finish()
        store.close()
    finally:
        os.umask(old)
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_symbolic_link_is_no_object(tmp_path: Path) -> None:
    store = DirectoryObjects(tmp_path / "store", "one")
    upload = store.stage()
    upload.write(b"content")
    sha256 = store.publish([upload.finish()])[0].sha256
    path = tmp_path / "store" / "objects" / sha256.hex()[:2] / sha256.hex()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert store.size(sha256) is None
    assert list(store.walk()) == []
    with pytest.raises(StorageError):
        store.open(sha256)
    store.close()


def test_strays_are_named_and_are_no_objects(tmp_path: Path) -> None:
    store = DirectoryObjects(tmp_path, "one")
    store.lock()
    strays = ["README", "ab/short", f"ab/{'0' * 64}", f"zz/{'z' * 64}", "AB"]
    for stray in strays:
        path = tmp_path / "objects" / stray
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"stray") if stray != "AB" else path.mkdir()
    named = {left.path for left in store.leftovers() if left.kind == "stray"}
    assert named == {"objects/README", "objects/ab/short", f"objects/ab/{'0' * 64}", "objects/zz", "objects/AB"}
    assert list(store.walk()) == []
    store.close()


@pytest.mark.parametrize("instance", ["../../etc", "a/b", ".", "..", "%2e", "żółw", " x", "a\nb"])
def test_instance_name_cannot_leave_its_folder(tmp_path: Path, instance: str) -> None:
    store = DirectoryObjects(tmp_path / "store", instance)
    store.lock()
    folders = list((tmp_path / "store" / "tmp").iterdir())
    assert len(folders) == 1
    assert [path.name for path in folders[0].iterdir()] == ["lock"]
    assert {path.name for path in tmp_path.iterdir()} == {"store"}
    store.close()


def test_storage_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file where the folder should be")
    with pytest.raises(StorageError, match="preparing the storage folder"):
        DirectoryObjects(tmp_path / "store", "one").lock()


def test_no_space_left_as_the_kernel_says_it_is_a_full_storage() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left") as caught:
        OsFiles().write(fd, b"x")
    os.close(fd)
    assert isinstance(storage_error(caught.value, "writing"), StorageFullError)
