"""Exported checkpoints: whole or not there, and nothing left behind."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from kropot.checkpoints.folder import LEFT_S, CheckpointFolder
from kropot.errors import KropotError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_note_that_cannot_be_made_durable_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(KropotError, match="Input/output error"):
            CheckpointFolder(tmp_path).write(b"note")
    assert list(tmp_path.iterdir()) == []
    assert CheckpointFolder(tmp_path).write(b"note").read_bytes() == b"note"


def test_what_killed_runs_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, new = tmp_path / ".checkpoint-1.tmp", tmp_path / ".checkpoint-2.tmp"
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (0, new.stat().st_mtime - LEFT_S - 1))
    path = CheckpointFolder(tmp_path).write(b"note")
    assert sorted(tmp_path.iterdir()) == [new, path]
