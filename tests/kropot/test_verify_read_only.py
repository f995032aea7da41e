"""`verify` of a replica that this user, or this mount, cannot write: a snapshot, a monitoring user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from ledger.sql import connections
from tests.kropot.replicas import Folder
from tests.oldserver import OldServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with OldServer({"a.txt": b"roses"}) as server:
        made = Folder(tmp_path, server)
        assert made.collect().code == Exit.DONE
        yield made


def test_without_recording_it_makes_no_writing_connection_and_no_file(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> None:
        raise AssertionError(f"{self} was opened for writing")

    real = os.access
    monkeypatch.setattr(connections.Connections, "_connect_writer", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    before = sorted(folder.path.rglob("*"))
    ran = folder.run("verify", "--no-record")
    assert (ran.code, ran.err) == (Exit.DONE, "")
    assert "not recorded: --no-record was given" in ran.out
    assert "everything that was checked is sound" in ran.out or "everything is sound" in ran.out
    assert sorted(folder.path.rglob("*")) == before
