"""A running restore shows files, bytes and the time that is left, and nothing of it gets into the result."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from rich.progress import Progress

from kropot.cli import work_progress
from kropot.cli.progress import LOG_EVERY_S
from kropot.cli.restore_progress import PER_FILE
from kropot.cli.settings import Settings
from kropot.cli.work_progress import WorkProgress

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kropot.replay_world import World

pytest_plugins = ["tests.kropot.replay_cli"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_that_is_left_comes_from_bytes_and_files() -> None:
    clock = Clock()
    progress = WorkProgress(None, each=PER_FILE, count=100, size=100 * PER_FILE, clock=clock)
    assert progress.left_s is None
    clock.now += 10
    progress.moved(10 * PER_FILE)  # one large file, not yet whole, is a twentieth of the work
    assert progress.left_s == pytest.approx(190)
    for _ in range(10):
        progress.finished()
    assert progress.left_s == pytest.approx(90)
    clock.now += 90
    progress.moved(200 * PER_FILE)  # more than was expected
    assert progress.left_s == 0
    assert WorkProgress(None, each=PER_FILE, count=None, size=None).left_s is None


def test_log_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(
        work_progress,
        "log",
        SimpleNamespace(info=lambda event, **fields: lines.append({"event": event} | fields)),
    )
    clock = Clock()
    progress = WorkProgress(None, each=PER_FILE, count=2, size=2 * PER_FILE, is_logged=True, clock=clock)
    for _ in range(10):
        progress.moved(PER_FILE // 10)
    assert lines == []
    clock.now += LOG_EVERY_S
    progress.finished()
    progress.moved(1)
    assert lines == [
        {
            "event": "progress",
            "files": 1,
            "of_files": 2,
            "bytes": PER_FILE // 10 * 10,
            "of_bytes": 2 * PER_FILE,
            "seconds_left": round(LOG_EVERY_S),
        }
    ]


@pytest.mark.parametrize(
    ("files", "size", "text"),
    [(3, 3 << 20, "1/3 files  1.0 MiB/3.0 MiB  1.0 MiB/s"), (None, None, "1 file  1.0 MiB  1.0 MiB/s")],
)
def test_a_bar_tells_files_bytes_and_pace(files: int | None, size: int | None, text: str) -> None:
    clock, bar = Clock(), Progress(disable=True)
    progress = WorkProgress(bar, each=PER_FILE, count=files, size=size, clock=clock)
    progress.finished()
    clock.now += 1
    progress.moved(1 << 20)
    (task,) = bar.tasks
    assert task.fields["text"] == text
    assert task.completed == PER_FILE + (1 << 20)
    assert task.total == (None if size is None else 3 * PER_FILE + size)


def test_a_bar_on_the_terminal_takes_nothing_from_a_pipe(world: World, kropotcli: Path, tmp_path: Path) -> None:
    source = world.source(None)
    world.put(source, "sound", b"1")
    world.see(source, "never stored")
    main, side = pty.openpty()
    line = [kropotcli, "--db-string", "sqlite:///ledger.db", "restore", "--to", "to", "--json"]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=side) as ran:
        os.close(side)
        out, _ = ran.communicate(timeout=60)
    os.close(main)
    assert ran.returncode == 3
    rows = [json.loads(row) for row in out.splitlines()]
    assert [row.get("problem") for row in rows] == ["unstored", None]
    assert rows[-1]["restored"] == 1


@pytest.mark.parametrize(
    ("count", "size", "reached", "text"),
    [
        (None, 10 << 20, (3, 5 << 20), "3 objects  5.0 MiB/10.0 MiB  2.5 MiB/s"),
        (50_000, None, (12_000, 0), "12,000/50,000 objects  6,000 objects/s"),
        (None, None, (2, 0), "2 objects  1 objects/s"),
    ],
)
def test_work_that_counts_itself_is_shown_alike(
    count: int | None, size: int | None, reached: tuple[int, int], text: str
) -> None:
    clock, bar = Clock(), Progress(disable=True)
    progress = WorkProgress(bar, noun="object", count=None, size=size, clock=clock)
    clock.now += 2
    progress.reached(*reached, of=count)
    (task,) = bar.tasks
    assert task.fields["text"] == text
    assert task.total == (size or count)
    half = {10 << 20: 2, 50_000: 38_000 / 6_000}
    assert progress.left_s == (None if task.total is None else pytest.approx(half[int(task.total)]))


def test_each_part_of_a_work_has_a_pace_and_an_end_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, bar = Clock(), Progress(disable=True)
    progress = WorkProgress(bar, count=None, size=None, clock=clock)
    progress.part("ledger", "event", count=1_000)
    clock.now += 2
    progress.reached(500)
    (task,) = bar.tasks
    assert (task.fields["part"], task.fields["text"]) == (" ledger", "500/1,000 events  250 events/s")
    assert progress.left_s == pytest.approx(2)

    progress.part("copies", "object", size=None)
    (task,) = bar.tasks
    assert (task.fields["part"], task.total, task.completed, progress.left_s) == (" copies", None, 0, None)
    clock.now += 1
    progress.reached(3, 4 << 20)
    assert task.fields["text"] == "3 objects  4.0 MiB  4.0 MiB/s"

    lines: list[dict[str, object]] = []
    monkeypatch.setattr(work_progress, "log", SimpleNamespace(info=lambda _, **fields: lines.append(fields)))
    logged = WorkProgress(None, count=None, size=None, is_logged=True, clock=clock)
    logged.part("ledger", "event", count=9)
    clock.now += LOG_EVERY_S
    logged.reached(3)
    assert (lines[0]["part"], lines[0]["events"], lines[0]["of_events"]) == ("ledger", 3, 9)


def test_nothing_is_said_off_a_terminal_but_in_json_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(work_progress, "log", SimpleNamespace(info=lambda event, **_: lines.append(event)))
    for settings, said in (
        (Settings(), 0),
        (Settings(log_format="json"), 1),
        (Settings(log_format="json", quiet=True), 0),
    ):
        with work_progress.work_progress(settings, "verify", size=1) as progress:
            monkeypatch.setattr(progress, "_next", 0.0)
            progress.moved(1)
        assert len(lines) == said, settings
        lines.clear()
