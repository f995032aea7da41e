"""Entries that are made right after a scan: a list finds them, and is right without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kropot.gateway import births, entries
from tests.gateway.serve import PLAIN, SEALED, VAULTED, Served
from tests.gateway.test_keptforms import TOKENS, client_of, kept, lines, never

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as gateway:
        (gateway.folder / "one").write_bytes(b"one")
        yield gateway


@TOKENS
def test_what_a_scan_found_is_sealed_before_anybody_asks(
    served: Served, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]
) -> None:
    client = client_of(served, spec)
    served.server.rescan()
    monkeypatch.setattr(entries, "seal_form", never)
    monkeypatch.setattr(births, "seal_list_form", never)
    assert len(lines(client)) == (2 if spec is VAULTED else 1)
    assert b"one" in client.ids()


@TOKENS
def test_a_token_that_comes_later_lists_the_same_files(served: Served, spec: dict[str, Any]) -> None:
    served.server.rescan()
    client = client_of(served, spec)
    before = lines(client)
    served.server.rescan()
    assert lines(client) == before
    assert client.ids().keys() >= {b"one"}


def test_a_scan_without_tokens_reads_no_files_again(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.client(PLAIN)
    number = served.client(SEALED).token
    served.server.service.book.revoke(number)
    monkeypatch.setattr(served.server.service.state, "versions_after", never)
    served.server.rescan()
    assert kept(tmp_path) == []


def test_the_next_scan_goes_on_where_the_last_one_stopped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.vault_client()
    served.server.rescan()
    state, told = served.server.service.state, list[int]()
    real = state.versions_after

    def counted(*args: Any) -> Any:
        told.append(len(found := real(*args)))
        return found

    monkeypatch.setattr(state, "versions_after", counted)
    served.server.rescan()
    served.server.service._ahead._until.clear()
    served.server.rescan()
    assert sum(told) == 0, "the database remembers how far it came"
    (served.folder / "two").write_bytes(b"two")
    served.server.rescan()
    assert sum(told) >= 1
    assert client.ids().keys() >= {b"one", b"two"}


def test_a_token_that_cannot_be_opened_stops_no_scan(served: Served) -> None:
    served.vault_client()
    with served.server.service.state.write() as at:
        at.exec_driver_sql("UPDATE gateway_vault SET sealed = x'00'")
    served.server.service.book.vaults._opened.clear()
    (served.folder / "two").write_bytes(b"two")
    assert served.server.rescan().new == 2
