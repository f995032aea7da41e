"""Reads rows from a database that is not trusted. A column can have any type, whatever its definition says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.audit.finding import Finding
from ledger.errors import LedgerError, LedgerUnavailableError
from ledger.rows import CommitRow, StoredEvent, StoredHead

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ledger.stores import EventLog

    Row = tuple[Any, ...]
    """The columns of a StoredEvent."""
    Columns = tuple[tuple[Any, ...], ...]
    """One tuple for each of these columns, with a value for every event."""

_INT, _BYTES, _TEXT = frozenset({int}), frozenset({bytes}), frozenset({str})
_BYTES_OR_NOT = _BYTES | {type(None)}
_EVENT = (_INT, _INT, _INT, _TEXT, _INT, _INT, _INT, _INT, _TEXT, _BYTES, _BYTES_OR_NOT, _BYTES_OR_NOT, _BYTES)
_BARE = (1, 9, 10, 11, 12)
"""The columns of an event that its header does not repeat, so that comparing bytes does not check their types."""
_HEAD = (_INT, _INT, _INT, _BYTES)
_COMMIT = (_INT, _INT, _INT, _BYTES_OR_NOT, _BYTES_OR_NOT)

_UNKNOWN_HEAD = StoredHead(1 << 62, 0, 0, b"")
"""Stands for a head that cannot be read. The audit then reads every event."""

NO_KEY = b""
"""Stands for a stream's key that is not a byte string. It belongs to no source."""


def read_head(log: EventLog) -> tuple[StoredHead, Finding | None]:
    """Return the head, and a finding if it is missing or its types are wrong.

    The audit then reads the whole table of events.
    """
    try:
        head = log.head()
    except LedgerUnavailableError:
        raise
    except LedgerError as error:
        return _UNKNOWN_HEAD, Finding(kind="head_mismatch", detail=str(error))
    wrong = _wrong(head, _HEAD)
    if not wrong:
        return head, None
    detail = f"these columns have the wrong type: {', '.join(wrong)}"
    return _UNKNOWN_HEAD, Finding(kind="head_mismatch", detail=detail)


def read_events(log: EventLog, after: int, until: int, count: int) -> tuple[Columns, list[Finding]]:
    """Return the next events after `after`, at most `count`, and findings about rows that cannot be used.

    The events come column by column, because creating a `StoredEvent` for each would cost as much as hashing them.
    Without events there are no columns. Values that a header repeats can still have the wrong type (`row_fault`).

    Raises:
        LedgerUnavailableError: if the database cannot be reached.
    """
    try:
        page = log.page(after, until, count)
    except LedgerUnavailableError:
        raise
    except LedgerError as error:
        rows, findings = _one_by_one(log, after, min(until, after + count), str(error))
        return tuple(zip(*rows, strict=True)), findings
    columns: Columns = tuple(zip(*page, strict=True))
    if not columns or all(_EVENT[at].issuperset(map(type, columns[at])) for at in _BARE):
        return columns, []
    faults = [row_fault(event) for event in map(StoredEvent._make, page)]
    sound = [event for event, fault in zip(page, faults, strict=True) if fault is None]
    return tuple(zip(*sound, strict=True)), [fault for fault in faults if fault is not None]


def row_fault(event: StoredEvent) -> Finding | None:
    """Return a finding if columns of this row have the wrong type, else None."""
    wrong = _wrong(event, _EVENT)
    return _unusable(event.seq, f"these columns have the wrong type: {', '.join(wrong)}") if wrong else None


def read_keys(log: EventLog, streams: Collection[int]) -> dict[int, bytes | None]:
    """Return the keys of the streams that exist, and `NO_KEY` for a key that is not a byte string."""
    try:
        found = dict(log.streams(streams))
    except LedgerUnavailableError:
        raise
    except LedgerError:
        if len(streams) == 1:
            return dict.fromkeys(streams, NO_KEY)
        found = {}
        for stream in streams:
            found |= read_keys(log, (stream,))
    return {stream: key if key is None or type(key) is bytes else NO_KEY for stream, key in found.items()}


def commit_fault(row: CommitRow) -> str | None:
    """Return what is wrong with the types of a commit row, or None."""
    wrong = _wrong(row, _COMMIT)
    return f"of the wrong type in these columns: {', '.join(wrong)}" if wrong else None


# --- helpers ---------------------------------------------------------------------------------------------------------


def _wrong(row: StoredEvent | StoredHead | CommitRow, kinds: Sequence[frozenset[type]]) -> list[str]:
    return [name for name, value, allowed in zip(row._fields, row, kinds, strict=True) if type(value) not in allowed]


def _one_by_one(log: EventLog, after: int, until: int, why: str) -> tuple[list[Row], list[Finding]]:
    """Read the rows of a failing page one by one. Each row that cannot be read gets its own finding."""
    events: list[Row] = []
    findings: list[Finding] = []
    for seq in range(after + 1, until + 1):
        try:
            events += [event for event in log.events_at([seq]) if not _wrong(event, _EVENT)]
        except LedgerUnavailableError:
            raise
        except LedgerError:
            findings.append(_unusable(seq, f"its row cannot be read: {why}"))
    return events, findings


def _unusable(seq: int, detail: str) -> Finding:
    return Finding(kind="unreadable_row", detail=detail, position=seq)
