"""The bare system of the release check holds nothing of this machine that its removal could remove."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.release.systems import debian

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_nothing_is_mounted_outside_the_processes_that_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def noted(line: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(line[0])
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.setattr(subprocess, "run", noted)
    with debian(tmp_path) as system:
        assert system.line("true")[:2] == ["unshare", "--mount"]
    assert ran == ["debootstrap"]
