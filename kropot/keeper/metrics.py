"""What a monitor reads: the health of the replica in Prometheus' text format. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kropot.query.alarm import Alarm
    from kropot.query.facts import Facts

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(facts: Facts, alarms: Iterable[Alarm]) -> str:
    """Return the metrics of a replica."""
    return "".join(f"{line}\n" for line in _lines(facts, list(alarms)))


def _lines(facts: Facts, alarms: list[Alarm]) -> Iterator[str]:
    yield from _gauge("kropot_healthy", "1 if the replica raises no alarm.", [("", int(not alarms))])
    yield from _gauge("kropot_ledger_events", "The number of events in the ledger.", [("", facts.position)])
    names = sorted({alarm.name for alarm in alarms})
    counted = [(_labels(alarm=name), sum(each.name == name for each in alarms)) for name in names]
    yield from _gauge("kropot_alarms", "How many alarms of each name there are.", counted)
    elements, sizes, listed, failing = [], [], [], []
    for each in facts.sources:
        names_ = {"source": each.id.hex()[:8], "label": each.label or ""}
        for state, (count, size) in sorted(each.states.items()):
            elements.append((_labels(**names_, state=state), count))
            sizes.append((_labels(**names_, state=state), size))
        failing.append((_labels(**names_), max(each.failing_count, each.failing_about)))
        if each.source.listed_us is not None:
            listed.append((_labels(**names_), each.source.listed_us // 1_000_000))
    yield from _gauge("kropot_elements", "Elements of each source in each state.", elements)
    yield from _gauge("kropot_bytes", "Stored bytes of their newest copies.", sizes)
    yield from _gauge("kropot_failing_elements", "Elements whose fetches fail.", failing)
    yield from _gauge("kropot_last_listing_seconds", "When the source was last listed, since 1970.", listed)
    if facts.storage is not None and facts.storage.room.bytes is not None:
        yield from _gauge("kropot_storage_free_bytes", "Free space of the storage.", [("", facts.storage.room.bytes)])


def _gauge(name: str, help_: str, samples: Iterable[tuple[str, int]]) -> Iterator[str]:
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples:
        yield f"{name}{labels} {value}"


def _labels(**values: str) -> str:
    """Return labels. A label's value is what a person typed, so it is escaped."""
    escaped = (
        (name, text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, text in values.items()
    )
    return "{" + ",".join(f'{name}="{text}"' for name, text in escaped) + "}"
