"""`make test` tries a sample of the hostile values, always with those that once broke something; `make attack` all."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
VALUES = tuple("abcdefghij")


def test_a_sample_has_what_once_broke_and_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KROPOT_TEST_ATTACK", raising=False)
    drawn = runpy.run_path(str(HERE / "ranges.py"))["drawn"]
    tried = drawn(VALUES, always=("d", "a"), more=3)
    assert {"a", "d"} <= set(tried)
    assert len(tried) == 5
    assert tried == sorted(tried) == drawn(VALUES, always=("d", "a"), more=3)
    with pytest.raises(LookupError, match="not among the values: z"):
        drawn(VALUES, always=("z",), more=3)


def test_make_attack_tries_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\tKROPOT_TEST_ATTACK=all " in (HERE.parents[1] / "Makefile").read_text()
    monkeypatch.setenv("KROPOT_TEST_ATTACK", "all")
    drawn = runpy.run_path(str(HERE / "ranges.py"))["drawn"]
    assert drawn(VALUES, always=("d",), more=1) == list(VALUES)
