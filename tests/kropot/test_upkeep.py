"""What runs beside the collector: when a chore is done, what its failure does, and when a head is signed."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from kropot.checkpoints.folder import CheckpointFolder
from kropot.durable.errors import StorageError
from kropot.errors import IntegrityError
from kropot.upkeep import Chore, Upkeep, keep_checkpoints, keep_locked, keep_snapshots
from ledger.checkpoint import origin_of
from ledger.events import InstanceBegan
from ledger.log import Ledger, NewFact, instance_key
from ledger.memory import MemoryStore
from ledger.note import SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Heard:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.crashed: list[Exception] = []

    def upkeep(self, do: Callable[[], object], every_s: float = 0.0) -> Upkeep:
        chore = Chore(name="chore", every_s=every_s, do=do)
        return Upkeep(
            [chore], told=lambda name, error: self.told.append((name, str(error))), crashed=self.crashed.append
        )


def test_a_chore_is_done_again_and_again_and_once_at_the_end() -> None:
    twice, count = threading.Event(), 0

    def do() -> None:
        nonlocal count
        count += 1
        if count == 2:
            twice.set()

    with Heard().upkeep(do):
        assert twice.wait(10)
    before = count
    assert before >= 3


def test_a_chore_that_is_never_due_is_still_done_at_the_end() -> None:
    done: list[int] = []
    with Heard().upkeep(lambda: done.append(1), every_s=1e9):
        assert done == []
    assert done == [1]


def test_a_full_disk_is_told_and_the_chore_tried_again() -> None:
    heard, tries, again = Heard(), 0, threading.Event()

    def do() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StorageError("no room")
        again.set()

    with heard.upkeep(do):
        assert again.wait(10)
    assert heard.told == [("chore", "no room")]
    assert heard.crashed == []


@pytest.mark.parametrize("error", [IntegrityError("two histories"), RuntimeError("a defect")])
def test_a_wrong_history_or_a_defect_ends_the_collector(error: Exception) -> None:
    heard, crashed = Heard(), threading.Event()

    def do() -> None:
        crashed.set()
        raise error

    with pytest.raises(type(error), match=str(error)), heard.upkeep(do):
        assert crashed.wait(10)
    assert heard.crashed == [error]


def test_what_the_loop_already_raised_is_not_hidden_by_the_upkeep() -> None:
    crashed = threading.Event()

    def do() -> None:
        crashed.set()
        raise IntegrityError("two histories")

    def fail_once_it_crashed() -> None:
        crashed.wait(10)
        raise KeyError

    with pytest.raises(KeyError), Heard().upkeep(do):
        fail_once_it_crashed()


def test_a_head_is_signed_first_at_once_and_then_after_so_many_events(tmp_path: Path) -> None:
    ledger = Ledger(MemoryStore(), writer="main")
    ledger.begin()
    key = SigningKey.generate(origin_of(ledger.identity().ledger_id), os.urandom)
    folder = CheckpointFolder(tmp_path / "notes")
    folder.folder.mkdir()
    chore = keep_checkpoints(ledger, key, tmp_path / "key", [folder], every_s=1e9, every_events=3)

    def sizes() -> list[int]:
        return [size for size, _ in ledger.blobs.checkpoints()]

    chore.do()
    assert sizes() == [1]
    for expected in ([1], [1], [1, 4]):
        fact = InstanceBegan(program="1", host=str(ledger.head().position))
        ledger.append([NewFact(key=instance_key("i"), fact=fact, observed_us=1)])
        chore.do()
        assert sizes() == expected
    chore.do()
    assert len(list(folder.exported())) == 2


def test_snapshots_catch_up_with_a_first_collecting_as_far_as_a_round_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    due, now = [5], [0.0]

    def take(_: Ledger) -> tuple[tuple[str, int], ...]:
        now[0] += 3
        due[0] -= 1
        return (("marks", 50_000),) if due[0] >= 0 else ()

    monkeypatch.setattr("kropot.replay.snapshots.maybe_snapshot", take)
    monkeypatch.setattr("kropot.upkeep.next_due", lambda _: -100_000)
    chore = keep_snapshots(Ledger(MemoryStore()), clock=lambda: now[0])
    chore.do()
    assert due == [1]
    chore.do()
    assert due == [-1]


class Versions:
    """A bucket that counts what is done in it; its renewal is cut short by `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.rounds = self.retries = 0
        self._error = error

    def renewal(self) -> Versions:
        return self

    def round(self) -> None:
        self.rounds += 1
        if self._error is not None:
            raise self._error

    def retry(self, _: object) -> None:
        self.retries += 1


class Claims:
    """The claims of a ledger, of which somebody else may have one."""

    def __init__(self, *, is_free: bool) -> None:
        self.work = self
        self.held: list[str] = []
        self._is_free = is_free

    def reserve(self, name: str, *, lease_us: int) -> bool:
        assert lease_us > 0
        self.held += [name] if self._is_free else []
        return self._is_free

    def unreserve(self, name: str) -> None:
        self.held.remove(name)


def test_locks_are_renewed_each_time_and_erasures_tried_again_seldom() -> None:
    versions, ledger = Versions(), Claims(is_free=True)
    chore = keep_locked(ledger, versions)  # type: ignore[arg-type]
    chore.do()
    chore.do()
    assert (versions.rounds, versions.retries, ledger.held) == (2, 1, [])


def test_nothing_is_renewed_while_another_process_has_the_claim() -> None:
    versions = Versions()
    keep_locked(Claims(is_free=False), versions).do()  # type: ignore[arg-type]
    assert (versions.rounds, versions.retries) == (0, 0)


def test_the_claim_is_given_back_where_renewing_fails() -> None:
    ledger = Claims(is_free=True)
    with pytest.raises(StorageError):
        keep_locked(ledger, Versions(StorageError("away"))).do()  # type: ignore[arg-type]
    assert ledger.held == []
