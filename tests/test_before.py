"""A replica of the first version: its ledger in each database, its storage and its kit must go on working.

The first version of the program made `tests/vectors/replicas/0001/`. It served a folder and collected it twice (one
file changed, one vanished, one came late), then verified it, took a snapshot and signed a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from tests.ledger.databases import FIRST_VERSION, SQL_KINDS, fresh_url, load_first_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli


@pytest.fixture(params=SQL_KINDS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of the old ledger in each kind of database, not upgraded yet."""
    kind = str(request.param)
    with fresh_url(kind, tmp_path) as url:
        load_first_version(kind, url)
        yield url


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Return a copy of the old storage; git keeps no empty folders, so these are made again."""
    path = tmp_path / "storage"
    shutil.copytree(FIRST_VERSION / "storage", path)
    for name in ("quarantine", "tmp"):
        (path / name).mkdir(exist_ok=True)
    return path


def test_an_old_replica_is_upgraded_verified_and_restored(
    ledger: str, storage: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    where = ("--db-string", ledger, "--storage-path", str(storage))
    upgraded = run_cli("db", "upgrade", *where)
    assert upgraded.returncode == Exit.DONE, upgraded.stderr

    replayed = run_cli("replay", "--json", "--digest", "sd1", *where)
    assert replayed.returncode == Exit.DONE, replayed.stderr
    expected = json.loads((FIRST_VERSION / "replay.json").read_text())
    assert {name: json.loads(replayed.stdout)[name] for name in expected} == expected

    public = (FIRST_VERSION / "checkpoint.public").read_text().strip()
    verified = run_cli("verify", "--public-key", public, *where)
    assert verified.returncode == Exit.DONE, verified.stdout + verified.stderr

    # What a kit saw of a ledger is kept beside it.
    kit = shutil.copy(FIRST_VERSION / "key-kit.json", tmp_path)
    restored = run_cli("restore", "--key", str(kit), "--to", str(tmp_path / "restored"), *where)
    assert restored.returncode == Exit.DONE, restored.stderr
    digests = {
        path.relative_to(tmp_path / "restored").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "restored").rglob("*")
        if path.is_file() and path.name != "kropot-manifest.jsonl"
    }
    assert digests == json.loads((FIRST_VERSION / "restored.json").read_text())


def test_an_old_ledger_comes_back_from_its_storage_alone(storage: Path, tmp_path: Path, run_cli: RunCli) -> None:
    url = f"sqlite:///{tmp_path / 'recovered.db'}"
    recovered = run_cli("db", "recover", "--from-storage", "--storage-path", str(storage), "--db-string", url)
    assert recovered.returncode == Exit.DONE, recovered.stderr
    verified = run_cli("verify", "--db-string", url, "--storage-path", str(storage))
    assert verified.returncode == Exit.DONE, verified.stdout + verified.stderr
