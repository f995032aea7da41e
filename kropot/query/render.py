"""The JSON of all query answers: elements, events, sources, the status. No other module defines it.

docs/json.md describes it. Times are ISO 8601 in UTC with microseconds, durations are seconds, ids and hashes are
hexadecimal. None means that there is no value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from kropot.wording import SECOND_US, instant
from ledger.events import Element, ErasedFact, UnknownFact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.query.alarm import Alarm
    from kropot.query.facts import Facts, SourceFacts
    from kropot.query.further import FurtherFacts
    from kropot.query.past import KnownSource, Past
    from kropot.query.rounds import Round
    from kropot.query.storage import StorageFacts
    from kropot.query.timeline import Timeline
    from kropot.replay.diff import Difference
    from kropot.replay.moment import Moment
    from ledger.answers import Tally
    from ledger.events import AuditRange, Copy, StreamKey
    from ledger.replica import Entry, Event


def key_json(key: StreamKey) -> dict[str, Any]:
    """Return the names that identify an element."""
    return {"source": key.source.hex(), "type": key.kind, "id": key.id}


def server_time(second: int) -> str:
    """Return a second of the server's clock as a time. It is the server's data, and orders nothing."""
    return instant(second * SECOND_US)


def proved_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a proof proves."""
    shown = {name: value for name, value in facts.items() if name not in {"recorded_us", "date"}}
    if "recorded_us" in facts:
        shown |= {"recorded_at": instant(facts["recorded_us"]), "date": server_time(facts["date"])}
    return shown


def element_json(element: Element) -> dict[str, Any]:
    """Return an element's state and its copy, in flat fields."""
    return {
        "state": element.state,
        "date": server_time(element.date),
        "tz": element.tz,
        "revision": element.revision,
        "present": element.present,
        **copy_json(element.copy),
    }


def copy_json(copy: Copy | None) -> dict[str, Any]:
    """Return a copy's hash, size and IV."""
    return {
        "sha256": None if copy is None else copy.sha256.hex(),
        "size": None if copy is None else copy.size,
        "iv": None if copy is None or copy.iv is None else copy.iv.hex(),
    }


def entry_json(entry: Entry) -> dict[str, Any]:
    """Return an element's row in the projection. An erased element has only its key."""
    element = entry.element
    if element is None:
        return key_json(entry.key) | {"state": "erased"}
    copy, failure = element.copy, element.failure
    return (
        key_json(entry.key)
        | element_json(element)
        | {
            "copy": None if copy is None else copy_json(copy) | {"revision": copy.revision, "instance": copy.instance},
            "failure": None
            if failure is None
            else {
                "reason": failure.reason,
                "attempts": failure.attempts,
                "since": instant(failure.since_us),
                "next_try": instant(failure.next_try_us),
            },
            "dismissed": entry.is_dismissed,
            "position": entry.position,
        }
    )


def event_name(event: Event) -> str:
    """Return the name of an event's fact, with a note if this version cannot read it."""
    fact = event.fact
    if isinstance(fact, UnknownFact):
        return f"{fact.type_name} (unknown to this version)"
    if isinstance(fact, ErasedFact):
        return f"{fact.type_name} (erased)"
    return fact.TYPE


def element_of(event: Event) -> Element | None:
    """Return the element's state after this event, or None if the event does not contain it."""
    element: object = getattr(event.fact, "element", None)
    return element if isinstance(element, Element) else None


def event_json(event: Event) -> dict[str, Any]:
    """Return one event of an element's history. An erased or unknown event has no state."""
    row: dict[str, Any] = {
        "position": event.position,
        "version": event.stream_version,
        "event": event_name(event),
        "recorded_at": instant(event.recorded_us),
        "observed_at": instant(event.observed_us),
        "writer": event.writer,
    }
    element = element_of(event)
    if element is None:
        return row
    copy, failure = element.copy, element.failure
    row |= element_json(element) | {
        "copy_revision": None if copy is None else copy.revision,
        "failure": None
        if failure is None
        else {"reason": failure.reason, "attempts": failure.attempts, "next_try": instant(failure.next_try_us)},
    }
    named: object = getattr(event.fact, "sha256", None)
    return row | ({"object": named.hex()} if isinstance(named, bytes) else {})


