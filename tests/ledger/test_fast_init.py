"""Frozen dataclasses with the faster `__init__` are what they were, but for the time it takes to make them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from ledger.events import Copy, StreamKey
from ledger.fast_init import fast_init


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    left: int
    right: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    left: int
    right: str = "none"


def test_fields_and_defaults_are_set_as_dataclasses_would() -> None:
    for made, plain in ((Pair(left=1), Plain(left=1)), (Pair(right="x", left=2), Plain(right="x", left=2))):
        assert (made.left, made.right) == (plain.left, plain.right)
        assert repr(made) == repr(plain).replace("Plain", "Pair")


def test_an_object_cannot_be_changed_once_it_is_made() -> None:
    made = Pair(left=1)
    with pytest.raises(FrozenInstanceError):
        made.left = 2  # type: ignore[misc]
    key = StreamKey(source=bytes(16), kind="file", id="a")
    with pytest.raises(FrozenInstanceError):
        key.id = "b"  # type: ignore[misc]


def test_equality_hash_and_replace_stay() -> None:
    assert Pair(left=1) == Pair(left=1) != Pair(left=2)
    assert hash(Pair(left=1)) == hash(Pair(left=1))
    assert replace(Pair(left=1), right="y") == Pair(left=1, right="y")
    copy = Copy(sha256=bytes(32), size=1, iv=None, revision=1, instance="main")
    assert replace(copy, size=2) == Copy(sha256=bytes(32), size=2, iv=None, revision=1, instance="main")


@pytest.mark.parametrize("arguments", [{}, {"left": 1, "wrong": 2}])
def test_missing_and_foreign_fields_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Pair(**arguments)  # type: ignore[arg-type]


def test_a_class_that_needs_more_than_its_fields_is_refused() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Made:
        parts: list[int] = field(default_factory=list)

    @dataclass(frozen=True, slots=True)
    class Placed:
        left: int

    for cls in (Made, Placed, int):
        with pytest.raises(TypeError):
            fast_init(cls)
