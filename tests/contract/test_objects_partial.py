"""Uploads that outlive their process: taken up only when their bytes are what was marked, and swept when unwanted."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from kropot.durable.batch import Choice
from kropot.durable.errors import StorageError
from kropot.objects import upload as uploads
from kropot.objects.directory import DirectoryObjects
from kropot.objects.partial import MARK
from kropot.objects.store import ObjectStore, Published, TakenUp
from tests.faults.files import UnsyncedFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "e1"
FIRST, REST = bytes(range(250)) * 40, b"the rest of it"
NOTE = b"whose it is"


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark at every write, and not once a second."""
    monkeypatch.setattr(uploads, "MARK_EVERY_S", 0.0)


class Place:
    """A folder, and stores that are opened on it one after the other, as processes are."""

    def __init__(self, root: Path, method: str) -> None:
        self.root = root
        self.method = method
        self.files = UnsyncedFiles()
        self.store = self.open()

    def open(self) -> DirectoryObjects:
        choice = Choice(method=self.method, why="the test says so")  # type: ignore[arg-type]
        store = DirectoryObjects(self.root, "one", files=self.files, choice=choice, held_back=1000)
        store.lock()
        return store

    def begin(self) -> uploads.FileUpload:
        upload = self.store.stage(NAME)
        upload.keep(NOTE)
        for start in range(0, len(FIRST), 500):
            upload.write(FIRST[start : start + 500])
        return upload

    def next_process(self) -> DirectoryObjects:
        """Let the process die, and open the store as the next one."""
        self.store._lock.release()
        self.store = self.open()
        return self.store

    def taken_up(self) -> TakenUp:
        found = self.next_process().take_up(NAME)
        assert found is not None
        return found

    @property
    def bytes(self) -> Path:
        return self.root / "tmp" / "one" / f"partial-{NAME}"

    @property
    def mark(self) -> Path:
        return self.bytes.with_name(self.bytes.name + MARK)

    def left(self) -> list[str]:
        return [left.path for left in self.store.leftovers()]


@pytest.fixture(params=["syncfs", "fsync"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "store", request.param)
    yield place
    place.store.close()


def publish(store: ObjectStore, upload: object) -> bytes:
    """Finish and publish; return the object's bytes."""
    (outcome,) = store.publish([upload.finish()])  # type: ignore[attr-defined]
    assert isinstance(outcome, Published)
    with store.open(outcome.sha256) as reader:
        content = reader.read()
    assert hashlib.sha256(content).digest() == outcome.sha256
    return content


def test_what_was_suspended_goes_on_in_the_next_process(place: Place) -> None:
    place.begin().suspend()
    assert place.next_process().has_kept(NAME)
    found = place.taken_up()
    assert (found.note, found.tail, found.upload.size) == (NOTE, FIRST[-4096:], len(FIRST))
    found.upload.write(REST)
    assert publish(place.store, found.upload) == FIRST + REST
    assert place.left() == []
    assert not place.store.has_kept(NAME)


def test_what_a_kill_leaves_goes_on_from_its_last_mark(place: Place) -> None:
    place.begin().write(b"not written yet when the process dies")
    with place.bytes.open("ab") as file:
        file.write(b"written, and not marked")
    found = place.taken_up()
    assert (found.tail, found.upload.size) == (FIRST[-4096:], len(FIRST))
    found.upload.write(REST)
    assert publish(place.store, found.upload) == FIRST + REST


def test_it_may_break_off_again_and_again(place: Place) -> None:
    place.begin().suspend()
    for piece in (b"one", b"two", b"three"):
        found = place.taken_up()
        found.upload.write(piece)
        found.upload.suspend()
    found = place.taken_up()
    assert publish(place.store, found.upload) == FIRST + b"onetwothree"


@pytest.mark.parametrize(
    "fault", ["flipped", "cut", "gone", "mark flipped", "mark cut", "mark gone", "mark of another"]
)
def test_what_cannot_be_believed_is_removed_and_begun_anew(place: Place, fault: str) -> None:
    place.begin().suspend()
    path = place.mark if fault.startswith("mark") else place.bytes
    content = path.read_bytes()
    match fault.rsplit(maxsplit=1)[-1]:
        case "flipped":
            path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(b"\x93\xc4\x01n\x05\xc4\x20" + bytes(32))
    store = place.next_process()
    assert store.take_up(NAME) is None
    upload = place.begin()
    assert publish(store, upload) == FIRST
    store.clean_own_leftovers(lambda _: False)
    assert place.left() == []


def test_a_disk_that_cannot_keep_it_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.begin().suspend()
    store = place.next_process()

    def fails(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(place.files, "sync_file", fails)
    with pytest.raises(StorageError, match="partial-e1"):
        store.take_up(NAME)


def test_only_what_somebody_wants_is_kept(place: Place) -> None:
    place.begin().suspend()
    store = place.next_process()
    store.stage().write(b"x" * 5000)
    asked: list[bytes] = []
    assert store.clean_own_leftovers(lambda note: bool(asked.append(note)) or True) == 1
    assert asked == [NOTE]
    assert place.taken_up().note == NOTE
    assert place.next_process().clean_own_leftovers(lambda _: False) == 2
    assert place.left() == []


def test_two_at_a_time_do_not_meet(place: Place) -> None:
    first = place.begin()
    second = place.store.stage(NAME)
    second.keep(b"not this one")
    second.write(REST * 1000)
    assert publish(place.store, second) == REST * 1000
    first.suspend()
    assert place.taken_up().note == NOTE


def test_what_another_upload_is_at_is_neither_taken_up_nor_removed(place: Place) -> None:
    upload = place.begin()
    assert place.store.take_up(NAME) is None
    upload.write(REST)
    assert publish(place.store, upload) == FIRST + REST


def test_a_rename_that_fails_closes_and_removes_the_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = place.begin()
    closed: list[int] = []
    close = place.files.close

    def fails(_source: str, _target: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(place.files, "close", lambda fd: (closed.append(fd), close(fd)))
    monkeypatch.setattr(place.files, "rename", fails)
    with pytest.raises(StorageError, match="renaming"):
        upload.finish()
    assert len(closed) == 1
    assert place.left() == []


def test_an_aborted_upload_leaves_nothing(place: Place) -> None:
    place.begin().abort()
    assert place.left() == []
    assert not place.store.has_kept(NAME)
    found_nothing = place.next_process().take_up(NAME)
    assert found_nothing is None


def test_what_never_became_a_file_is_not_kept(place: Place) -> None:
    upload = place.store.stage(NAME)
    upload.keep(NOTE)
    upload.write(b"little")
    upload.suspend()
    assert place.left() == []
    small = place.store.stage(NAME)
    small.keep(NOTE)
    small.write(b"little")
    assert publish(place.store, small) == b"little"
    assert place.left() == []
