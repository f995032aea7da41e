"""A pipe or a device under the name of a file: it is refused at once, and nothing waits for it."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kropot.cli.failures import explain
from kropot.cli.main import cli
from kropot.cli.settings import read_token
from kropot.durable.dirfd import NotRegularError, open_named, open_regular
from kropot.durable.filesystem import OsFiles
from kropot.errors import Exit, KropotError
from kropot.objects.directory import DirectoryObjects
from kropot.segments import SegmentFolder
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.sql import open_store
from tests.ledger.world import began, copied, observed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 20
"""So long none of this takes, on the busiest machine."""


@contextmanager
def in_time() -> Iterator[None]:
    def ring(_number: int, _frame: object) -> None:
        pytest.fail("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to(path.with_name("pipe"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a ledger, objects, and the history beside them."""
    store = open_store(f"sqlite:///{tmp_path}/ledger.db", create=True)
    ledger = Ledger(store)
    ledger.append([began(), *(observed(n) for n in range(3)), *(copied(n) for n in range(3))])
    objects = DirectoryObjects(tmp_path / "storage", "main")
    objects.lock()
    objects.close()
    SegmentFolder(tmp_path / "storage", scratch=tmp_path / "storage" / "tmp").write(ledger)
    store.close()
    return tmp_path


def run(place: Path, *args: str) -> tuple[int, str, str]:
    where = ["--db-string", f"sqlite:///{place}/ledger.db", "--storage-path", str(place / "storage")]
    out, err = io.StringIO(), io.StringIO()
    with in_time(), redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.main([*where, *args], standalone_mode=False) or 0
        except (KropotError, LedgerError) as error:
            sentence, code = explain(error)
            err.write(sentence)
    return int(code), out.getvalue(), err.getvalue()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, a_socket, a_device, a_link_to_a_pipe])
def test_nothing_but_a_regular_file_is_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "odd"
    make(path)
    with in_time(), pytest.raises(NotRegularError, match="it is not a regular file"):
        open_named(path)
    if not path.is_symlink():
        with in_time(), pytest.raises(NotRegularError):
            OsFiles().open_read(str(path))
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND | os.O_CREAT):
        with in_time(), pytest.raises(OSError, match=r"not a regular file|Is a directory|symbolic links"):
            os.close(open_regular(path, flags))


def test_a_pipe_somebody_writes_to_is_refused_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "odd")
    keep = os.open(tmp_path / "odd", os.O_RDWR)
    try:
        os.write(keep, b"token")
        with in_time(), pytest.raises(NotRegularError):
            open_named(tmp_path / "odd")
    finally:
        os.close(keep)


def test_links_are_followed_only_where_they_were_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"held")
    (tmp_path / "link").symlink_to("file")
    with open_named(tmp_path / "link") as file:
        assert file.read() == b"held"
    with pytest.raises(OSError, match="symbolic links"):
        OsFiles().open_read(str(tmp_path / "link"))


def test_a_pipe_that_the_shell_opened_is_read_to_its_end() -> None:
    reading, writing = os.pipe()

    def write_slowly() -> None:
        for part in (b"a-token-", b"of-two-parts\n"):
            os.write(writing, part)
        os.close(writing)

    thread = threading.Thread(target=write_slowly)
    thread.start()
    with in_time():
        assert read_token(Path(f"/dev/fd/{reading}")).reveal() == "a-token-of-two-parts"
    thread.join()
    os.close(reading)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--config", "{odd}", "status"), "the configuration file {odd}"),
        (
            ("--token-file", "{odd}", "--server-url", "http://127.0.0.1:9", "collect", "--once"),
            "the token file {odd}",
        ),
        (("checkpoint", "sign", "--key", "{odd}"), "the signing key {odd}"),
        (("checkpoint", "list", "--public-key", "{odd}"), "the verifier key {odd}"),
        (("check-proof", "{odd}", "--public-key", "{key}"), "the proof {odd}"),
        (("restore", "--key", "{odd}", "--to", "{place}/out"), "the kit {odd}"),
        (("gateway", "token", "create", "{odd}"), "the specification {odd}"),
    ],
)
def test_a_pipe_in_the_place_of_a_users_file_is_named_and_refused(
    place: Path, args: tuple[str, ...], words: str
) -> None:
    assert run(place, "checkpoint", "init", "--key", str(place / "key"))[0] == Exit.DONE
    names = {"odd": str(place / "odd"), "place": str(place), "key": str(place / "key.pub")}
    os.mkfifo(place / "odd")
    code, shown, said = run(place, *(each.format(**names) for each in args))
    assert (code, shown) == (Exit.USAGE, "")
    assert words.format(**names) in said
    assert "it is not a regular file" in said


def test_a_pipe_among_the_checkpoints_is_named_and_nothing_is_signed(place: Path) -> None:
    run(place, "checkpoint", "init", "--key", str(place / "key"))
    (place / "notes").mkdir()
    os.mkfifo(place / "notes" / "checkpoint-00000001.txt")
    for command in (
        ("checkpoint", "sign", "--key", str(place / "key"), "--to", str(place / "notes")),
        ("checkpoint", "list", "--from", str(place / "notes")),
    ):
        code, shown, said = run(place, *command)
        assert (code, shown) == (Exit.ERROR, "")
        assert "checkpoint-00000001.txt (it is not a regular file)" in said


def test_a_pipe_in_the_place_of_a_moment_is_no_moment(place: Path) -> None:
    os.mkfifo(place / "odd")
    code, _, said = run(place, "replay", "--until", str(place / "odd"))
    assert code == Exit.USAGE
    assert str(place / "odd") in said


def test_a_pipe_in_the_place_of_a_segment_is_a_finding(place: Path) -> None:
    segment = next((place / "storage" / "ledger").iterdir())
    segment.unlink()
    os.mkfifo(segment)
    code, shown, _ = run(place, "verify", "--no-record", "--quick")
    assert code == Exit.FINDINGS
    assert f"bad_segment: {segment}: it is not a regular file" in shown
    target = f"sqlite:///{place}/recovered.db"
    code, _, said = run(place, "db", "recover", "--from-storage", "--db-string", target)
    assert code == Exit.USAGE
    assert "so no ledger can be recovered" in said
    assert not (place / "recovered.db").exists()


def test_a_pipe_in_the_place_of_an_object_is_told_by_every_command(place: Path) -> None:
    fact = copied(0).fact
    sha256 = fact.element.copy.sha256.hex()  # type: ignore[attr-defined]
    path = place / "storage" / "objects" / sha256[:2] / sha256
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    code, shown, _ = run(place, "verify", "--no-record")
    assert code == Exit.FINDINGS
    assert sha256 in shown
    code, _, said = run(place, "replay", "--export", str(place / "out"))
    assert code == Exit.PARTIAL
    assert f"0: opening {path}: it is not a regular file" in said
