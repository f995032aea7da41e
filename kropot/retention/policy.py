"""The policy as a person writes it: the table `[retention]`, and `[retention.LABEL]` for one source; pure.

Each table stands alone: `[retention.LABEL]` inherits nothing from `[retention]`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from kropot.errors import UsageError
from ledger.retention import KeepRules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Policy = Mapping[str | None, KeepRules]
    """The rules by their source's label. None stands for every source without a table of its own."""

DAY_S: Final = 86_400
MIN_AGE_S: Final = 30 * DAY_S
"""How old an older version must be before it is released, unless the policy says otherwise."""

_COUNTS: Final = {
    "keep-last": "last",
    "keep-daily": "daily",
    "keep-weekly": "weekly",
    "keep-monthly": "monthly",
    "keep-yearly": "yearly",
}
_SPANS: Final = {"keep-all-within": "within_s", "keep-vanished": "vanished_s", "min-age": "min_age_s"}
_SPAN: Final = re.compile(r"\s*(\d+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_UNITS: Final = {"": 1, "s": 1, "min": 60, "h": 3600, "d": DAY_S, "w": 7 * DAY_S, "y": 365 * DAY_S}
_MOST_COUNT: Final = 1_000_000
_MOST_SPAN_S: Final = 1000 * 365 * DAY_S


def parse_policy(table: Mapping[str, object]) -> Policy:
    """Return the rules in the table `[retention]` and the tables below it.

    Raises: UsageError, which names the key, for an unknown key, an invalid value, or rules that keep nothing.
    """
    policy, mistakes = read_policy(table)
    if mistakes:
        raise UsageError(mistakes[0])
    return policy


def read_policy(table: Mapping[str, object]) -> tuple[Policy, list[str]]:
    """Return what `parse_policy` does, without the invalid rules, and a sentence for each mistake."""
    tables = {label: value for label, value in table.items() if isinstance(value, dict)}
    own = {name: value for name, value in table.items() if name not in tables}
    policy: dict[str | None, KeepRules] = {}
    mistakes: list[str] = []
    if own:
        policy[None], mistakes = _rules(own, "[retention]")
    for label, values in tables.items():
        policy[label], found = _rules(values, f"[retention.{label}]")
        mistakes += found
    if not policy:
        mistakes.append("[retention] has no rules, so nothing would be kept: add one, e.g. keep-daily = 30")
    return policy, mistakes


def bound(policy: Policy, labels: Mapping[bytes, str | None]) -> tuple[KeepRules, ...]:
    """Return the rules for the sources that the labels name, those for all others first.

    Raises: UsageError for a label that no source has.
    """
    ids = {label.casefold(): id_ for id_, label in labels.items() if label is not None}
    rules = []
    for label, each in policy.items():
        if label is not None and label.casefold() not in ids:
            known = ", ".join(sorted(label for label in labels.values() if label is not None)) or "none"
            raise UsageError(
                f"[retention.{label}]: no source has the label {label!r} (there are: {known}); `kropotcli source label`"
                " gives one"
            )
        rules.append(_for_source(each, None if label is None else ids[label.casefold()]))
    return tuple(sorted(rules, key=lambda each: (each.source is not None, each.source or b"")))


def rules_for(rules: Iterable[KeepRules], source: bytes) -> KeepRules | None:
    """Return the rules for a source, None if there are none: then none of its copies are let go."""
    found = {each.source: each for each in rules}
    return found.get(source, found.get(None))


# --- helpers ---------------------------------------------------------------------------------------------------------


def _for_source(rules: KeepRules, source: bytes | None) -> KeepRules:
    return KeepRules(
        source=source,
        last=rules.last,
        within_s=rules.within_s,
        daily=rules.daily,
        weekly=rules.weekly,
        monthly=rules.monthly,
        yearly=rules.yearly,
        vanished_s=rules.vanished_s,
        min_age_s=rules.min_age_s,
    )


def _rules(values: Mapping[str, object], where: str) -> tuple[KeepRules, list[str]]:
    """Return the rules in one table, without the invalid ones, and a sentence for each mistake."""
    mistakes: list[str] = []
    counts = dict.fromkeys(_COUNTS.values(), 0)
    spans: dict[str, int | None] = {"within_s": 0, "vanished_s": None, "min_age_s": MIN_AGE_S}
    for name, value in values.items():
        key = name.replace("_", "-")
        try:
            if key in _COUNTS:
                counts[_COUNTS[key]] = _count(value, f"{where} {key}")
            elif key in _SPANS:
                spans[_SPANS[key]] = _span(value, f"{where} {key}")
            else:
                mistakes.append(f"{where} has an unknown key {key!r}: it can have {', '.join([*_COUNTS, *_SPANS])}")
        except UsageError as error:
            mistakes.append(str(error))
    if not mistakes and not any(counts.values()) and not spans["within_s"]:
        mistakes.append(
            f"{where} keeps nothing: give at least one of {', '.join(_COUNTS)} and keep-all-within a value above 0"
        )
    rules = KeepRules(
        source=None,
        **counts,
        within_s=spans["within_s"] or 0,
        vanished_s=spans["vanished_s"],
        min_age_s=spans["min_age_s"] or 0,
    )
    return rules, mistakes


def _count(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_COUNT:
        raise UsageError(f"{where}: {value!r} is not a whole number from 0 to {_MOST_COUNT:,}")
    return value


def _span(value: object, where: str) -> int:
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    unit = None if found is None else _UNITS.get(found[2].lower())
    if type(value) is int and value >= 0:
        seconds = value
    elif found is not None and unit is not None:
        seconds = int(found[1]) * unit
    else:
        raise UsageError(f"{where}: {value!r} is not a span of time: try 36h, 30d, 8w or 2y")
    if seconds > _MOST_SPAN_S:
        raise UsageError(f"{where}: {value!r} is too long: give at most 1000y")
    return seconds
