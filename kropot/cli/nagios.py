"""`status --check --nagios`: the output line of a monitoring plugin, with performance data, and its exit code.

The Monitoring Plugins Development Guidelines define its form: SERVICE STATE - text | label=value;warn;crit;min;max.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from kropot.cli.output import printable
from kropot.query.names import short_name
from kropot.wording import SECOND_US, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.query.alarm import Alarm
    from kropot.query.facts import Facts
    from kropot.query.health import Limits

SERVICE: Final = "KROPOTCLI"
_MOST_NAMED: Final = 3


class PluginState(IntEnum):
    """The meaning of a plugin's exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


LESSER: Final = frozenset(
    {"audit_stale", "drill_stale", "failing", "never_collected", "segments_stale", "unreadable", "waiting"}
)
"""Alarms that are only warnings, because the backup is complete and recent. All others are critical."""


def plugin_state(alarms: Sequence[Alarm]) -> PluginState:
    """Return the state that follows from these alarms."""
    if not alarms:
        return PluginState.OK
    return PluginState.WARNING if all(each.name in LESSER for each in alarms) else PluginState.CRITICAL


def plugin_line(now_us: int, facts: Facts, alarms: Sequence[Alarm], limits: Limits) -> str:
    """Return the line for the state of a replica: the alarms, the gravest first, then the performance data."""
    state = plugin_state(alarms)
    labels = {each.id: each.label for each in facts.sources}
    if alarms:
        gravest = sorted(alarms, key=lambda each: each.name in LESSER)
        told = [
            each.name if each.source is None or len(labels) == 1 else f"{each.name} ({short_name(labels, each.source)})"
            for each in gravest
        ]
        more = f" and {len(told) - _MOST_NAMED} more" if len(told) > _MOST_NAMED else ""
        text = f"{', '.join(told[:_MOST_NAMED])}{more}: {gravest[0].text}"
    else:
        elements = sum(count for each in facts.sources for count, _ in each.states.values())
        text = f"{number(elements, 'element')} of {number(len(facts.sources), 'source')}, all is well"
    return f"{SERVICE} {state.name} - {_plain(text)} | {' '.join(_figures(now_us, facts, alarms, limits))}"


def unknown_line(message: str) -> str:
    """Return the line for a check that could not be made."""
    return f"{SERVICE} {PluginState.UNKNOWN.name} - {_plain(message)}"


def _figures(now_us: int, facts: Facts, alarms: Sequence[Alarm], limits: Limits) -> Iterator[str]:
    """Yield the performance data: label=value[unit];warn;crit;min."""
    yield f"alarms={len(alarms)};;;0"
    yield f"position={facts.position}c;;;0"
    if facts.storage is not None and facts.storage.room.bytes is not None:
        yield f"free={facts.storage.room.bytes}B;;{limits.storage.min_free}:;0"
    labels = {each.id: each.label for each in facts.sources}
    for each in facts.sources:
        name = _label(short_name(labels, each.id))
        for state in ("damaged", "lost"):
            yield f"'{state} {name}'={each.states.get(state, (0, 0))[0]};;;0"
        if each.past is not None:
            continue
        if each.source.listed_us is not None:
            lag = max(now_us - each.source.listed_us, 0) // SECOND_US
            yield f"'lag {name}'={lag}s;;{limits.listing_s};0"
        yield f"'elements {name}'={sum(count for count, _ in each.states.values())};;;0"
        yield f"'pending {name}'={each.states.get('pending', (0, 0))[0]};;;0"
        yield f"'failing {name}'={max(each.failing_count, each.failing_about)};;;0"
        yield f"'bytes {name}'={sum(size for _, size in each.states.values())}B;;;0"


def _plain(text: str) -> str:
    """Return a text without line breaks and `|`, which have a meaning in a plugin's line."""
    return " ".join(printable(text).replace("|", "/").split())


def _label(text: str) -> str:
    """Return a label without the characters that would end it."""
    return _plain(text).replace("'", "_").replace("=", "_")
