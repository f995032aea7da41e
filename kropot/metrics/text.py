"""Prometheus' text format, version 0.0.4, and every metric of this program by name. Pure.

A metric that is not in `METRICS` cannot be written, so the dashboard and the alert rules can be checked against it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of the text."""

Kind = Literal["gauge", "counter"]

METRICS: Final[Mapping[str, tuple[Kind, str]]] = {
    "kropot_build_info": ("gauge", "1, with the version of the program as a label."),
    # A replica.
    "kropot_healthy": ("gauge", "1 if the replica raises no alarm, else 0."),
    "kropot_alarms": ("gauge", "Open alarms, by name."),
    "kropot_health_timestamp_seconds": ("gauge", "When the replica was examined, since 1970."),
    "kropot_ledger_events": ("gauge", "The number of events in the ledger."),
    "kropot_ledger_last_event_timestamp_seconds": ("gauge", "When the last event was recorded, since 1970."),
    "kropot_ledger_free_bytes": ("gauge", "Free space of the folder of an SQLite ledger."),
    "kropot_storage_free_bytes": ("gauge", "Free space of the storage."),
    "kropot_storage_free_files": ("gauge", "How many more files the storage's file system can hold."),
    "kropot_elements": ("gauge", "Elements of each source in each state."),
    "kropot_copy_bytes": ("gauge", "Stored bytes of the newest copies of each source in each state."),
    "kropot_failing_elements": ("gauge", "Elements of each source whose fetches fail, about."),
    "kropot_listing_timestamp_seconds": ("gauge", "When the source was last listed, since 1970."),
    "kropot_full_listing_timestamp_seconds": ("gauge", "When the source was last listed in full, since 1970."),
    "kropot_audit_timestamp_seconds": ("gauge", "The oldest time at which verify last read a content, since 1970."),
    # A running collector.
    "kropot_collect_rounds_total": ("counter", "Rounds of this run, by their result."),
    "kropot_collect_round_timestamp_seconds": ("gauge", "When the last round ended well, since 1970."),
    "kropot_collect_round_duration_seconds": ("gauge", "How long the last round took."),
    "kropot_collect_changes_total": ("counter", "Elements that listings of this run found changed, by the change."),
    "kropot_collect_copies_total": ("counter", "Copies that this run stored."),
    "kropot_collect_copied_bytes_total": ("counter", "Bytes of the copies that this run stored."),
    "kropot_collect_failed_fetches_total": ("counter", "Fetches of this run that failed, by the reason."),
    "kropot_collect_outstanding": ("gauge", "Elements that are being fetched or recorded."),
    "kropot_collect_token_refused": ("gauge", "1 while the server refuses the token, else 0."),
    # A gateway.
    "kropot_gateway_requests_total": ("counter", "Answered requests, by the status code."),
    "kropot_gateway_sent_bytes_total": ("counter", "Bytes of the bodies of all answers."),
    "kropot_gateway_requests_in_progress": ("gauge", "Requests that are being answered."),
    "kropot_gateway_files": ("gauge", "Files that the last scan found."),
    "kropot_gateway_unserved": ("gauge", "What the last scan found and the gateway does not serve, by kind."),
    "kropot_gateway_scan_timestamp_seconds": ("gauge", "When the last scan ended well, since 1970."),
    "kropot_gateway_scan_failing": ("gauge", "1 while scans fail, else 0."),
}
"""All metrics: their kinds and meanings."""


class MetricSample(Struct, frozen=True, kw_only=True):
    """One value of a metric of `METRICS`, with its labels."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def metrics_in_text(samples: Iterable[MetricSample]) -> str:
    """Return the samples as text, grouped by metric, in the order of `METRICS`.

    Raises: KeyError for a metric that is not in `METRICS`.
    """
    by_name: dict[str, list[MetricSample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    for name in by_name:
        METRICS[name]
    return "".join(line for name in METRICS if name in by_name for line in _lines(name, by_name[name]))


def _lines(name: str, samples: Iterable[MetricSample]) -> Iterator[str]:
    kind, help_ = METRICS[name]
    yield f"# HELP {name} {help_}\n# TYPE {name} {kind}\n"
    for sample in samples:
        labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels.items())
        yield f"{name}{{{labels}}} {_number(sample.value)}\n" if labels else f"{name} {_number(sample.value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
