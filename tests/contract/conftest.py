"""The stores that the contract of the ledger is held against."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ledger.memory import MemoryStore
from ledger.sql import open_store
from tests.ledger.databases import KINDS, MadeLedgers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.stores import LedgerStore, Writing


@dataclass
class LedgerPlace:
    """An empty ledger of one kind; each `open` is what another process would hold."""

    kind: str
    url: str
    opened: list[LedgerStore] = field(default_factory=list)

    def open(self) -> LedgerStore:
        store = self.opened[0] if self.kind == "memory" and self.opened else self._open()
        self.opened.append(store)
        return store

    def _open(self) -> LedgerStore:
        return MemoryStore() if self.kind == "memory" else open_store(self.url, create=True)


class OwnTime:
    """A store that has no clock of its own, so that two of different kinds record the same times."""

    def __init__(self, store: LedgerStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def now_us(self) -> None:
        return None

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        with self.store.writing() as tx:
            tx.now_us = None  # type: ignore[misc]
            yield tx


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeLedgers]:
    with MadeLedgers(tmp_path_factory.mktemp("made")) as made:
        yield made


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, made: MadeLedgers) -> Iterator[LedgerPlace]:
    kind = request.param
    if kind == "memory":
        yield LedgerPlace(kind, "")
        return
    with made.url(kind, tmp_path) as url:
        place = LedgerPlace(kind, url)
        yield place
        for store in place.opened:
            store.close()


@pytest.fixture
def store(place: LedgerPlace) -> LedgerStore:
    return place.open()
