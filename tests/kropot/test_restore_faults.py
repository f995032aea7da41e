"""A restore or export that is stopped anywhere leaves only whole files under their names, and a second run goes on."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from kropot.durable import rename, target
from kropot.durable.refusals import TreeError
from kropot.durable.target import WORK
from kropot.objects.memory import MemoryObjects
from kropot.processes import threads_have_ended
from kropot.replay.fold import walk
from kropot.replay.snapshots import pointers_at
from kropot.restore.export import Unexported
from kropot.restore.opener import BUFFER, copy_content
from kropot.sc2.kit import CbcKey
from kropot.securecopy.sealing import Sealer
from ledger.sql.opening import open_store
from tests.kropot.replay_world import KIT, World
from tests.kropot.test_restore_job import back, files, held_in, send_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.replay.copies import HeldCopy

KILLED = 77
CALLS = ("open", "write", "fsync", "link", "unlink", "mkdir", "utime", "fchmod", "ftruncate", "replace")


class Trap:
    """Counts the calls that change the disk, and springs at one of them, once."""

    def __init__(self, patched: pytest.MonkeyPatch, at: int, spring: Callable[[], None]) -> None:
        self.calls = 0
        self._at = at
        self._spring = spring
        for name in CALLS:
            patched.setattr(os, name, self._guard(getattr(os, name)))
        patched.setattr(rename, "_renameat2", self._guard(rename._renameat2))

    def _guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                self._spring()
            return real(*args, **named)

        return call


def killed_at(call: int, work: Callable[[], None]) -> bool:
    """Do the work in a process of its own that ends, without a word, at its n-th call; return whether it came there."""
    threads_have_ended()  # where a library of another test has threads, they stay
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.MonkeyPatch.context() as patched:
                Trap(patched, call, lambda: os._exit(KILLED))
                work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, KILLED}
    return code == KILLED


def small_world() -> tuple[World, dict[str, bytes]]:
    world = World()
    source = world.source()
    contents = {f"folder {number % 2}/file {number}.txt": b"%d" % number * 40 for number in range(2)}
    for name, content in contents.items():
        world.put_path(source, name.encode(), content, mtime_ns=10**18, mode=0o640)
    return world, contents


def run_out(world: World, to: Path, *, exporting: bool) -> None:
    if exporting:
        send_out(world, to)
    else:
        back(world, to)


def whole(to: Path) -> dict[str, bytes]:
    """Return what has a name in the folder, its workroom and journals aside."""
    found = files(to) if to.exists() else {}
    for name in [*found]:
        if name.startswith(WORK.decode()) or name in {".kropot-export.jsonl", "manifest.jsonl"}:
            del found[name]
    return found


def every_kill(folder: Path, *, exporting: bool) -> None:
    """Kill the work at each of its calls."""
    world, _ = small_world()
    run_out(world, folder / "undisturbed", exporting=exporting)
    expected = whole(folder / "undisturbed")
    assert len(expected) == 2
    call = 1
    while killed_at(call, partial(run_out, world, folder / f"{call}", exporting=exporting)):
        to = folder / f"{call}"
        assert whole(to).items() <= expected.items()
        run_out(world, to, exporting=exporting)
        assert whole(to) == expected
        assert not (to / WORK.decode()).exists()
        call += 1
    assert call > 30


@pytest.mark.parametrize("exporting", [False, True])
def test_a_kill_at_any_moment_leaves_whole_files_and_a_second_run_goes_on(tmp_path: Path, *, exporting: bool) -> None:
    work = f"from {__name__} import every_kill; every_kill(Path({str(tmp_path)!r}), exporting={exporting})"
    done = subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path; {work}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("call", range(1, 46, 6))
def test_a_full_disk_loses_nothing_and_a_second_run_goes_on(tmp_path: Path, call: int) -> None:
    world, contents = small_world()

    def fill_up() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        trap = Trap(patched, call, fill_up)
        with suppress(OSError, TreeError):
            back(world, tmp_path / "to")
    assert trap.calls >= call
    assert whole(tmp_path / "to").items() <= contents.items()
    _, findings = back(world, tmp_path / "to")
    assert findings == []
    assert whole(tmp_path / "to") == contents


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    world, _ = small_world()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(TreeError, match=r"No space left on device; free some space and run the same command again"):
            back(world, tmp_path / "to")
    assert whole(tmp_path / "to") == {}


# --- one file, or everything -----------------------------------------------------------------------------------------


def refuse_names(patched: pytest.MonkeyPatch, number: int, word: bytes) -> None:
    """Let a file get no name with this word in it."""
    real: Any = rename._renameat2

    def refused(src: int, old: bytes, dst: int, new: bytes, flags: int) -> int:
        if word not in new:
            return int(real(src, old, dst, new, flags))
        ctypes.set_errno(number)
        return -1

    patched.setattr(rename, "_renameat2", refused)


def refuse(patched: pytest.MonkeyPatch, call: str, number: int, word: bytes) -> None:
    """Let a call that is about something with this word fail with an error number."""
    if call == "rename":
        refuse_names(patched, number, word)
        return
    real = getattr(os, call)

    def refused(*args: Any, **named: Any) -> Any:
        if any(isinstance(each, bytes | memoryview) and word in bytes(each) for each in args):
            raise OSError(number, os.strerror(number))
        return real(*args, **named)

    patched.setattr(os, call, refused)


@pytest.mark.parametrize(
    ("call", "number", "problem"),
    [
        ("write", errno.EFBIG, "too_large"),
        ("write", errno.EINVAL, "unplaceable"),
        ("rename", errno.ENAMETOOLONG, "unplaceable"),
        ("rename", errno.EILSEQ, "unplaceable"),
        ("rename", errno.EACCES, "unplaceable"),
        ("rename", errno.EEXIST, "in_the_way"),
        ("rename", 4095, "unplaceable"),  # a number that nobody foresaw
        ("mkdir", errno.ENAMETOOLONG, "unplaceable"),
        ("mkdir", errno.EINVAL, "unplaceable"),
        ("mkdir", errno.EPERM, "unplaceable"),
        ("mkdir", errno.ELOOP, "in_the_way"),
    ],
)
def test_what_the_target_refuses_of_one_file_is_a_finding_and_the_rest_comes(
    tmp_path: Path, call: str, number: int, problem: str
) -> None:
    world, contents = small_world()
    word = {"write": b"0" * 20, "rename": b"file 0.txt", "mkdir": b"folder 0"}[call]
    with pytest.MonkeyPatch.context() as patched:
        refuse(patched, call, number, word)
        _, findings = back(world, tmp_path / "to")
    assert [(each.problem, each.name) for each in findings] == [(problem, "folder 0/file 0.txt")]
    assert whole(tmp_path / "to") == {"folder 1/file 1.txt": contents["folder 1/file 1.txt"]}
    assert back(world, tmp_path / "to")[1] == []
    assert whole(tmp_path / "to") == contents


@pytest.mark.parametrize("exporting", [False, True])
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENOTCONN]
)
def test_what_stops_the_whole_target_ends_the_run_and_a_second_run_goes_on(
    tmp_path: Path, number: int, *, exporting: bool
) -> None:
    world, contents = small_world()
    word = b"" if exporting else b"0" * 20
    with pytest.MonkeyPatch.context() as patched:
        refuse(patched, "write", number, word)
        with pytest.raises(TreeError, match=f"{os.strerror(number)}; .*run the same command again"):
            run_out(world, tmp_path / "to", exporting=exporting)
    run_out(world, tmp_path / "to", exporting=exporting)
    assert len(whole(tmp_path / "to")) == len(contents)


@pytest.mark.parametrize("exporting", [False, True])
def test_a_file_above_the_largest_size_of_a_file_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exporting: bool
) -> None:
    monkeypatch.setattr("kropot.restore.fingerprints._FIRST_SLOTS", 1024)
    world, contents = small_world()
    world.put_path(next(iter(world.elements)).source, b"large", bytes(200_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        _, findings = (send_out if exporting else back)(world, tmp_path / "to")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    flaws = [each.flaw if isinstance(each, Unexported) else each.problem for each in findings]
    assert flaws == ["too_large"]
    assert len(whole(tmp_path / "to")) == len(contents)


@pytest.mark.parametrize("exporting", [False, True])
def test_a_file_larger_than_the_free_room_is_a_finding_while_others_fit(tmp_path: Path, *, exporting: bool) -> None:
    world, _ = small_world()

    class Free:
        f_bavail, f_frsize = 40, 1

    with pytest.MonkeyPatch.context() as patched:
        refuse(patched, "write", errno.ENOSPC, b"" if exporting else b"0" * 20)
        patched.setattr(os, "fstatvfs", lambda _: Free)
        with pytest.raises(TreeError):  # 40 bytes are a full disk
            run_out(world, tmp_path / "to", exporting=exporting)
        patched.setattr(target, "MUCH_ROOM", 40)
        if not exporting:
            _, findings = back(world, tmp_path / "to")
            assert [(each.problem, each.name) for each in findings] == [("too_large", "folder 0/file 0.txt")]
            assert "40 B are free" in findings[0].why
            assert list(whole(tmp_path / "to")) == ["folder 1/file 1.txt"]


# --- memory ----------------------------------------------------------------------------------------------------------


class Endless:
    """A sealed content of zeros, made while it is read."""

    def __init__(self, sealer: Sealer, size: int) -> None:
        self._sealed = self._seal(sealer, size)
        self._held = b""

    def readinto(self, buffer: memoryview) -> int:
        self._held = self._held or next(self._sealed, b"")
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        return count

    @staticmethod
    def _seal(sealer: Sealer, size: int) -> Iterator[bytes]:
        out = bytearray(Sealer.room(BUFFER))
        for _ in range(size // BUFFER):
            yield bytes(memoryview(out)[: sealer.update_into(bytes(BUFFER), out)])
        yield sealer.finish()


def test_a_content_of_any_size_takes_a_few_buffers() -> None:
    world = World()
    key = world.put(world.source(), "a", b"")
    with held_in(world) as helds:
        held: HeldCopy = next(helds)
    assert held.key == key
    assert held.iv is not None
    size, written = 40 << 20, 0

    def write(data: memoryview) -> None:
        nonlocal written
        written += len(data)

    source: BinaryIO = Endless(Sealer(KIT.key(held.iv), held.iv), size)  # type: ignore[assignment]  # all that is read of it
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match="not those that were recorded"):
            copy_content(source, write, held=held, kit=CbcKey(kit=KIT))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size - 16 <= written <= size
    assert peak < 8 * BUFFER


def test_a_walk_takes_no_more_memory_for_more_elements(tmp_path: Path) -> None:
    def peak(elements: int) -> int:
        store = open_store(f"sqlite:///{tmp_path / str(elements)}.db", create=True)
        world = World(store, objects=MemoryObjects())
        source = world.source(None)
        world.see_many(source, elements)
        position = world.ledger.head().position
        tracemalloc.start()
        try:
            with pointers_at(world.ledger, position) as pointers:
                assert sum(1 for _ in walk(world.ledger, pointers, position)) == elements
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            store.close()

    assert peak(22_000) < 1.3 * peak(11_000)


def test_a_thread_that_only_the_system_knows_forbids_a_fork() -> None:
    """A thread of a library is one, and so is a joined one that is still ending, and can hold a lock."""
    program = (
        "import _thread, threading; from kropot.processes import can_fork\n"
        "assert can_fork()\n"
        "begin = threading.Lock(); begin.acquire(); _thread.start_new_thread(begin.acquire, ())\n"
        "assert threading.active_count() == 1\n"
        "assert not can_fork()\n"
        "begin.release()\n"
        "assert can_fork()\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], timeout=60, check=True)
