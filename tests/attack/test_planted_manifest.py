"""A manifest or journal that somebody planted in the folder, with a line that describes the user's own file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kropot.restore.export import JOURNAL, place_of
from tests.kropot.replay_world import World
from tests.kropot.test_restore_job import MANIFEST, back, send_out

if TYPE_CHECKING:
    from pathlib import Path

MINE = b"the user's own newer text"


def plant(folder: Path, journal: bytes, file: str, **more: Any) -> None:
    """Write a line as whoever sees the file's size and time can."""
    found = (folder / file).stat()
    line = {"file": file, "file_size": found.st_size, "file_mtime_ns": found.st_mtime_ns, "identity": "00" * 32}
    (folder / journal.decode()).write_text(json.dumps(line | more) + "\n")


def test_restore_never_replaces_the_users_file_for_a_planted_line(tmp_path: Path) -> None:
    world = World()
    world.put(world.source(), "mine.txt", b"from the backup")
    (tmp_path / "mine.txt").write_bytes(MINE)
    for more in ({}, {"sha256": "00" * 32}):
        plant(tmp_path, MANIFEST, "mine.txt", **more)
        done, findings = back(world, tmp_path)
        assert [(finding.name, finding.problem) for finding in findings] == [("mine.txt", "in_the_way")]
        assert done == {}
        assert (tmp_path / "mine.txt").read_bytes() == MINE


def test_export_never_replaces_the_users_file_for_a_planted_line(tmp_path: Path) -> None:
    world = World()
    key = world.put(world.source(), "mine.txt", b"from the backup")
    file = b"/".join(place_of(key.id)).decode()
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(MINE)
    plant(tmp_path, JOURNAL, file)
    _, findings = send_out(world, tmp_path)
    assert [finding.flaw for finding in findings] == ["in_the_way"]
    assert (tmp_path / file).read_bytes() == MINE


def test_a_file_of_ours_that_was_edited_without_a_trace_in_size_and_time_is_kept(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    key = world.put(source, "a.txt", b"old content", mtime_ns=10**18)
    then = world.ledger.head().position
    world.see(source, "a.txt", date=1_790_000_100)
    world.store_copy(key, b"newer content")
    back(world, tmp_path, until=then)
    found = (tmp_path / "a.txt").stat()
    (tmp_path / "a.txt").write_bytes(b"OLD content")
    os.utime(tmp_path / "a.txt", ns=(found.st_mtime_ns, found.st_mtime_ns))
    _, findings = back(world, tmp_path)
    assert [(finding.name, finding.problem) for finding in findings] == [("a.txt", "in_the_way")]
    assert (tmp_path / "a.txt").read_bytes() == b"OLD content"
