"""The bare system of the release check holds nothing of this machine that its removal could remove."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.release.systems import debian

if TYPE_CHECKING:
    from pathlib import Path


def test_only_the_kernels_own_proc_is_mounted_and_it_goes_even_while_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def noted(line: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(line)
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.setattr(subprocess, "run", noted)
    with pytest.raises(KeyboardInterrupt), debian(tmp_path):
        raise KeyboardInterrupt
    proc = str(tmp_path / "debian/proc")
    assert [line for line in ran if line[0] in {"mount", "umount"}] == [
        ["mount", "-t", "proc", "proc", proc],
        ["umount", "--lazy", proc],
    ]
