"""Pages of a fold made by other processes: the same answers and the same errors as without them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from kropot.replay import sd1
from kropot.replay.fold import StalePointersError
from kropot.replay.processes import in_processes
from kropot.replay.sd1 import digest_at
from ledger.errors import MalformedEventError
from ledger.log import Ledger
from ledger.memory import MemoryStore
from ledger.sql import open_store
from tests.kropot.replay_world import World, random_life

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("forking")

PARENT = os.getpid()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with a life behind it, as a reader opens it."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    store = open_store(url, create=True)
    random_life(World(store, seed=5), 80)
    store.close()
    reading = open_store(url, read_only=True)
    yield Ledger(reading)
    reading.close()


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd1, "LARGE_PAGE", 2)


def where(_: Ledger, __: int, page: Sequence[int]) -> tuple[int, int]:
    return page[0], os.getpid()


def test_pages_come_back_in_order_from_several_processes(ledger: Ledger) -> None:
    made = list(in_processes(where, ledger, 0, [[number] for number in range(50)], processes=3))
    assert [number for number, _ in made] == list(range(50))
    assert len({pid for _, pid in made}) == 3
    assert os.getpid() not in {pid for _, pid in made}


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 7])
def test_no_page_is_forgotten_however_few_there_are(ledger: Ledger, pages: int) -> None:
    for processes in (0, 2):
        made = in_processes(where, ledger, 0, [[number] for number in range(pages)], processes=processes)
        assert [number for number, _ in made] == list(range(pages))


@pytest.mark.parametrize("position", [0, 1, 40, None])
def test_the_digest_is_the_same_with_and_without_them(ledger: Ledger, position: int | None) -> None:
    at = ledger.head().position if position is None else position
    assert digest_at(ledger, at, processes=3) == digest_at(ledger, at, processes=0)


def test_what_only_this_process_sees_is_folded_here() -> None:
    world = World(MemoryStore(), seed=5)
    random_life(world, 80)
    at = world.ledger.head().position
    assert list(in_processes(where, world.ledger, at, [[1]], processes=2)) == [(1, os.getpid())]
    assert digest_at(world.ledger, at, processes=3) == digest_at(world.ledger, at, processes=0)


def dies(_: Ledger, __: int, page: Sequence[int]) -> int:
    if os.getpid() != PARENT and page[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return page[0]


def test_a_process_that_is_killed_loses_nothing(ledger: Ledger) -> None:
    assert list(in_processes(dies, ledger, 0, [[number] for number in range(20)], processes=2)) == list(range(20))


def refuses(_: Ledger, __: int, page: Sequence[int]) -> int:
    if page[0] == 3:
        raise MalformedEventError("it is odd", position=7)
    return page[0]


def test_an_error_is_raised_here_with_all_it_says(ledger: Ledger) -> None:
    made = in_processes(refuses, ledger, 0, [[number] for number in range(20)], processes=2)
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(MalformedEventError) as caught:
        next(made)
    assert caught.value.position == 7


def test_a_position_that_the_pointers_are_not_of_is_found(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ledger.head().position
    real = sd1.pointers_at
    monkeypatch.setattr(sd1, "pointers_at", lambda ledger, _, snapshots: real(ledger, at, snapshots=snapshots))
    with pytest.raises(StalePointersError):
        digest_at(ledger, at - 1, processes=2)


def test_processes_end_with_the_walk_that_they_served(ledger: Ledger) -> None:
    made = in_processes(where, ledger, 0, [[number] for number in range(50)], processes=2)
    pids = {next(made)[1], next(made)[1]}
    made.close()  # type: ignore[attr-defined]  # it is a generator
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
