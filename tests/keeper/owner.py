"""Fixtures of an owner's machine: a kit, a wire to a keeper, and the program in this process."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from kropot.cli.main import cli
from ledger.sql.opening import open_store
from tests.keeper.serve import Kept
from tests.keeper.wire import Wire
from tests.kropot.replay_cli import Answer
from tests.kropot.sealed_world import kit_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kropot.replay_cli import Run

FILES = {
    "docs/a.txt": b"alpha" * 20_000,
    "docs/b.txt": b"beta",
    "docs/deep/c.bin": bytes(range(256)) * 1000,
    "top": b"on top",
}


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger to copy: to make one takes longer than a test."""
    folder = tmp_path_factory.mktemp("empty")
    open_store(f"sqlite:///{folder / 'ledger.db'}", create=True).close()
    return folder


@pytest.fixture
def kept(tmp_path: Path, empty_ledger: Path) -> Iterator[Kept]:
    folder = tmp_path / "keeper"
    shutil.copytree(empty_ledger, folder)
    with Kept(folder) as kept:
        source = kept.world.source(None)
        for name, content in FILES.items():
            kept.world.seal(source, name.encode(), content)
        kept.world.vanish(kept.world.seal(source, b"gone", b"gone"))
        yield kept


@pytest.fixture
def wire(kept: Kept) -> Iterator[Wire]:
    with Wire(kept.url) as wire:
        yield wire


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The owner's machine: a kit, a cache of its own, and no ledger."""
    folder = tmp_path / "owner"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    kit_file(folder)
    return folder


@pytest.fixture
def afar(kept: Kept, wire: Wire, owner: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    token = kept.token_file(owner)

    def run_(*args: str) -> Answer:
        there = () if "--from" in args else ("--from", wire.url, "--access-token-file", token)
        with pytest.raises(SystemExit) as ended:
            cli.main([*args, *there], prog_name="kropotcli")
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run_


def restored(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "kropot-manifest.jsonl"
    }
