"""The walk of docs/tour-restore.md: a file is lost at a real gateway, and yesterday's comes back."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli

SPEC = {
    "roles": ["securecopy.stream"],
    "expires": "2039-05-01 01:06:01",
    "data": {"secureCopyEncryptionMethod": "aes-256-cbc", "secureCopyDigestMethod": "sha512"},
}


@contextmanager
def gateway(kropotcli: Path, folder: Path, port: int) -> Iterator[str]:
    """Serve `documents` below the folder until the block ends."""
    line = [kropotcli, "gateway", "serve", "--source", "documents", "--port", str(port), "--scan-every", "0.2"]
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(line, cwd=folder, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def test_losing_a_file_and_getting_yesterdays_back(
    run_cli: RunCli, kropotcli: Path, tmp_path: Path, free_port: int
) -> None:
    documents = tmp_path / "documents"
    (documents / "letters").mkdir(parents=True)
    (documents / "thesis.txt").write_text("Chapter one. All of it.\n")
    (documents / "letters/1912.txt").write_text("Dear friend,\n")
    os.utime(documents / "thesis.txt", (1_588_334_400, 1_588_334_400))
    (documents / "letters/1912.txt").chmod(0o640)
    (tmp_path / "token.json").write_text(json.dumps(SPEC))
    made = answer(run_cli("gateway", "token", "create", "token.json", "--kit", "kit.json", "--json"))
    (tmp_path / "token").write_text(made["id"])
    (tmp_path / "token").chmod(0o600)
    with gateway(kropotcli, tmp_path, free_port) as url:
        env = {"KROPOT_SERVER_URL": url, "KROPOT_TOKEN_FILE": "token"}
        collect_until(run_cli, env, "current", 2)
        before = datetime.now(UTC).isoformat()
        (documents / "thesis.txt").unlink()
        (documents / "letters/1912.txt").write_text("Dear friend, (garbled)\n")
        for _ in range(10):  # each is shown when it is some seconds old
            collect_until(run_cli, env, "vanished", 1, "--full")
            changes = changes_since(run_cli, before)
            if len(changes) > 1:
                break

    there = answer(run_cli("replay", "--until", before, "--json"))
    assert (there["elements"], there["current"], there["vanished"]) == (2, 2, 0)
    assert changes == ["changed", "vanished"]

    told(run_cli("restore", "--key", "kit.json", "--until", before, "--to", "back"))
    assert (tmp_path / "back/thesis.txt").read_text() == "Chapter one. All of it.\n"
    assert (tmp_path / "back/thesis.txt").stat().st_mtime == 1_588_334_400
    assert (tmp_path / "back/letters/1912.txt").read_text() == "Dear friend,\n"
    assert (tmp_path / "back/letters/1912.txt").stat().st_mode & 0o777 == 0o640

    now = answer(run_cli("restore", "--key", "kit.json", "--to", "now", "--json"))
    assert (now["restored"], now["vanished"]) == (1, 1)
    assert (tmp_path / "now/letters/1912.txt").read_text() == "Dear friend, (garbled)\n"

    told(run_cli("replay", "--until", before, "--export", "export"))
    told(run_cli("restore", "--from", "export", "--key", "kit.json", "--to", "elsewhere"))
    assert (tmp_path / "elsewhere/thesis.txt").read_text() == "Chapter one. All of it.\n"


def collect_until(run_cli: RunCli, env: dict[str, str], state: str, wanted: int, *how: str) -> None:
    """Collect until so many elements are in a state: the gateway shows a change when it is some seconds old."""
    for _ in range(60):
        run_cli("collect", "--once", *how, env=env)
        ran = run_cli("replay", "--no-digest", "--json")
        if ran.returncode == 0 and json.loads(ran.stdout)[state] >= wanted and json.loads(ran.stdout)["pending"] == 0:
            return
        time.sleep(0.5)
    pytest.fail(f"there were never {wanted} elements {state}")


def changes_since(run_cli: RunCli, moment: str) -> list[str]:
    lines = told(run_cli("replay", "--diff", moment, "--json")).splitlines()
    return sorted(json.loads(line)["change"] for line in lines)


def told(ran: subprocess.CompletedProcess[str]) -> str:
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def answer(ran: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(told(ran))
