"""The metrics of a replica, from the facts and alarms that `status` shows. Pure. Labels hold no name of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kropot.metrics.text import METRICS_TYPE, MetricSample, metrics_in_text
from kropot.query.health import audited_since_us
from kropot.wording import SECOND_US

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from kropot.query.alarm import Alarm
    from kropot.query.facts import Facts, SourceFacts

__all__ = ["METRICS_TYPE", "metrics_text", "replica_samples"]


def metrics_text(facts: Facts, alarms: Collection[Alarm]) -> str:
    """Return the metrics of a replica as text."""
    return metrics_in_text(replica_samples(facts, alarms))


def replica_samples(facts: Facts, alarms: Collection[Alarm]) -> Iterator[MetricSample]:
    """Yield the metrics of a replica."""
    yield MetricSample(name="kropot_healthy", value=not alarms)
    for name in sorted({alarm.name for alarm in alarms}):
        count = sum(alarm.name == name for alarm in alarms)
        yield MetricSample(name="kropot_alarms", value=count, labels={"alarm": name})
    yield MetricSample(name="kropot_ledger_events", value=facts.position)
    if facts.position:
        yield MetricSample(name="kropot_ledger_last_event_timestamp_seconds", value=facts.recorded_us / SECOND_US)
        yield MetricSample(name="kropot_audit_timestamp_seconds", value=audited_since_us(facts) / SECOND_US)
    storage = facts.storage
    if storage is not None:
        rooms = {
            "kropot_storage_free_bytes": storage.room.bytes,
            "kropot_storage_free_files": storage.room.files,
            "kropot_ledger_free_bytes": storage.ledger_room.bytes,
        }
        yield from (MetricSample(name=name, value=room) for name, room in rooms.items() if room is not None)
    for each in facts.sources:
        yield from _source_samples(each)


def _source_samples(each: SourceFacts) -> Iterator[MetricSample]:
    names = {"source": each.id.hex()[:8], "label": each.label or ""}
    for state, (count, size) in sorted(each.states.items()):
        labels = {**names, "state": state}
        yield MetricSample(name="kropot_elements", value=count, labels=labels)
        yield MetricSample(name="kropot_copy_bytes", value=size, labels=labels)
    if each.past is not None:
        # Nothing more is expected of a past source, so it has no metrics that an alert could wait for.
        return
    failing = max(each.failing_count, each.failing_about)
    yield MetricSample(name="kropot_failing_elements", value=failing, labels=names)
    times: dict[str, Any] = {
        "kropot_listing_timestamp_seconds": each.source.listed_us,
        "kropot_full_listing_timestamp_seconds": each.source.full_listed_us,
    }
    for name, at_us in times.items():
        if at_us is not None:
            yield MetricSample(name=name, value=at_us / SECOND_US, labels=names)
