"""Sealed forms that are kept: told again as they were, and never when they are not the present ones."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from kropot.gateway import births, entries
from tests.gateway.serve import PLAIN, SEALED, VAULTED, Client, Served, VaultClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKENS = pytest.mark.parametrize("spec", [SEALED, VAULTED])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as gateway:
        for name in ("one", "two"):
            (gateway.folder / name).write_bytes(name.encode())
        gateway.server.rescan()
        # The folder itself is looked at again when it has settled.
        gateway.rest()
        yield gateway


def client_of(served: Served, spec: dict[str, Any]) -> Client:
    return served.vault_client(spec) if spec is VAULTED else served.client(spec)


def lines(client: Client) -> list[bytes]:
    return client.get("/secure-copy/file/list?limit=8191").content.partition(b"\n\n")[2].splitlines()


def modes(client: Client) -> dict[bytes, int | None]:
    if isinstance(client, VaultClient):
        return {path: form.form.mode for path, (_, form) in client.listed().items()}
    found = [client.form(entry) for entry in client.page(limit=8191).entries]
    return {form["fileName"].encode(): form["mode"] for form in found}


def kept(tmp_path: Path) -> list[tuple[bytes, bytes]]:
    """Return (mark, what is kept of the list) of all elements."""
    with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at:
        return at.execute("SELECT mark, listed FROM gateway_element WHERE listed IS NOT NULL").fetchall()


def put(tmp_path: Path, found: list[tuple[bytes, bytes]]) -> None:
    with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at:
        at.executemany("UPDATE gateway_element SET listed = ? WHERE mark = ?", [(form, mark) for mark, form in found])
        at.commit()


def never(*_args: Any, **_options: Any) -> str:
    raise AssertionError("a form was sealed again")


@TOKENS
def test_a_form_is_sealed_once(served: Served, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]) -> None:
    client = client_of(served, spec)
    before = lines(client)
    assert len(before) == (3 if spec is VAULTED else 2)
    monkeypatch.setattr(entries, "seal_form", never)
    monkeypatch.setattr(births, "seal_list_form", never)
    assert lines(client) == before


@TOKENS
def test_another_gateway_tells_it_too(served: Served, tmp_path: Path, spec: dict[str, Any]) -> None:
    client = client_of(served, spec)
    before = lines(client)
    served.server.__exit__(None, None, None)
    with pytest.MonkeyPatch.context() as patch, Served(tmp_path) as again:
        patch.setattr(entries, "seal_form", never)
        patch.setattr(births, "seal_list_form", never)
        client.url = again.server.url
        assert lines(client) == before


@TOKENS
def test_a_form_of_before_is_never_told_again(served: Served, tmp_path: Path, spec: dict[str, Any]) -> None:
    client = client_of(served, spec)
    (served.folder / "one").chmod(0o600)
    served.rest()
    assert modes(client)[b"one"] == 0o600
    old = kept(tmp_path)
    (served.folder / "one").chmod(0o640)
    served.rest()
    assert modes(client)[b"one"] == 0o640
    new = kept(tmp_path)
    assert {mark for mark, _ in old} == {mark for mark, _ in new}
    assert old != new
    put(tmp_path, old)
    assert modes(client)[b"one"] == 0o640
    assert sorted(kept(tmp_path)) == sorted(new), "what was put back is replaced"


@TOKENS
def test_whoever_writes_the_database_puts_no_form_there(served: Served, tmp_path: Path, spec: dict[str, Any]) -> None:
    client = client_of(served, spec)
    before = lines(client)
    found = kept(tmp_path)
    swapped = [(mark, form) for (mark, _), (_, form) in zip(found, found[1:] + found[:1], strict=True)]
    flipped = [(mark, form[:at] + bytes([form[at] ^ 1]) + form[at + 1 :]) for mark, form in found for at in (0, 20, 99)]
    for forged in (swapped, flipped, [(mark, b"") for mark, _ in found], [(mark, os.urandom(40)) for mark, _ in found]):
        put(tmp_path, forged)
        assert lines(client) == before
        assert sorted(kept(tmp_path)) == sorted(found)


def test_plain_tokens_and_files_that_never_rest_keep_nothing(served: Served, tmp_path: Path) -> None:
    assert len(lines(served.client(PLAIN))) == 2
    assert kept(tmp_path) == []
    with served.server.service.state.write() as at:
        at.exec_driver_sql("UPDATE gateway_file SET restless_s = 5")
    assert len(lines(served.client())) == 2
    assert kept(tmp_path) == []
