"""Fixtures for command lines about the past: a ledger in SQLite, objects in a folder, the program in this process."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import pytest

from kropot.cli.main import cli
from kropot.objects.directory import DirectoryObjects
from ledger.sql.opening import open_store
from tests.json_schema import hold_to_schema
from tests.kropot.replay_world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AnyWorld = TypeVar("AnyWorld", bound=World)


class Answer(NamedTuple):
    """What a run left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Run(Protocol):
    """Runs a command line within this process, on the test's ledger and storage."""

    def __call__(self, *args: str) -> Answer: ...


@contextmanager
def kept_in(folder: Path, kind: type[AnyWorld]) -> Iterator[AnyWorld]:
    """Make a world with a ledger in SQLite, and its objects in a folder."""
    store = open_store(f"sqlite:///{folder / 'ledger.db'}", create=True)
    objects = DirectoryObjects(folder / "storage", "writer")
    yield kind(store, objects=objects)  # type: ignore[arg-type]  # both are object stores
    objects.close()
    store.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with kept_in(tmp_path, World) as made:
        yield made


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_(*args: str) -> Answer:
        place = ("--db-string", f"sqlite:///{tmp_path / 'ledger.db'}", "--storage-path", str(tmp_path / "storage"))
        with pytest.raises(SystemExit) as ended:
            cli.main([args[0], *place, *args[1:]], prog_name="kropotcli")
        captured = capsys.readouterr()
        hold_to_schema(args, captured.out)
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run_
