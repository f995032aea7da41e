"""What changed between two moments, as a keeper reports it. Nothing here is proved: it is for looking around."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from kropot.afar.replica import ROWS, BadAnswerError, held_of_row, row_key
from kropot.replay.diff import CHANGES
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.afar.replica import AfarReplica
    from kropot.replay.copies import HeldCopy

_STATES: Final = frozenset({"current", "pending", "vanished", "damaged", "lost"})
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SOURCE: Final = re.compile(r"[0-9a-f]{32}")


class RemoteDifferences(Struct, frozen=True, kw_only=True):
    """The positions of two moments, and the rows about what changed between them, as `replay --diff` prints them."""

    earlier: int
    later: int
    notes: tuple[str, ...]
    rows: Iterator[dict[str, Any]]


def differences(replica: AfarReplica, one: str | None, other: str | None) -> RemoteDifferences:
    """Return what changed between two moments. Raises: BadAnswerError, and as `KeeperClient.get`."""
    moments = [replica.moment(one), replica.moment(other)]
    earlier, later = sorted(each.position for each in moments)
    notes = tuple(note for each in moments for note in each.notes)
    return RemoteDifferences(earlier=earlier, later=later, notes=notes, rows=_rows(replica, earlier, later))


def with_copies(
    replica: AfarReplica, found: RemoteDifferences
) -> Iterator[tuple[dict[str, Any], StreamKey, HeldCopy | None]]:
    """Yield each row with its element and its sealed copy at the later moment, whose form contains the name.

    Request only the elements with an event between the two moments, in their order, and none by its name. The
    copy is None if the keeper does not send it. Raises: BadAnswerError, and as `KeeperClient.get`.
    """
    for source, rows in groupby(found.rows, key=lambda row: bytes.fromhex(row["source"])):
        sent = replica.rows(source, found.later, since=found.earlier)
        at = next(sent, None)
        for row in rows:
            key = row_key(row)
            while at is not None and row_key(at).stored < key.stored:
                at = next(sent, None)
            yield row, key, held_of_row(at, is_past=False) if at is not None and row_key(at) == key else None


def _rows(replica: AfarReplica, earlier: int, later: int) -> Iterator[dict[str, Any]]:
    after, before = None, b""
    while True:
        asked = {"from": f"@{earlier}", "to": f"@{later}", "after": after, "limit": ROWS}
        answer = replica.client.get("difference", **asked)
        rows = answer.get("differences")
        if not isinstance(rows, list):
            raise BadAnswerError("differences")
        for row in rows:
            key = _key(row)
            if key <= before:
                raise BadAnswerError("differences")
            before = key
            yield row
        after = answer.get("next")
        if after is None or not rows:
            return


def _key(row: Any) -> bytes:
    """Return the stored key of a row, after checking the row's fields. Raises: BadAnswerError."""
    try:
        is_fine = (
            row["change"] in CHANGES
            and row["state"] in _STATES
            and _SOURCE.fullmatch(row["source"])
            and isinstance(row["date"], str)
            and (row["sha256"] is None or (_HASH.fullmatch(row["sha256"]) and type(row["size"]) is int))
        )
        key = StreamKey(source=bytes.fromhex(row["source"]), kind=row["type"], id=row["id"]).stored
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BadAnswerError("differences") from None
    if not is_fine:
        raise BadAnswerError("differences")
    return key
