"""The rule for the log: how each event must relate to those before it, and how the log must end."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.answers import Erasure
from ledger.audit.copies import FoldedCopies
from ledger.audit.event import examine
from ledger.audit.finding import Finding
from ledger.audit.tree import TreeAudit
from ledger.codec import leaf_hash
from ledger.events import FACTS, ElementFact, Fact, PayloadErased, UnknownFact
from ledger.projection import named_object
from ledger.replica import evolve_source
from ledger.rows import SOUND, SourceRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.rows import StoredEvent, StoredHead
    from ledger.stores import EventLog

_MOST_REVISION = (1 << 32) - 1
_MOST_NEW_STREAMS = 1000
"""How many streams beyond the known ones to allocate. A larger number must be false."""


@dataclass(slots=True)
class Learnt:
    """What the log says about each stream, for the audit of the projection. Stream numbers begin at 1.

    `versions` counts a stream's events. `newest` is the position of its newest event that says what its element is,
    0 for none. `revisions` has each element's newest revision (`kept_revision`), 0 for none. `copies` holds a row for
    each copy; `sources` and `salts` are by source id.
    """

    versions: array[int] = field(default_factory=lambda: array("Q", [0]))
    newest: array[int] = field(default_factory=lambda: array("Q", [0]))
    revisions: array[int] = field(default_factory=lambda: array("I", [0]))
    copies: FoldedCopies = field(default_factory=FoldedCopies)
    sources: dict[bytes, SourceRow] = field(default_factory=dict)
    salts: dict[bytes, bytes] = field(default_factory=dict)


class LogRule:
    """Applies the rule to events in the order of reading. `position` and `recorded_us` are those of the last one.

    `unusable` holds the positions of rows that could not be read. Each already has its own finding.
    """

    def __init__(self, log: EventLog, head: StoredHead) -> None:
        """Begin before the first event."""
        self.head = head
        self.position = 0
        self.recorded_us = 0
        self.learnt = Learnt()
        self.tree = TreeAudit(log, head)
        self.unusable: set[int] = set()
        self.unknown = 0
        self.erased = 0
        self.erasures: list[Erasure] = []
        self._erasures: dict[int, tuple[bytes, int]] = {}

    def check(self, event: StoredEvent, key: bytes | None, *, exists: bool) -> Iterator[Finding]:
        """Yield what is wrong with the next event. `key` is its stream's, or None if erased or if none `exists`."""
        if event.seq != self.position + 1:
            yield from self._gap(event.seq)
        self.position = event.seq
        faults, fact, header = examine(event, key, self.learnt.salts, exists=exists)
        yield from faults
        yield from self._erasure(event, key, None if header is None else header.stream_digest, exists=exists)
        if is_erasure(event.type):
            self.erasures.append(Erasure(event.seq, event.recorded_us, event.stream_version - 1))
        yield from self._time(event)
        yield from self._version(event, sound=not faults)
        yield from self._revision(event, fact)
        self.tree.leaves.append(leaf_hash(event.header))
        self._learn(event, fact, key)

    def pass_unusable(self) -> None:
        """Move past rows that could not be read at the end of a page."""
        self.position = max([self.position, *self.unusable])

    def end(self, first_bad: int | None) -> Iterator[Finding]:
        """Yield the findings at the end, about the head and erasures. `first_bad` is the first bad position."""
        head, streams = self.head, len(self.learnt.versions) - 1
        if self.position < head.position:
            yield from self._gap(head.position + 1)
        yield from self.tree.end(self.position, is_whole=not self.unusable, first_bad=first_bad)
        if head.recorded_us != self.recorded_us:
            yield _error("head_mismatch", "the head's time is not the time of the last event", head.position)
        if head.streams != streams:
            detail = f"the head counts {head.streams} streams, but the events have {streams}"
            yield _error("head_mismatch", detail, head.position)
        for stream, (_, since) in self._erasures.items():
            if since:
                detail = f"the payloads of stream {stream} are missing, but no event says that they were erased"
                yield _error("payload_missing", detail, since)

    # --- the parts of the rule -------------------------------------------------------------------------------------

    def _gap(self, seq: int) -> Iterator[Finding]:
        """Yield what is missing before `seq`, which does not follow the last position."""
        first, last = self.position + 1, seq - 1
        self.tree.is_gapless = False
        while first in self.unusable:  # these have a finding already
            first += 1
        if seq < self.position + 1:
            yield _error("disorder", "it is there twice, or out of order", seq)
        elif first <= last:
            span = f"the event at position {first} is" if first == last else f"the events {first} to {last} are"
            yield _error("missing_event", f"{span} missing", first)

    def _time(self, event: StoredEvent) -> Iterator[Finding]:
        """Check that recorded time never goes back, and is the same for all events of a commit."""
        if event.recorded_us < self.recorded_us:
            yield _error("time_reversed", "its recorded time is before that of the previous event", event.seq)
        elif event.recorded_us != self.tree.commit.recorded_us and self.tree.covers(event):
            yield _error("commit_mismatch", "its recorded time differs from that of its commit", event.seq)
        self.recorded_us = max(event.recorded_us, self.recorded_us)

    def _version(self, event: StoredEvent, *, sound: bool) -> Iterator[Finding]:
        """Check that stream numbers and versions have no gaps. After a gap in the log, only their order counts."""
        versions, stream, found = self.learnt.versions, event.stream, event.stream_version
        # Every stream has an event, so no real number is larger. Allocate nothing for a made-up number.
        if stream < 1 or stream > min(max(len(versions), self.head.streams), len(versions) + _MOST_NEW_STREAMS):
            yield _error("bad_version", f"no stream has the number {stream}", event.seq)
            return
        if stream > len(versions) and self.tree.is_gapless and sound:
            yield _error("bad_version", f"its stream {stream} skips a stream number", event.seq)
        while stream >= len(versions):
            versions.append(0)
            self.learnt.newest.append(0)
            self.learnt.revisions.append(0)
        due = versions[stream] + 1
        if found != due and (self.tree.is_gapless or found < due):
            detail = f"it is the stream's event {found}, but event {due} is expected"
            yield _error("bad_version", detail, event.seq)
        if sound or found == due:
            versions[stream] = max(found, versions[stream])

    def _revision(self, event: StoredEvent, fact: Fact | UnknownFact | None) -> Iterator[Finding]:
        """Check that an element's revision never falls."""
        revisions, stream = self.learnt.revisions, event.stream
        if not isinstance(fact, ElementFact) or not 0 < stream < len(revisions):
            return
        found = kept_revision(fact.element.revision)
        if found < revisions[stream]:
            detail = f"the element goes back from revision {revisions[stream]} to {found}"
            yield _error("contradiction", detail, event.seq)
        revisions[stream] = max(found, revisions[stream])

    def _erasure(
        self, event: StoredEvent, key: bytes | None, digest: bytes | None, *, exists: bool
    ) -> Iterator[Finding]:
        """Allow a payload to be missing only where an event of the same stream erased the whole stream."""
        if not exists:
            return
        if event.payload is None:
            self.erased += 1
        if key is not None:
            if event.payload is None:
                detail = "the payload is missing, but no event says that it was erased"
                yield _error("payload_missing", detail, event.seq)
            return
        first, since = self._erasures.setdefault(event.stream, (digest or b"", event.seq))
        if digest is not None and digest != first:
            detail = "the header commits to another stream than the stream's earlier events"
            yield _error("stream_mismatch", detail, event.seq)
        if is_erasure(event.type):
            self._erasures[event.stream] = (first, 0)
        elif event.payload is not None:
            yield _error("not_erased", "its stream was erased, but the payload is still there", event.seq)
        elif since == 0:
            yield _error("payload_missing", "it follows the erasure of its stream", event.seq)

    def _learn(self, event: StoredEvent, fact: Fact | UnknownFact | None, key: bytes | None) -> None:
        """Keep what the projection must say. It is compared only with a sound log, so bad events do not matter."""
        stream, learnt = event.stream, self.learnt
        if isinstance(fact, UnknownFact):
            self.unknown += 1
        elif isinstance(fact, Fact) and fact.ERASES and stream < len(learnt.newest):
            learnt.newest[stream] = 0
            learnt.copies.drop(stream)
        elif isinstance(fact, ElementFact) and stream < len(learnt.newest):
            learnt.newest[stream] = event.seq
            copy, state = fact.element.copy, fact.OBJECT_STATE
            if fact.NAMES_OBJECT and state is not None:
                learnt.copies.changed(named_object(fact), stream, event.seq, state)
            elif state == SOUND and copy is not None:
                learnt.copies.stored(copy.sha256, stream, copy.size, event.seq)
        elif key is not None and evolve_source(fact) is not None:
            known = learnt.sources.get(key[:16])
            no = len(learnt.sources) + 1 if known is None else known.no
            learnt.sources[key[:16]] = SourceRow(no, key[:16], stream, event.stream_version, event.seq)


def kept_revision(revision: int) -> int:
    """Return an element's revision as the audit keeps it: in four bytes, as nothing changes four billion times."""
    return min(revision, _MOST_REVISION)


def is_erasure(type_name: str) -> bool:
    """Whether events of this type erase their stream's payloads."""
    known = FACTS.get(type_name)
    return type_name == PayloadErased.TYPE or (known is not None and known.ERASES)


def _error(kind: str, detail: str, position: int) -> Finding:
    return Finding(kind=kind, detail=detail, position=position)
