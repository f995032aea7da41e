"""The API's answers, as plain JSON values. They build on `kropot/query/` and `kropot/replay/`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kropot.errors import IntegrityError, UsageError
from kropot.keeper.asking import NotFoundError, cursor_of
from kropot.keeper.operations import MOST_HEADERS, STATES
from kropot.keeper.room import RoomAnswers
from kropot.keeper.visitor import Role
from kropot.proofs import prove_consistency, prove_event
from kropot.query.erasures import erased_in
from kropot.query.facts import gather
from kropot.query.health import health
from kropot.query.past import labels_of, past_ids, sources_at
from kropot.query.render import (
    difference_json,
    element_json,
    event_json,
    key_json,
    moment_json,
    round_json,
    source_json,
    status_json,
    timeline_json,
)
from kropot.query.rounds import rounds
from kropot.query.timeline import MOST_BARS, timeline
from kropot.query.volumes import StoredVolumes
from kropot.replay.copies import held_at
from kropot.replay.diff import diff
from kropot.replay.page import page_at
from kropot.restore.element_copy import standing_of
from kropot.restore.evidence import event_json as evidence_json
from kropot.wording import instant
from ledger.checkpoint import origin_of, unverified_checkpoint
from ledger.errors import BadCheckpointError
from ledger.log import utc_now_us
from ledger.merkle import consistency_path, inclusion_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.keeper.asking import Asked
    from kropot.keeper.visitor import Visitor
    from kropot.objects.opening import Storage
    from kropot.query.erasures import Erased
    from kropot.query.facts import Facts
    from kropot.query.health import Limits
    from kropot.replay.copies import HeldCopy
    from kropot.replay.fold import Standing
    from kropot.replay.moment import Moment
    from ledger.checkpoint import Checkpoint
    from ledger.events import StreamKey
    from ledger.log import Ledger


class KeeperAnswers(RoomAnswers):
    """Answers the questions about one replica. Any thread may call it."""

    def __init__(self, ledger: Ledger, storage: Storage, limits: Limits) -> None:
        """Read this replica. `limits` say when there is an alarm."""
        super().__init__(ledger, storage)
        self._limits = limits
        self._volumes: tuple[Erased, StoredVolumes] | None = None

    def me(self, visitor: Visitor, _asked: Asked) -> dict[str, Any]:
        """Return what the visitor's token allows."""
        bound = None if visitor.sources is None else sorted(each.hex() for each in visitor.sources)
        return {"number": visitor.number, "role": str(visitor.role), "label": visitor.label, "sources": bound}

    # --- health -------------------------------------------------------------------------------------------------------

    def facts(self, visitor: Visitor) -> Facts:
        """Return the facts about the replica, limited to the sources that this visitor may see."""
        facts = gather(self._ledger, self._storage)
        if visitor.sources is None:
            return facts
        storage = facts.storage
        if storage is not None:
            seen = tuple(each for each in storage.transfers if visitor.sees(each.key.source))
            storage = replace(storage, transfers=seen)
        sources = tuple(each for each in facts.sources if visitor.sees(each.id))
        return replace(facts, sources=sources, storage=storage)

    def status(self, visitor: Visitor, _asked: Asked | None = None) -> dict[str, Any]:
        """Return what `kropotcli status --json` prints."""
        facts = self.facts(visitor)
        now_us = max(utc_now_us(), facts.observed_us)
        return status_json(now_us, facts, health(now_us, facts, self._limits))

    def alarms(self, visitor: Visitor, _asked: Asked | None = None) -> dict[str, Any]:
        """Return whether the replica is healthy, and the alarms that a person must answer."""
        status = self.status(visitor)
        return {"healthy": status["healthy"], "alarms": status["alarms"]}

    def coverage(self, visitor: Visitor, _asked: Asked | None = None) -> dict[str, Any]:
        """Return which contents were read and compared, and when."""
        status = self.status(visitor)
        return {**status["audit"], "audited_since": status["audited_since"]}

    # --- moments ------------------------------------------------------------------------------------------------------

    def moment(self, _visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return the position that `until` means, its time and root."""
        return moment_json(asked.moment())

    def sources(self, visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return the sources as they were at a moment. The sums over their states are today's."""
        moment = asked.moment()
        tallies = self._ledger.tallies()
        rows = []
        for id_, known in sources_at(self._ledger, moment.position).items():
            if visitor.sees(id_):
                row = source_json(known, {each.state: each for each in tallies if each.source == id_})
                rows.append(
                    row
                    | {
                        "began": instant(known.began_us),
                        "began_us": known.began_us,
                        "listed_us": known.source.listed_us,
                    }
                )
        return {"position": moment.position, "sources": rows}

    def restore_points(self, visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return the rounds that ended after a time, the oldest first, as `kropotcli log --json` prints them."""
        count, since_us = asked.rows(), asked.whole("after", 0, most=1 << 62) or None
        source = asked.source()
        labels = {id_: label for id_, label in labels_of(self._ledger).items() if visitor.sees(id_)}
        wanted = set(labels) if source is None else {source}
        volumes = self._stored()
        rows: list[dict[str, Any]] = []
        last_us = None
        for each in rounds(self._ledger, since_us=since_us, sources=wanted):
            # Rounds that ended at the same time stay on one page, because the next page begins after a time.
            if len(rows) >= count and each.until_us != last_us:
                return {"points": rows, "next": last_us}
            last_us = each.until_us
            found = volumes.between(each.source, each.after, each.position)
            rows.append(round_json(each, labels[each.source], *found))
        return {"points": rows, "next": None}

    def timeline(self, visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return the history of the sources as bars."""
        source, count = asked.source(), max(1, asked.whole("bars", 120, most=MOST_BARS))
        wanted = [id_ for id_ in self._ledger.sources() if visitor.sees(id_) and (source is None or id_ == source)]
        start, end = asked.whole("from_ms", -1), asked.whole("to_ms", -1)
        return timeline_json(
            timeline(
                self._ledger,
                wanted,
                self._stored(),
                bars=count,
                from_us=None if start < 0 else start * 1000,
                to_us=None if end < 0 else end * 1000,
            )
        )

    # --- elements -----------------------------------------------------------------------------------------------------

    def elements(self, visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return a page of the elements at a moment, in the order of their keys."""
        moment, count, after = asked.moment(), asked.rows(), asked.after()
        with_events, since = asked.flag("events"), asked.whole("since", 0)
        state = asked.text("state")
        if state is not None and state not in STATES:
            raise UsageError(f"state must be one of {', '.join(STATES)}, and is {state[:40]!a}")
        source = asked.source()
        standings: list[Standing] = []
        stopped: bytes | None = None
        for each in _in_turn(visitor, source, after):
            page = page_at(
                self._ledger,
                moment.position,
                source=each,
                after=after,
                count=count - len(standings),
                since=since,
                wanted=lambda element: state is None or element.state == state,
            )
            standings += page.standings
            stopped = page.after
            if stopped is not None:
                break
        rows = list(self._rows(standings, moment, with_events=with_events))
        return moment_json(moment) | {"elements": rows, "next": cursor_of(stopped)}

    def element(self, visitor: Visitor, asked: Asked, key: StreamKey) -> dict[str, Any]:
        """Return one element at a moment, with its events and their places in the tree of all events."""
        _refuse_foreign(visitor, key)
        moment = asked.moment()
        size = asked.whole("size", self._ledger.head().position)
        standing = standing_of(self._ledger, key, moment.position)
        if standing is None:
            raise NotFoundError(f"the element was not known at position {moment.position}")
        row = next(self._rows([standing], moment, with_events=True))
        held = next(held_at(self._ledger, [standing], with_events=True))
        if any(event.seq > size for event in held.events):
            raise UsageError(f"its event is not among the first {size}: ask with a larger size")
        leaves, frontier_at = self._ledger.log.leaves, self._ledger.frontier_at
        found = [inclusion_path(event.seq - 1, size, leaves, frontier_at) for event in held.events]
        paths = [[node.hex() for node in path] for path in found]
        return moment_json(moment) | {"element": row, "size": size, "paths": paths}

    def history(self, visitor: Visitor, asked: Asked, key: StreamKey) -> dict[str, Any]:
        """Return the events of one element after a version of its stream, the oldest first."""
        _refuse_foreign(visitor, key)
        count, after = asked.rows(), asked.whole("after", 0)
        events = (each for each in self._ledger.history(key) if each.stream_version > after)
        found = list(islice(events, count + 1))
        if not found and not after:
            raise NotFoundError("there is no such element")
        rows = [event_json(each) for each in found[:count]]
        return key_json(key) | {"events": rows, "next": rows[-1]["version"] if len(found) > count else None}

    def difference(self, visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return a page of what changed between two moments, in the order of the keys."""
        one, other = asked.moment("from"), asked.moment("to")
        earlier, later = sorted((one, other), key=lambda moment: moment.position)
        count, after, source = asked.rows(), asked.after(), asked.source()
        rows: list[dict[str, Any]] = []
        stopped: bytes | None = None
        for each in diff(self._ledger, earlier.position, later.position, behind=max(after, source or b"")):
            if source is not None and each.key.source != source:
                break
            if not visitor.sees(each.key.source):
                continue
            if len(rows) == count:
                break
            rows.append(difference_json(each))
            stopped = each.key.stored
        else:
            stopped = None
        if source is not None and len(rows) < count:
            stopped = None
        return {
            "from": moment_json(earlier),
            "to": moment_json(later),
            "differences": rows,
            "next": cursor_of(stopped),
        }

    # --- proofs -------------------------------------------------------------------------------------------------------

    def tree(self, visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return the tree of the first `size` events. Owners also get the first event and their sources' salts."""
        head = self._ledger.head()
        size = asked.whole("size", head.position)
        self._demand(size)
        frontier = head.frontier if size == head.position else self._ledger.frontier_at(size)
        began = self._ledger.identity()
        answer: dict[str, Any] = {
            "ledger": began.ledger_id.hex(),
            "origin": origin_of(began.ledger_id),
            "size": size,
            "root": frontier.root.hex(),
            "frontier": frontier.stored.hex(),
            "erased": erased_in(self._ledger).json,
        }
        if visitor.may(Role.OWNER):
            salts = {
                id_.hex(): entry.source.salt.hex() for id_, entry in self._ledger.sources().items() if visitor.sees(id_)
            }
            answer |= {"first": evidence_json(self._ledger.log.events_at([1])[0]), "salts": salts}
        return answer

    def checkpoints(self, _visitor: Visitor, _asked: Asked) -> dict[str, Any]:
        """Return the signed checkpoints that the ledger keeps, the oldest first. Their signatures are not checked."""
        rows = []
        for checkpoint, note in self._checkpoints():
            rows.append(
                {
                    "origin": checkpoint.origin,
                    "size": checkpoint.size,
                    "root": checkpoint.root.hex(),
                    "recorded_at": self._time_of(checkpoint.size),
                    "note": note.decode(),
                }
            )
        return {"checkpoints": rows}

    def proof(self, visitor: Visitor, asked: Asked, key: StreamKey) -> dict[str, Any]:
        """Return what `kropotcli prove` prints about one element."""
        _refuse_foreign(visitor, key)
        moment = asked.moment()
        if standing_of(self._ledger, key, moment.position) is None:
            raise NotFoundError(f"the element was not known at position {moment.position}")
        return prove_event(self._ledger, key, until=moment.position, checkpoints=self._checkpoints())

    def consistency(self, _visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return the proof that the first `old` events are the beginning of the first `new` ones.

        With `signed=true`, both are sizes of checkpoints, and this is what `kropotcli consistency` prints.
        """
        new = asked.whole("new", self._ledger.head().position)
        old = asked.whole("old", 0)
        self._demand(new)
        if old > new:
            raise UsageError(f"old ({old}) is larger than new ({new}): swap them")
        if asked.flag("signed"):
            return prove_consistency(self._ledger, self._checkpoint(old), self._checkpoint(new))
        path = consistency_path(old, new, self._ledger.log.leaves, self._ledger.frontier_at)
        return {"old": old, "new": new, "path": [node.hex() for node in path]}

    def headers(self, asked: Asked) -> bytes:
        """Return the headers of the events after position `after`, in the format of an export (docs/format.md)."""
        from kropot.msgpacked import pack
        from kropot.restore.history import headers_of

        after, count = asked.whole("after", 0), asked.rows(most=MOST_HEADERS)
        until = min(self._ledger.head().position, after + count)
        return b"".join(pack(header) for header in headers_of(self._ledger, until, after=after))

    # --- objects ------------------------------------------------------------------------------------------------------

    def may_have(self, visitor: Visitor, sha256: bytes) -> None:
        """Return if an event of a source that the visitor may see names this object. Raises: NotFoundError."""
        rows = self._ledger.copies(start=sha256, end=sha256)
        if not any(visitor.sees(row.key[:16]) for row in rows):
            raise NotFoundError("there is no such object")

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _stored(self) -> StoredVolumes:
        """Return the volumes. Their sums are cached until something is erased."""
        erased, kept = erased_in(self._ledger), self._volumes
        if kept is None or kept[0] != erased:
            kept = self._volumes = erased, StoredVolumes(self._ledger)
        return kept[1]

    def _rows(self, standings: list[Standing], moment: Moment, *, with_events: bool) -> Iterator[dict[str, Any]]:
        past: frozenset[bytes] = frozenset()
        helds: Iterator[HeldCopy | None] = iter([None] * len(standings))
        if with_events:
            past = past_ids(sources_at(self._ledger, moment.position))
            helds = iter(held_at(self._ledger, standings, past=past, with_events=True))
        for standing, held in zip(standings, helds, strict=True):
            row = key_json(standing.key) | element_json(standing.element)
            row |= {"position": standing.position, "recorded_at": instant(standing.recorded_us)}
            if held is not None:
                row |= {
                    "is_older": held.is_older,
                    "is_past": held.is_past,
                    "refused": held.refused,
                    "events": [evidence_json(event) for event in held.events],
                }
            yield row

    def _checkpoints(self) -> Iterator[tuple[Checkpoint, bytes]]:
        for _, note in self._ledger.blobs.checkpoints():
            try:
                yield unverified_checkpoint(note.encode()), note.encode()
            except BadCheckpointError as error:
                raise IntegrityError(f"the ledger holds a note that is not a checkpoint: {error.why}") from None

    def _checkpoint(self, size: int) -> tuple[Checkpoint, bytes]:
        found = next((pair for pair in self._checkpoints() if pair[0].size == size), None)
        if found is None:
            raise NotFoundError(f"the ledger holds no checkpoint over {size} events: see /api/1/checkpoints")
        return found

    def _demand(self, size: int) -> None:
        position = self._ledger.head().position
        if size > position:
            raise UsageError(f"the ledger has {position} events, not {size}")

    def _time_of(self, position: int) -> str | None:
        event = next(iter(self._ledger.log.events_at([position])), None)
        return None if event is None else instant(event.recorded_us)


def _in_turn(visitor: Visitor, source: bytes | None, after: bytes) -> list[bytes | None]:
    """Return the sources whose elements are on a page, in the order of their keys; [None] means all of them."""
    if source is not None:
        return [source]
    if visitor.sources is None:
        return [None]
    return [each for each in sorted(visitor.sources) if each >= after[:16]]


def _refuse_foreign(visitor: Visitor, key: StreamKey) -> None:
    if not visitor.sees(key.source):
        raise NotFoundError("there is no such element")
