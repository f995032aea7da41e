"""The parameter types for sizes and durations on the command line: `1GiB`, `500 MB`, `5m`, `36h`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.bandwidth import Timetable

_AMOUNT: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_BYTES: Final = {
    unit.lower(): base**power
    for base, form in ((1024, "{}iB"), (1024, "{}"), (1000, "{}B"))
    for power, prefix in enumerate("KMGTP", 1)
    for unit in (form.format(prefix),)
} | {"": 1, "b": 1}
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN_EXAMPLES: Final = "90s, 15min, 36h or 7d"

_MOST_PORT: Final = 65_535
_MOST: Final = 1 << 62
"""The largest accepted amount. Databases and clocks cannot hold much larger numbers."""


class Amount(click.ParamType[int, Any]):
    """A number with a unit, converted to a whole number of the smallest unit. It must be at least `least`.

    A number without a unit has the unit with the empty name.
    """

    def __init__(self, name: str, units: Mapping[str, int], examples: str, *, least: int = 0) -> None:
        """Keep the units (names in lower case) and the examples for error messages."""
        self.name = name
        self._measure = Measure(name, units, examples)
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the amount. Raises: click.BadParameter with examples if the text is not an amount."""
        amount = int(self._measure.read(self, value, param, ctx))
        if amount < self._least:
            self.fail(f"{value!r} is too small for a {self.name}: give at least {self._least}", param, ctx)
        return amount


class FineSpan(click.ParamType[float, Any]):
    """A span of time in seconds, which can have a fraction and must be at least `least`."""

    name = "span of time"

    def __init__(self, *, least: float) -> None:
        """Keep the smallest accepted span."""
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds. Raises: click.BadParameter with examples if the text is not a span."""
        amount = Measure(self.name, _SECONDS, _SPAN_EXAMPLES).read(self, value, param, ctx)
        if amount < self._least:
            self.fail(f"{value!r} is too small for a {self.name}: give at least {self._least}", param, ctx)
        return amount


class Measure:
    """Reads a number with a unit."""

    def __init__(self, name: str, units: Mapping[str, int], examples: str) -> None:
        """Keep the units (names in lower case) and the examples for error messages."""
        self._name, self._units, self._examples = name, units, examples

    def read(
        self,
        kind: click.ParamType[Any, Any],
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return the amount in the smallest unit. Raises: click.BadParameter."""
        found = _AMOUNT.fullmatch(str(value))
        unit = None if found is None else self._units.get(found[2].lower())
        if found is None or unit is None:
            kind.fail(f"{value!r} is not a {self._name}: try {self._examples}", param, ctx)
        amount = float(found[1]) * unit
        if amount > _MOST:
            kind.fail(f"{value!r} is too large for a {self._name}: try {self._examples}", param, ctx)
        return amount


def span_of(unit: str, *, least: int = 0) -> Amount:
    """Return the type of a span of time, in seconds. A number without a unit means `unit`, e.g. "d" for days."""
    return Amount("span of time", _SECONDS | {"": _SECONDS[unit]}, _SPAN_EXAMPLES, least=least)


class RateTimetable(click.ParamType["Timetable", Any]):
    """A rate, or a timetable of rates, in the syntax of `kropot.bandwidth`."""

    name = "timetable"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Timetable:
        """Return the timetable. Raises: click.BadParameter with examples if the text is not one."""
        from kropot.bandwidth import Timetable, parse_timetable

        if isinstance(value, Timetable):
            return value
        try:
            return parse_timetable(str(value))
        except ValueError as error:
            self.fail(f"{error}: try 2M, 512k, off, or '08:00,512k 19:00,off'", param, ctx)


class ListenAddress(click.ParamType[tuple[str, int], Any]):
    """An address to listen on: `HOST:PORT` or `[IPV6]:PORT`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Return host and port. Raises: click.BadParameter."""
        if isinstance(value, tuple):
            return value
        host, colon, port = str(value).strip().rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) <= _MOST_PORT):
            self.fail(f"{value!r} is not an address to listen on: try 127.0.0.1:9184", param, ctx)
        return host, int(port)


SIZE: Final = Amount("size", _BYTES, "1GiB, 500MiB or 1000000")
"""Bytes."""

SPAN: Final = span_of("s")
"""Seconds."""