def moment_json(moment: Moment) -> dict[str, Any]:
    """Return a moment."""
    return {
        "position": moment.position,
        "until": moment.until,
        "recorded_at": None if moment.recorded_us is None else instant(moment.recorded_us),
        "root": moment.root.hex(),
        "notes": list(moment.notes),
    }


def difference_json(difference: Difference) -> dict[str, Any]:
    """Return how an element differs between two moments."""
    key, before = difference.key, difference.before
    return {
        "change": difference.change,
        **key_json(key),
        **element_json(difference.after),
        "position": difference.position,
        "before": None if before is None else key_json(key) | element_json(before),
    }


def round_json(each: Round, label: str | None, copies: int, size: int) -> dict[str, Any]:
    """Return a restore point: the round that ends there, what its listing found, and how much was copied (bytes)."""
    found = each.listing
    return {
        "position": each.position,
        "time": instant(each.until_us),
        "source": each.source.hex(),
        "label": label,
        "mode": found.mode,
        "seen": found.seen,
        "new": found.new + found.reappeared,
        "changed": found.changed,
        "gone": found.vanished,
        "copies": copies,
        "bytes": size,
        "held": each.is_held,
        "open": each.is_open,
    }


def timeline_json(found: Timeline) -> dict[str, Any]:
    """Return a replica's life as bars. Times are microseconds since 1970."""
    names = ("start_us", "end_us", "rounds", "new", "changed", "gone", "held", "seen", "copies", "position")
    return {
        "began_us": found.began_us,
        "ended_us": found.ended_us,
        "bars": [{name: getattr(bar, name) for name in names} | {"bytes": bar.stored} for bar in found.bars],
    }


def past_json(past: Past | None) -> dict[str, Any] | None:
    """Return why a source is past, None if it is in use."""
    if past is None:
        return None
    heir = None if past.heir is None else past.heir.hex()
    return {"why": past.why, "since": instant(past.since_us), "heir": heir}


def source_json(known: KnownSource, states: Mapping[str, Tally]) -> dict[str, Any]:
    """Return a source, without its salt and without the token's HMAC."""
    source = known.source
    return {
        "source": known.id.hex(),
        "label": known.keeping.label,
        "past": past_json(known.past),
        "url": source.url,
        "urls": list(source.urls),
        "zero_knowledge": source.opaque,
        "vault": None if known.vault is None else known.vault.hex(),
        "zone": source.zone,
        "cursor": None if source.cursor is None else server_time(source.cursor),
        "listed": None if source.listed_us is None else instant(source.listed_us),
        "full_listed": None if source.full_listed_us is None else instant(source.full_listed_us),
        "held": source.held is not None and not source.held.is_accepted,
        "surge": source.surge is not None,
        "states": {state: {"elements": tally.elements, "bytes": tally.bytes} for state, tally in states.items()},
    }


def status_json(now_us: int, facts: Facts, alarms: list[Alarm]) -> dict[str, Any]:
    """Return the status of the replica."""
    from kropot.query.health import audited_since_us

    return {
        "healthy": not alarms,
        "alarms": [
            {
                "name": alarm.name,
                "source": None if alarm.source is None else alarm.source.hex(),
                "text": alarm.text,
                "since": None if alarm.since_us is None else instant(alarm.since_us),
            }
            for alarm in alarms
        ],
        "position": facts.position,
        "recorded": None if not facts.position else instant(facts.recorded_us),
        "erased": facts.erased.json,
        "audited_since": instant(audited_since_us(facts)),
        "audit": _audit_json(facts.audit),
        "storage": None if facts.storage is None else _storage_json(facts.storage),
        "further": [_further_json(facts.position, each) for each in facts.further],
        "sources": [_source_status_json(now_us, each) for each in facts.sources],
    }


