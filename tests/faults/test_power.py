"""The model of a disk that loses its power: what was synced stays, and of the rest anything may."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from kropot.durable.target import TargetFolder
from kropot.restore.journal import Journal
from tests.faults.power import Disk, Record, cuts, promised

if TYPE_CHECKING:
    from pathlib import Path


def record(
    kind: str, path: str = "", *, fd: int = 3, at: int = 0, size: int = 0, data: bytes = b"", old: str = ""
) -> Record:
    return Record(kind=kind, pid=1, fd=fd, at=at, size=size, old=old, path=path, data=data)


CREATE = record("o", "/seen/file", size=os.O_CREAT)
WRITE = record("w", data=b"x" * 2000)
FOLDER = record("o", "/seen", fd=4)


def left(tmp_path: Path, records: list[Record], times: int = 40) -> set[bytes | None]:
    """Return everything that a cut was seen to leave of `file`."""
    before = tmp_path / "before"
    before.mkdir(exist_ok=True)
    found: set[bytes | None] = set()
    for seed in range(times):
        disk = Disk(before, tmp_path.__class__("/seen"))
        disk.replay(records)
        after = tmp_path / f"after-{len(list(tmp_path.iterdir()))}"
        disk.lose_power(after, random.Random(seed))
        path = after / "file"
        found.add(path.read_bytes() if path.exists() else None)
    return found


def test_what_was_synced_with_its_folder_is_there(tmp_path: Path) -> None:
    done = [CREATE, WRITE, record("s"), FOLDER, record("s", fd=4)]
    assert left(tmp_path, done) == {b"x" * 2000}
    assert left(tmp_path, [CREATE, WRITE, FOLDER, record("S", fd=4)]) == {b"x" * 2000}


def test_what_was_not_synced_may_be_there_lost_cut_torn_or_zero(tmp_path: Path) -> None:
    found = left(tmp_path, [CREATE, WRITE, FOLDER, record("s", fd=4)], 100)
    assert {b"", b"x" * 2000, bytes(2000), b"x" * 512} <= found
    assert any(data and b"x" in data and b"\x00" in data for data in found)
    assert None not in found


def test_a_name_is_lost_without_its_folder_whatever_its_bytes(tmp_path: Path) -> None:
    assert left(tmp_path, [CREATE, WRITE, record("s")]) == {None, b"x" * 2000}


def test_bytes_whose_sync_failed_are_lost_whatever_follows_and_new_ones_are_not(tmp_path: Path) -> None:
    named = [FOLDER, record("s", fd=4)]
    failed, second = record("s", size=1), record("w", at=2000, data=b"y" * 8)
    assert left(tmp_path, [CREATE, WRITE, *named, failed, record("s")]) == {b""}
    assert left(tmp_path, [CREATE, WRITE, *named, failed, second, record("s")]) == {bytes(2000) + b"y" * 8}
    assert left(tmp_path, [CREATE, WRITE, *named, failed, WRITE, record("s")]) == {b"x" * 2000}
    assert left(tmp_path, [CREATE, WRITE, *named, record("S", fd=4, size=1)]) == {b""}
    assert left(tmp_path, [CREATE, WRITE, record("s"), FOLDER, record("s", fd=4, size=1)]) == {None, b"x" * 2000}


def test_a_rename_within_a_folder_happens_or_not(tmp_path: Path) -> None:
    made = [CREATE, WRITE, record("s"), FOLDER, record("s", fd=4)]
    second = [record("o", "/seen/new", fd=5, size=os.O_CREAT), record("w", fd=5, data=b"new"), record("s", fd=5)]
    assert left(tmp_path, [*made, *second, record("r", "/seen/file", old="/seen/new")]) == {b"x" * 2000, b"new"}


def test_a_recording_that_makes_no_sense_is_no_disk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without having been made"):
        left(tmp_path, [record("o", "/seen/never")])
    with pytest.raises(ValueError, match="lies outside"):
        left(tmp_path, [record("m", "/elsewhere/folder")])


def test_cuts_stand_behind_changes_and_promises_before_them() -> None:
    records = [FOLDER, CREATE, WRITE, record("!", at=7), record("s"), record("c")]
    assert cuts(records) == [2, 3, 6]
    assert [promised(records, cut) for cut in (2, 3, 6)] == [0, 0, 7]


@pytest.mark.parametrize("left", range(0, 40, 3))
def test_a_journal_whose_last_line_lost_all_but_its_beginning_goes_on(tmp_path: Path, left: int) -> None:
    state = tmp_path.stat()
    with TargetFolder(tmp_path / "tree") as tree, Journal(tree, b"journal") as journal:
        for name in (b"one", b"two"):
            journal.wrote((name,), bytes(32), state, bytes(32), {})
    path = tmp_path / "tree/journal"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:left] + bytes(len(second) - left - 1) + b"\n")
    with TargetFolder(tmp_path / "tree") as tree, Journal(tree, b"journal") as journal:
        assert journal.is_ours((b"one",), bytes(32))
        assert not journal.is_ours((b"two",), bytes(32))
        assert path.read_bytes() == first


@pytest.mark.parametrize("seed", range(6))
def test_a_journal_that_lost_sectors_keeps_what_was_whole_and_goes_on(tmp_path: Path, seed: int) -> None:
    """XFS, for one, may show a file's new length without its bytes."""
    dice = random.Random(seed)
    state = tmp_path.stat()
    with TargetFolder(tmp_path / "tree") as tree, Journal(tree, b"journal") as journal:
        for number in range(20):
            journal.wrote((b"%d" % number,), bytes(32), state, bytes(32), {})
    path = tmp_path / "tree/journal"
    data = bytearray(path.read_bytes())
    lost = dice.randrange(0, len(data), 512)
    data[lost : lost + dice.choice((512, 1024))] = bytes(len(data[lost : lost + 512]))
    path.write_bytes(data)
    whole = bytes(data[:lost]).count(b"\n")
    with TargetFolder(tmp_path / "tree") as tree, Journal(tree, b"journal") as journal:
        assert [number for number in range(20) if journal.is_ours((b"%d" % number,), bytes(32))] == list(range(whole))
        journal.wrote((b"new",), bytes(32), state, bytes(32), {})
        journal.sync()
        assert path.read_bytes().count(b"\n") == whole + 1
