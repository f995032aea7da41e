"""What a class of values costs, by how it is written: `python -m tests.bench.classes [--seconds N]`.

Each number is the least of several runs, in microseconds: to make the class, to make an object of eight fields by
keyword, to read one field, and to compare two equal objects.
"""

from __future__ import annotations

import argparse
import platform
import timeit
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

_VALUES: Final = {"a": 1, "b": 2, "c": b"c", "d": "d", "e": None, "f": True, "g": 7, "h": "h"}


def _dataclass() -> type:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Value:
        a: int
        b: int
        c: bytes
        d: str
        e: str | None
        f: bool
        g: int = 0
        h: str = ""

    return Value


def _named_tuple() -> type:
    class Value(NamedTuple):
        a: int
        b: int
        c: bytes
        d: str
        e: str | None
        f: bool
        g: int = 0
        h: str = ""

    return Value


def _struct() -> type:
    class Value(Struct, frozen=True, kw_only=True):
        a: int
        b: int
        c: bytes
        d: str
        e: str | None
        f: bool
        g: int = 0
        h: str = ""

    return Value


_WAYS: Final[dict[str, Callable[[], type]]] = {
    "frozen dataclass with slots": _dataclass,
    "NamedTuple": _named_tuple,
    "msgspec.Struct": _struct,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.classes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each number may take (default: 1)")
    seconds: float = parser.parse_args().seconds
    print(f"Python {platform.python_version()} ({platform.python_compiler()}), {platform.machine()}; microseconds\n")
    print("| | the class | an object | a field | equal |\n|---|---|---|---|---|")
    for name, make in _WAYS.items():
        value: Any = make()
        one, other = value(**_VALUES), value(**_VALUES)
        works: tuple[Callable[[], object], ...] = (
            make,
            lambda value=value: value(a=1, b=2, c=b"c", d="d", e=None, f=True, g=7, h="h"),
            lambda one=one: one.d,
            lambda one=one, other=other: one == other,
        )
        print(f"| {name} | {' | '.join(f'{_least_us(work, seconds):.2f}' for work in works)} |")


def _least_us(work: Callable[[], object], seconds: float) -> float:
    timer = timeit.Timer(work)
    number, took = timer.autorange() if seconds >= 1 else (1, 0.0)
    runs = max(int(seconds / took), 1) if took else 3
    return min(timer.repeat(repeat=runs, number=number)) / number * 1e6


if __name__ == "__main__":
    main()
