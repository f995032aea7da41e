"""Answers that are worked out beside the requests: waited for, kept, replaced, stopped."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kropot.errors import KropotError
from kropot.keeper import slow_answer
from kropot.keeper.slow_answer import SlowAnswer
from kropot.objects.opening import open_store as open_storage
from kropot.query.space import space_of
from kropot.retention.deciding import Decider
from kropot.retention.policy import parse_policy
from ledger.retention import Retention

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.keeper.serve import Kept

pytest_plugins = ["tests.keeper.owner"]


def test_a_quick_answer_is_there_at_once_and_kept() -> None:
    asked: list[int] = []

    def work(question: int, _go_on: Callable[[], None]) -> int:
        asked.append(question)
        return question * 2

    with closing(SlowAnswer(work)) as answer:
        assert answer.latest(1) == (1, 2)
        assert answer.latest(1) == (1, 2)
        assert answer.latest(3) == (3, 6)
        assert asked == [1, 3]


def test_a_slow_answer_comes_later_and_the_one_before_is_given_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_answer, "PATIENCE_S", 0.0)
    may_end = threading.Event()

    def work(question: int, _go_on: Callable[[], None]) -> int:
        may_end.wait(10)
        return question

    with closing(SlowAnswer(work)) as answer:
        assert answer.latest(1, patience_s=0) is None
        may_end.set()
        assert answer.latest(1, patience_s=10) == (1, 1)
        # It took long, so it is not worked out again at once.
        assert answer.latest(2, patience_s=0) == (1, 1)
        assert answer._thread is None
        monkeypatch.setattr(slow_answer, "_REST", 0)
        assert answer.latest(2, patience_s=10) == (2, 2)


def test_a_failure_is_told_and_tried_again() -> None:
    failures = [KropotError("the storage is away"), ValueError("a fault of the program")]

    def work(_question: int, _go_on: Callable[[], None]) -> str:
        if failures:
            raise failures.pop(0)
        return "well"

    with closing(SlowAnswer(work)) as answer:
        for question, told in ((1, "the storage is away"), (2, "the log has the reason")):
            with pytest.raises(KropotError, match=told):
                answer.latest(question)
        assert answer.latest(3) == (3, "well")


def test_it_stops_when_it_is_closed() -> None:
    began = threading.Event()

    def work(_question: int, go_on: Callable[[], None]) -> None:
        while True:
            began.set()
            go_on()

    answer = SlowAnswer(work)
    assert answer.latest(1, patience_s=0) is None
    assert began.wait(10)
    answer.close()
    assert answer._thread is None
    with pytest.raises(KropotError, match="stopped"):
        answer.latest(1, patience_s=0)
    assert answer._thread is None


def test_what_is_counted_can_be_stopped_at_each_step(kept: Kept) -> None:
    class Enough(Exception):  # noqa: N818 -- it is no error
        pass

    def stop() -> None:
        raise Enough

    ledger = kept.world.ledger
    with pytest.raises(Enough):
        space_of(ledger, open_storage(kept.folder / "storage", "test"), free=None, everything=True, go_on=stop)
    policy = Retention(rules=tuple(parse_policy({"keep-last": 1}).values()), pins=(), signature=None)
    decider = Decider(ledger=ledger, retention=policy, position=ledger.head().position, at_us=0, go_on=stop)
    with pytest.raises(Enough):
        list(decider.all())
