"""The folder: everything in it is found, and nothing outside of it can be had."""

from __future__ import annotations

import os
import resource
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kropot.errors import UsageError
from kropot.gateway.sources import (
    FolderSource,
    NotServedError,
    ScannedEntry,
    ScannedFile,
    Skipped,
    Unreadable,
    identity_parts,
    path_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SECRET = b"what lies outside"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    folder = tmp_path / "root"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "file").write_bytes(b"inside")
    (folder / "sub" / "deep" / "file").write_bytes(b"deep inside")
    return folder


def tree(root: Path) -> FolderSource:
    return FolderSource(os.fsencode(root))


def found(root: Path) -> set[bytes]:
    return {item.path for item in tree(root).walk() if isinstance(item, ScannedFile)}


def read(root: Path, path: bytes) -> bytes:
    descriptor, _ = tree(root).open(path)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def test_walk_finds_every_regular_file(root: Path) -> None:
    assert found(root) == {b"file", b"sub/deep/file"}
    assert read(root, b"sub/deep/file") == b"deep inside"


def test_names_of_any_bytes_are_found_and_opened(root: Path) -> None:
    folder = os.open(root, os.O_RDONLY)
    names = {bytes([byte]) for byte in range(1, 256)} - {b"/", b"."}
    names |= {b"...", b"\xff\xfe", "ż".encode(), b"a" * 255}
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    assert found(root) == names | {b"file", b"sub/deep/file"}
    for name in names:
        assert read(root, name) == b""


@pytest.mark.parametrize(
    "path",
    [
        b"../outside/secret",
        b"sub/../../outside/secret",
        b"sub/../file",
        b"/etc/passwd",
        b"//etc/passwd",
        b"file/",
        b"file/x",
        b"./file",
        b"sub//deep/file",
        b"sub",
        b"",
        b".",
        b"..",
        b"file\0",
        b"file\0/../../outside/secret",
        b"a" * 10_000,
        b"a/" * 5_000,
    ],
)
def test_path_that_is_no_files_own_leads_nowhere(root: Path, path: bytes) -> None:
    with pytest.raises(NotServedError):
        tree(root).open(path)


