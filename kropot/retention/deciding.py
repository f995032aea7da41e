"""Decide what a policy lets go, over a whole ledger: range by range of its streams, in flat memory.

`verify` makes the same decision again, from the events up to the same position and for the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from kropot.replay.processes import in_processes
from kropot.retention.moments import RoundSpan, kept_moments
from kropot.retention.policy import rules_for
from kropot.retention.versions import Release, SeenCopy, releases
from ledger.append import source_key
from ledger.decoding import fact_of
from ledger.events import FACTS, ElementFact, ListingCompleted, RemoteObserved
from ledger.pattern import is_whole, number, recogniser
from ledger.projection import named_object
from ledger.quick import plain_types
from ledger.rows import SOUND, StoredFact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kropot.retention.moments import KeptMoments
    from kropot.retention.versions import Reason
    from ledger.log import Ledger
    from ledger.retention import KeepRules, Retention

RANGE: Final = 5_000
"""How many streams one process decides about at a time."""

PAGE: Final = 500
"""How many histories are in memory at a time."""

R = TypeVar("R")

_FIELDS: Final = ("element_copy_sha256", "element_copy_size", "element_present")
_RECOGNISED: Final = recogniser(RemoteObserved, *_FIELDS)
_match: Final = _RECOGNISED.match
_GROUPS: Final = tuple(_RECOGNISED.groups[name] for name in _FIELDS)
_TRUE: Final = b"\xc3"
_TYPED: Final = 2
_STREAM: Final = itemgetter(1)
_PLAIN: Final = plain_types()
_STORES: Final = frozenset(name for name, cls in FACTS.items() if cls.OBJECT_STATE == SOUND and not cls.NAMES_OBJECT)
"""The facts that say that the element's copy is sound."""


class StreamRelease(NamedTuple):
    """What the policy lets go of one element: its stream, its source (16 bytes), and the release."""

    stream: int
    source: bytes
    release: Release


@dataclass(slots=True, kw_only=True)
class Decider:
    """Decides by `retention` what is let go, from the events up to `position`, for the time `at_us`.

    `processes` is as for `in_processes`. `all` and `by_range` call `go_on` for each range of streams. It may raise.
    """

    ledger: Ledger
    retention: Retention
    position: int
    at_us: int
    processes: int | None = None
    go_on: Callable[[], object] = lambda: None
    _rules: dict[bytes, tuple[KeepRules, KeptMoments] | None] = field(default_factory=dict)

    def all(self) -> Iterator[StreamRelease]:
        """Yield everything that is let go, in the order of streams."""
        for part in self.by_range(_packed):
            yield from map(_unpacked, part)

    def by_range(self, work: Callable[[Iterator[StreamRelease]], R]) -> Iterator[R]:
        """Yield `work(what is let go)` for each range of streams, in their order, with several processes if possible.

        The work is done in those processes, and its result comes through a pipe.
        """
        ids = {row.no: row.id for row in self.ledger.projection.sources()}
        ruled = {no: id_ for no, id_ in ids.items() if self._of(id_) is not None}
        if not ruled:
            return

        def decide(ledger: Ledger, _position: int, after: int) -> R:
            here = replace(self, ledger=ledger)
            return work(here._range(after, ruled))  # noqa: SLF001 -- it is this class

        starts = range(0, self.ledger.log.head().streams, RANGE)
        for part in in_processes(decide, self.ledger, self.position, starts, processes=self.processes):
            self.go_on()
            yield part

    def of_streams(self, sources: dict[int, bytes]) -> Iterator[StreamRelease]:
        """Yield what is let go of these streams, given with their sources, in the order of streams."""
        rows = self.ledger.log.histories(sources, self.position)
        for stream, events in groupby(rows, key=_STREAM):
            found = self._of(sources[stream])
            if found is not None:
                rules, moments = found
                for each in releases(_seen(events), moments, rules, self.at_us):
                    yield StreamRelease(stream, sources[stream], each)

    # --- helpers ---

    def _range(self, after: int, ids: dict[int, bytes]) -> Iterator[StreamRelease]:
        rows = self.ledger.projection.revisited(after, after + RANGE)
        wanted = ((stream, ids[no]) for stream, no in rows if no in ids)
        while page := list(islice(wanted, PAGE)):
            yield from self.of_streams(dict(page))

    def _of(self, source: bytes) -> tuple[KeepRules, KeptMoments] | None:
        if source not in self._rules:
            rules = rules_for(self.retention.rules, source)
            self._rules[source] = None if rules is None else (rules, self._moments(source, rules))
        return self._rules[source]

    def _moments(self, source: bytes, rules: KeepRules) -> KeptMoments:
        pins = [pin.position for pin in self.retention.pins]
        return kept_moments(_rounds(self.ledger, source, self.position), pins, rules, self.at_us)


def _rounds(ledger: Ledger, source: bytes, until: int) -> Iterator[RoundSpan]:
    """Yield the rounds of a source up to a position, newest first. The newest has not ended, so it ends there."""
    ended = until
    for event in ledger.log.stream_events(source_key(source).stored, newest_first=True):
        if event.type == ListingCompleted.TYPE and event.seq <= until:
            yield RoundSpan(event.seq, ended, event.recorded_us)
            ended = event.seq


def _seen(rows: Iterable[tuple[Any, ...]]) -> Iterator[SeenCopy]:
    """Yield what the events of one stream say about copies. Rows have the columns of a StoredFact."""
    for row in rows:
        position, _, _, kind, schema, _, at_us, payload = row
        match = _match(payload) if (kind, schema) in _PLAIN and payload is not None else None
        if match is not None and is_whole(match):
            sha256, size, present = match.group(*_GROUPS)
            if sha256 is None:
                yield SeenCopy(position, at_us, None, 0, present == _TRUE)
                continue
            found = sha256[_TYPED:]
            judged = (found, SOUND) if kind in _STORES else None
            yield SeenCopy(position, at_us, found, number(size), present == _TRUE, judged)
            continue
        event = StoredFact._make(row)
        fact = fact_of(event)
        if isinstance(fact, ElementFact):
            yield _said(event, fact)


def _said(event: StoredFact, fact: ElementFact) -> SeenCopy:
    copy, state = fact.element.copy, fact.OBJECT_STATE
    judged = None
    if fact.NAMES_OBJECT and state is not None:
        judged = (named_object(fact), state)
    elif state == SOUND and copy is not None:
        judged = (copy.sha256, SOUND)
    return SeenCopy(
        event.seq,
        event.recorded_us,
        None if copy is None else copy.sha256,
        0 if copy is None else copy.size,
        fact.element.present,
        judged,
    )


def _packed(found: Iterator[StreamRelease]) -> list[tuple[int, bytes, bytes, int, Reason]]:
    """Return plain tuples, which pass through a pipe in a fraction of the time."""
    return [(stream, source, *release) for stream, source, release in found]


def _unpacked(packed: tuple[int, bytes, bytes, int, Reason]) -> StreamRelease:
    stream, source, sha256, size, reason = packed
    return StreamRelease(stream, source, Release(sha256, size, reason))
