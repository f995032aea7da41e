"""Decide what a policy lets go, over a whole ledger: stream by stream, in flat memory.

The same decision is made again by `verify`, from the events up to the same position and for the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from kropot.retention.moments import RoundSpan, kept_moments
from kropot.retention.policy import rules_for
from kropot.retention.versions import Release, SeenCopy, releases
from ledger.append import source_key
from ledger.decoding import fact_of
from ledger.events import FACTS, ElementFact, ListingCompleted, RemoteObserved
from ledger.pattern import is_whole, number, recogniser
from ledger.projection import named_object
from ledger.quick import NIL, plain_types
from ledger.rows import SOUND, StoredFact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kropot.retention.moments import KeptMoments
    from ledger.log import Ledger
    from ledger.retention import KeepRules, Retention

PAGE: Final = 2_000
"""How many streams are read at a time."""

_FIELDS: Final = ("element_copy_sha256", "element_copy_size", "element_present")
_RECOGNISED: Final = recogniser(RemoteObserved, *_FIELDS)
_GROUPS: Final = tuple(_RECOGNISED.groups[name] for name in _FIELDS)
_TRUE: Final = b"\xc3"
_TYPED: Final = 2
_PLAIN: Final = plain_types()
_STORES: Final = frozenset(name for name, cls in FACTS.items() if cls.OBJECT_STATE == SOUND and not cls.NAMES_OBJECT)
"""The facts that say of the element's copy that it is sound."""


class StreamRelease(NamedTuple):
    """What the policy lets go of one element: its stream, its source (16 bytes), and the release."""

    stream: int
    source: bytes
    release: Release


@dataclass(slots=True, kw_only=True)
class Decider:
    """Decides by `retention` what is let go, from the events up to `position`, for the time `at_us`.

    `all` calls `go_on` for each page of streams. It may raise.
    """

    ledger: Ledger
    retention: Retention
    position: int
    at_us: int
    go_on: Callable[[], object] = lambda: None
    _rules: dict[bytes, tuple[KeepRules, KeptMoments] | None] = field(default_factory=dict)

    def all(self) -> Iterator[StreamRelease]:
        """Yield everything that is let go, in the order of streams."""
        ids = {row.no: row.id for row in self.ledger.projection.sources()}
        wanted = ((stream, ids[no]) for stream, no in self.ledger.projection.revisited(0) if no in ids)
        ruled = (pair for pair in wanted if self._of(pair[1]) is not None)
        while page := list(islice(ruled, PAGE)):
            self.go_on()
            yield from self.of_streams(dict(page))

    def of_streams(self, sources: dict[int, bytes]) -> Iterator[StreamRelease]:
        """Yield what is let go of these streams, whose sources are given, in the order of streams."""
        facts = map(StoredFact._make, self.ledger.log.histories(sources, self.position))
        for stream, events in groupby(facts, key=lambda event: event.stream):
            found = self._of(sources[stream])
            if found is not None:
                rules, moments = found
                for each in releases(_seen(events), moments, rules, self.at_us):
                    yield StreamRelease(stream, sources[stream], each)

    def _of(self, source: bytes) -> tuple[KeepRules, KeptMoments] | None:
        if source not in self._rules:
            rules = rules_for(self.retention.rules, source)
            self._rules[source] = None if rules is None else (rules, self._moments(source, rules))
        return self._rules[source]

    def _moments(self, source: bytes, rules: KeepRules) -> KeptMoments:
        pins = [pin.position for pin in self.retention.pins]
        return kept_moments(_rounds(self.ledger, source, self.position), pins, rules, self.at_us)


def _rounds(ledger: Ledger, source: bytes, until: int) -> Iterator[RoundSpan]:
    """Yield the rounds of a source up to a position, newest first. The last one has not ended: it ends there."""
    ended = until
    for event in ledger.log.stream_events(source_key(source).stored, newest_first=True):
        if event.type == ListingCompleted.TYPE and event.seq <= until:
            yield RoundSpan(event.seq, ended, event.recorded_us)
            ended = event.seq


def _seen(events: Iterable[StoredFact]) -> Iterator[SeenCopy]:
    """Yield what the events of one stream say about copies."""
    for event in events:
        seen = _quickly(event) if (event.type, event.schema_version) in _PLAIN else None
        if seen is not None:
            yield seen
            continue
        fact = fact_of(event)
        if isinstance(fact, ElementFact):
            yield _said(event, fact)


def _quickly(event: StoredFact) -> SeenCopy | None:
    """Return what an event says whose payload is recognised by its bytes, None if it is not."""
    match = None if event.payload is None else _RECOGNISED.match(event.payload)
    if match is None or not is_whole(match):
        return None
    sha256, size, present = match.group(*_GROUPS)
    if sha256 is None or sha256 == NIL:
        return SeenCopy(event.seq, event.recorded_us, None, 0, present == _TRUE)
    found = sha256[_TYPED:]
    judged = (found, SOUND) if event.type in _STORES else None
    return SeenCopy(event.seq, event.recorded_us, found, number(size), present == _TRUE, judged)


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