@given(
    parts=st.lists(
        st.sampled_from([b"..", b".", b"", b"sub", b"deep", b"file", b"out", b"outside", b"secret", b"\0", b"%2e%2e"]),
        max_size=8,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_out(root: Path, parts: list[bytes]) -> None:
    if not (root / "out").is_symlink():
        (root / "out").symlink_to("../outside")
    try:
        content = read(root, b"/".join(parts))
    except NotServedError:
        content = b"inside"
    assert content.endswith(b"inside")


@pytest.mark.parametrize(
    "target",
    ["../outside/secret", "sub/../../outside/secret", "ABSOLUTE", "sub/deep/../../../outside/secret", "/etc/passwd"],
)
def test_symlink_out_of_the_folder_is_not_followed(root: Path, target: str) -> None:
    target = str(root.parent / "outside" / "secret") if target == "ABSOLUTE" else target
    (root / "link").symlink_to(target)
    assert b"link" not in found(root)
    with pytest.raises(NotServedError):
        tree(root).open(b"link")


def test_folder_symlinks_are_not_walked(root: Path) -> None:
    (root / "out").symlink_to("../outside")
    (root / "again").symlink_to("sub")
    (root / "self").symlink_to(".")
    assert found(root) == {b"file", b"sub/deep/file"}
    with pytest.raises(NotServedError):
        tree(root).open(b"out/secret")


def test_symlink_to_a_file_inside_is_that_file(root: Path) -> None:
    (root / "sub" / "up").symlink_to("../file")
    (root / "chain").symlink_to("sub/./up")
    assert found(root) == {b"file", b"sub/deep/file", b"sub/up", b"chain"}
    assert read(root, b"chain") == b"inside"
    assert tree(root).look(b"chain") == tree(root).look(b"file")


def test_an_absolute_symlink_inside_is_followed_under_every_name_of_the_folder(root: Path) -> None:
    other = root.parent / "other name"
    other.symlink_to(root)
    (root / "absolute").symlink_to(root / "file")
    (root / "sub" / "by the other name").symlink_to(other / "sub" / "deep" / "file")
    (root / "sub" / "chain").symlink_to(root / "sub" / ".." / "absolute")
    (root / "beside").symlink_to(f"{root}er/secret")
    (root / "up").symlink_to(f"{root}/../outside/secret")
    (root / "itself").symlink_to(root)
    source = FolderSource(os.fsencode(root), os.fsencode(other))
    items = list(source.walk())
    links = {item.path for item in items if isinstance(item, Skipped) and item.kind == "links"}
    assert links == {b"beside", b"up", b"itself"}, "and none is dropped without a word"
    files = {item.path for item in items if isinstance(item, ScannedFile)}
    assert files == {b"file", b"sub/deep/file", b"absolute", b"sub/by the other name", b"sub/chain"}
    assert source.look(b"absolute") == source.look(b"file") == source.look(b"sub/chain")
    assert source.look(b"sub/by the other name") == source.look(b"sub/deep/file")
    for path in links:
        assert source.look(path) is None


def test_symlinks_that_lead_nowhere_end(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (root / "dangling").symlink_to("nothing")
    (root / "slash").symlink_to("file/")
    (root / "growing").symlink_to("growing/growing")
    assert found(root) == {b"file", b"sub/deep/file"}


def test_what_is_neither_file_nor_folder_is_passed_over_without_waiting(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()  # noqa: PTH109 - a socket's path is short
        os.chdir(root)
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
        assert found(root) == {b"file", b"sub/deep/file"}
        for name in (b"fifo", b"socket"):
            with pytest.raises(NotServedError):
                tree(root).open(name)


def test_swapping_a_folder_for_a_symlink_never_gives_what_lies_outside(root: Path) -> None:
    """A writer of the folder swaps `sub` for a symlink to the outside as fast as it can."""
    (root / "sub" / "secret").write_bytes(b"inside")
    (root / "trap").symlink_to("../outside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "sub", root / "aside")  # noqa: PTH104 - as fast as possible
            os.rename(root / "trap", root / "sub")  # noqa: PTH104
            os.rename(root / "sub", root / "trap")  # noqa: PTH104
            os.rename(root / "aside", root / "sub")  # noqa: PTH104

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = []
    try:
        for _ in range(3000):
            try:
                outcomes.append(read(root, b"sub/secret"))
            except NotServedError:
                outcomes.append(None)
        walked = [item for _ in range(50) for item in tree(root).walk()]
    finally:
        stop.set()
        swapper.join()
    assert SECRET not in outcomes
    assert b"inside" in outcomes
    assert None in outcomes, "the swap was never met: this shows nothing"
    assert not [item for item in walked if isinstance(item, ScannedFile) and item.seen.size == len(SECRET)]


def test_folder_that_vanishes_under_a_walk_is_passed_over(root: Path) -> None:
    for number in range(200):
        (root / f"d{number}").mkdir()
        (root / f"d{number}" / "f").write_bytes(b"")
    paths = set()
    for item in tree(root).walk():
        for number in range(200):
            if (root / f"d{number}").exists():
                (root / f"d{number}" / "f").unlink()
                (root / f"d{number}").rmdir()
        if isinstance(item, ScannedFile):
            paths.add(item.path)
    assert paths >= {b"file"}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Take root's powers away for a while, if we have them: root reads everything."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


def test_folder_that_cannot_be_read_is_told() -> None:
    with TemporaryDirectory() as place:
        root = Path(place)
        root.chmod(0o755)
        (root / "file").write_bytes(b"")
        (root / "sub").mkdir(mode=0)
        try:
            with as_nobody():
                items = [item for item in tree(root).walk() if not isinstance(item, ScannedEntry)]
        finally:
            (root / "sub").chmod(0o755)
    assert [item for item in items if isinstance(item, Unreadable)] == [Unreadable(path=b"sub", reason="EACCES")]
    assert [item.path for item in items if isinstance(item, ScannedFile)] == [b"file"]


def test_walk_opens_no_more_than_one_folder_a_level(root: Path) -> None:
    for number in range(300):
        (root / f"w{number}").mkdir()
        (root / f"w{number}" / "f").write_bytes(b"")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    most = 0
    for _ in tree(root).walk():
        most = max(most, len(os.listdir("/proc/self/fd")) - before)  # noqa: PTH208 - a count
    assert most <= 10
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - a count


def test_a_tree_deeper_than_the_limit_of_descriptors_is_served_whole(root: Path) -> None:
    levels = 300
    allowed = len(os.listdir("/proc/self/fd")) + 100  # noqa: PTH208 - a count
    folder = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(b"n", dir_fd=folder)
        deeper = os.open(b"n", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
        os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.symlink("/".join([".."] * 3) + "/f", b"up", dir_fd=folder)
    os.close(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    try:
        walked = list(tree(root).walk())
        items = [item for item in walked if not isinstance(item, ScannedEntry)]
        assert len(walked) - len(items) == levels + 4, "each folder, the root, and the symlink itself"
        assert not [item for item in items if not isinstance(item, ScannedFile)]
        deep = max((item.path for item in items if isinstance(item, ScannedFile)), key=len)
        assert len(items) == levels + len(found_above(items)) + 1
        descriptor, _ = tree(root).open(b"n/" * levels + b"up")
        os.close(descriptor)
        assert deep == b"n/" * levels + b"up"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def found_above(items: Iterable[object]) -> set[bytes]:
    """The files beside the deep tree."""
    return {item.path for item in items if isinstance(item, ScannedFile) and not item.path.startswith(b"n/")}


def test_the_file_systems_own_folder_is_not_told_as_unreadable() -> None:
    with TemporaryDirectory() as place:
        root = Path(place)
        root.chmod(0o755)
        (root / "lost+found").mkdir(mode=0)
        try:
            with as_nobody():
                items = [item for item in tree(root).walk() if not isinstance(item, ScannedEntry)]
        finally:
            (root / "lost+found").chmod(0o755)
    assert items == []


def test_too_long_path_is_told_and_not_silently_left_out(root: Path) -> None:
    folder = os.open(root, os.O_RDONLY)
    for _ in range(17):
        os.mkdir(b"n" * 250, dir_fd=folder)
        deeper = os.open(b"n" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    reasons = [item.reason for item in tree(root).walk() if isinstance(item, Unreadable)]
    assert reasons == ["ENAMETOOLONG"]


def test_identity_differs_with_each_of_its_parts(root: Path) -> None:
    from msgspec.structs import replace

    looks = tree(root).look(b"file")
    assert looks is not None
    assert identity_parts(looks.identity) == (6, looks.mtime_ns)
    others = [
        replace(looks, dev=looks.dev + 1),
        replace(looks, ino=looks.ino + 1),
        replace(looks, size=looks.size + 1),
        replace(looks, mtime_ns=looks.mtime_ns + 1),
        replace(looks, ctime_ns=looks.ctime_ns + 1),
        replace(looks, mtime_ns=-1),
        replace(looks, ino=(1 << 64) - 1, mtime_ns=1 << 63),
    ]
    assert len({each.identity for each in [looks, *others]}) == len(others) + 1


def test_keys_of_one_folder_are_neighbours_and_all_differ() -> None:
    keys = [path_key(b"a/%d" % number) for number in range(100)]
    assert len({key[:8] for key in keys}) == 1
    assert len(set(keys)) == 100
    assert path_key(b"b/1")[:8] != keys[0][:8]


def test_source_that_is_no_folder_is_refused(root: Path) -> None:
    for path in (root / "file", root / "nothing"):
        with pytest.raises(UsageError, match="cannot serve"):
            tree(path)
