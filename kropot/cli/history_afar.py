"""`kropotcli history --from`: the events about one element, from a keeper or an export."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from kropot.cli.afar import keeper_at, remote_state
from kropot.cli.base import Settings, emit, emit_json
from kropot.cli.naming import named_ids, only_named
from kropot.errors import UsageError
from kropot.query.names import readings, split_source
from kropot.query.past import labels_in
from kropot.query.render import event_json
from kropot.wording import moment as clock
from kropot.wording import one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from kropot.afar.replica import AfarReplica
    from kropot.replay.copies import HeldCopy
    from kropot.restore.naming import Namer
    from kropot.restore.opener import Key
    from ledger.events import StreamKey

_LIKE_AN_ID: Final = re.compile(r"(?:[^:]*:)?[0-9a-f]{64,128}")


def at_keeper(settings: Settings, address: str, token_file: Path | None, element: str, keys: Sequence[Key]) -> None:
    """Print the events about an element that a keeper has. Raises: UsageError if there is none, or several."""
    from kropot.afar.replica import BadAnswerError, held_of_row
    from kropot.restore.naming import Namer

    with keeper_at(settings, address, token_file) as replica:
        state = remote_state(replica, None)
        labels, namer = labels_in(state.sources.known), Namer(keys)
        # A user who gives a kit means a name, which the keeper must not learn. Send only what looks like an id.
        given = readings(labels, element) if not keys or _LIKE_AN_ID.fullmatch(element) else []
        first: list[tuple[StreamKey, list[dict[str, Any]]]] = []
        for key in dict.fromkeys((*given, *named_ids(labels, element, namer))):
            page = _page(replica, key, 0)
            if page is not None:
                first.append((key, page))
        if keys and not first:
            rows = (row for source in labels for row in replica.rows(source, state.position))
            named = only_named(labels, element, _opened((held_of_row(row, is_past=False) for row in rows), namer))
            page = None if named is None else _page(replica, named, 0)
            first += [] if named is None or page is None else [(named, page)]
        key, page = _only(first, element)
        after = 0
        while page:
            for row in page:
                _print(settings, row)
            if page[-1]["version"] <= after:
                raise BadAnswerError("a history")
            after = page[-1]["version"]
            page = _page(replica, key, after) or []


def in_export(settings: Settings, root: Path, element: str, keys: Sequence[Key]) -> None:
    """Print the events about an element that an export has: those that prove its copy. Raises: UsageError."""
    from kropot.restore.naming import Namer
    from kropot.restore.read_export import ExportedCopies
    from ledger.decoding import event_of

    copies, namer = ExportedCopies(root), Namer(keys)
    try:
        if copies.history() is None:
            raise UsageError(f"the export {root} holds no events: an older version made it, so export again")
        labels = dict.fromkeys(held.key.source for held in copies.helds())
        if _LIKE_AN_ID.fullmatch(element) and len(split_source(labels, element)) == 1:
            element = element.rpartition(":")[2]  # an export has no labels, and `ls` shows one before the id
        wanted = {*readings(labels, element), *named_ids(labels, element, namer)}
        if keys and not any(held.key in wanted for held in copies.helds()):
            named = only_named(labels, element, _opened(copies.helds(), namer))
            wanted = set() if named is None else {named}
        found = [(held.key, list(held.events)) for held in copies.helds() if held.key in wanted]
        key, events = _only(found, element)
        for event in sorted(events, key=lambda each: each.seq):
            _print(settings, event_json(event_of(event, key)))
    finally:
        copies.close()


def _opened(helds: Iterable[HeldCopy], namer: Namer) -> Iterator[tuple[StreamKey, bytes | None]]:
    """Yield each element with the name that the kits open."""
    return ((held.key, namer.of_copy(held)) for held in helds)


def _only(found: Sequence[tuple[StreamKey, Any]], element: str) -> tuple[StreamKey, Any]:
    """Return the only element that was found. Raises: UsageError."""
    if not found:
        raise UsageError(
            f"there is no element {quoted(element)}: list the names with `kropotcli restore --list-names`, and give "
            f"the kit with --key, which finds a name's id"
        )
    if len(found) > 1:
        sources = ", ".join(key.source.hex()[:8] for key, _ in found)
        raise UsageError(
            f"the element {quoted(element)} is ambiguous, because sources {sources} have it: write SOURCE:ID"
        )
    return found[0]


def _page(replica: AfarReplica, key: StreamKey, after: int) -> list[dict[str, Any]] | None:
    """Return the next events of an element, None if there is no such element. Raises: BadAnswerError."""
    from kropot.afar.client import NotAtKeeperError
    from kropot.afar.replica import ROWS, BadAnswerError

    try:
        answer = replica.client.get("elements", key.source.hex(), key.kind, key.id, "history", after=after, limit=ROWS)
        return list(map(_checked, answer["events"]))
    except NotAtKeeperError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BadAnswerError("a history") from None


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """Return a keeper's event with its known fields, each of its type. Raises: ValueError, TypeError, KeyError."""
    numbers, texts = ("position", "version"), ("event", "recorded_at")
    if any(type(row[name]) is not int for name in numbers) or any(not isinstance(row[name], str) for name in texts):
        raise ValueError(row)
    datetime.fromisoformat(row["recorded_at"])
    return row


def _print(settings: Settings, row: dict[str, Any]) -> None:
    if settings.json:
        emit_json("event", row, flush=False)
    else:
        emit("  ".join(one_line(str(field)) for field in _fields(row)), flush=False)


def _fields(row: dict[str, Any]) -> Iterator[object]:
    """Yield the fields of an event's line, as `history` shows a local one."""
    recorded = datetime.fromisoformat(row["recorded_at"])
    yield from (row["position"], clock(int(recorded.timestamp()) * 1_000_000), row["event"])
    if "state" not in row:
        return
    yield from (row["state"], f"revision {row.get('revision')}", row.get("date"))
    if row.get("sha256") is not None:
        yield from (row.get("size"), row["sha256"])
    failure = row.get("failure")
    if isinstance(failure, dict):
        yield f"{failure.get('reason')}, attempt {failure.get('attempts')}"