def _storage_json(storage: StorageFacts) -> dict[str, Any]:
    """Return what was seen of the storage."""
    return {
        "place": storage.place,
        "there": storage.away is None and storage.trouble is None,
        "free_bytes": storage.room.bytes,
        "free_files": storage.room.files,
        "copies": storage.copies,
        "copied_bytes": storage.copied_bytes,
        "packs": storage.packs.packs,
        "packed_objects": storage.packs.objects,
        "packed_bytes": storage.packs.bytes,
        "ledger_free_bytes": storage.ledger_room.bytes,
        "ledger_free_files": storage.ledger_room.files,
        "looked_for": storage.probed,
        "missing": storage.missing,
        "segments_to": storage.segments_to,
        "transfers": [
            {
                "id": each.key.id,
                "source": each.key.source.hex(),
                "instance": each.instance,
                "received": each.received,
                "length": each.length,
                "heard_at": instant(each.heard_us),
            }
            for each in storage.transfers
        ],
    }


def _further_json(position: int, each: FurtherFacts) -> dict[str, Any]:
    """Return how far a further storage has come."""
    row = each.row
    return {
        "id": row.id.hex(),
        "address": row.address,
        "there": each.why_away is None,
        "why_away": each.why_away,
        "position": row.position,
        "behind": max(position - row.position, 0),
        "in_step": instant(row.kept_us),
        "erasures_waiting": None if each.waiting is None else each.waiting.json,
    }


def _audit_json(ranges: tuple[AuditRange, ...]) -> dict[str, Any]:
    """Return when `verify` read which contents, the oldest first."""
    from kropot.coverage import foreseen_us, never_read, share

    by_us = foreseen_us(ranges)
    return {
        "ranges": [
            {
                "start": each.start.hex(),
                "end": each.end.hex(),
                "share": round(share(each.start, each.end), 6),
                "read": instant(each.at_us),
                "position": each.position,
            }
            for each in ranges
        ],
        "never_read": round(never_read(ranges), 6),
        "all_read_by": None if by_us is None else instant(by_us),
    }


def _source_status_json(now_us: int, each: SourceFacts) -> dict[str, Any]:
    listed_us = each.source.listed_us
    return {
        "source": each.id.hex(),
        "url": each.source.url,
        "zero_knowledge": each.source.opaque,
        "vault": None if each.vault is None else each.vault.hex(),
        "label": each.label,
        "past": past_json(each.past),
        "superseded": each.superseded,
        "dismissed": each.dismissed,
        "states": {state: {"elements": n, "bytes": size} for state, (n, size) in sorted(each.states.items())},
        "cursor": None if each.source.cursor is None else server_time(each.source.cursor),
        "listed": None if listed_us is None else instant(listed_us),
        "lag_s": None if listed_us is None else (now_us - listed_us) // SECOND_US,
        "full_listed": None if each.source.full_listed_us is None else instant(each.source.full_listed_us),
        "round_s": None if each.round_us is None else each.round_us // SECOND_US,
        "failed_run": None
        if each.failed_run is None
        else {
            "instance": each.failed_run.instance,
            "reason": each.failed_run.reason,
            "at": instant(each.failed_run.at_us),
        },
        "drill": None
        if each.drill is None
        else {"at": instant(each.drill.at_us), "opened": each.drill.opened, "failed": each.drill.failed},
        "pending_since": None if each.pending_since_us is None else instant(each.pending_since_us),
        "unlistable": [server_time(second) for second in each.source.unlistable],
        "unserved": None if each.unserved is None else asdict(each.unserved),
        "unscanned_since": None if each.unscanned_since is None else instant(each.unscanned_since * SECOND_US),
        "failing": {
            "elements": each.failing_count,
            "about": max(each.failing_count, each.failing_about),
            "sampled": each.is_sampled,
            "reasons": dict(each.reasons),
            "longest": [
                {
                    "type": failing.key.kind,
                    "id": failing.key.id,
                    "reason": failing.reason,
                    "attempts": failing.attempts,
                    "since": instant(failing.since_us),
                    "next_try": instant(failing.next_try_us),
                }
                for failing in each.failing
            ],
        },
    }
