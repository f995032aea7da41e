"""Whether a policy entails every release: each one is decided again, as of the moment when it was decided.

A release that no policy entails counts as a loss. Otherwise, anyone who can write to the database could release all.
"""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from kropot.query.past import sources_at
from kropot.retention.conditions import was_alarmed
from kropot.retention.deciding import Decider
from kropot.retention.needed import releases_after
from kropot.retention.signature import is_signed
from ledger.audit import Finding
from ledger.decoding import fact_of
from ledger.errors import LedgerError
from ledger.events import StreamKey
from ledger.retaining import NOTHING, Decided, decided_of
from ledger.retention import RETENTION_KEY, ReleaseFact, RetentionFact
from ledger.rows import RELEASED, StoredFact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.log import Ledger
    from ledger.note import VerifierKey
    from ledger.retention import Retention

PAGE: Final = 500
_HINT: Final = (
    "this counts as a loss: if its bytes are still there, `kropotcli prune --undo` takes it back; find out who can "
    "write to the database"
)


class _Run(NamedTuple):
    """What the releases of one run of prune say about their decision."""

    policy: int
    decided: int
    at_us: int


class ReleaseAudit:
    """Checks the releases up to `position`. `checked` counts them.

    With the `key` for checkpoints, a policy after the first `signed_from` events must have its signature, unless it
    keeps as much as the one before. The first checkpoint covers these events. None: there is no checkpoint.
    """

    def __init__(
        self, ledger: Ledger, position: int, *, key: VerifierKey | None = None, signed_from: int | None = None
    ) -> None:
        """Read nothing yet."""
        self._ledger = ledger
        self._position = position
        self._key = key
        self._signed_from = signed_from
        self.checked = 0

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for each release that no policy entails, and for each policy that nobody signed."""
        unsigned = dict(self._unsigned()) if self._key is not None else {}
        for position in unsigned:
            yield Finding(
                kind="unsigned_policy",
                severity="error",
                detail="the key for checkpoints did not sign this decision about retention, although it keeps less "
                "than the one before",
                hint="if you made it, make it again with `kropotcli prune --key FILE` or `kropotcli keep --key FILE`; "
                "if not, find out who can write to the database",
                position=position,
            )
        events = releases_after(self._ledger, 0, self._position)
        while page := list(islice(events, PAGE)):
            read = [(event, fact) for event in page if (fact := _fact(event)) is not None]
            for run, group in groupby(read, key=lambda pair: _Run(pair[1].policy, pair[1].decided, pair[1].at_us)):
                yield from self._run(run, list(group), unsigned)

    # --- helpers ---

    def _run(
        self, run: _Run, group: list[tuple[StoredFact, ReleaseFact]], unsigned: dict[int, Retention]
    ) -> Iterator[Finding]:
        ledger = self._ledger
        keys = dict(ledger.log.streams({event.stream for event, _ in group}))
        known = [(event, fact, key) for event, fact in group if (key := keys.get(event.stream)) is not None]
        self.checked += len(known)
        decided = decided_of(ledger, until=run.decided)
        why = self._why_not(run, decided, [event for event, _, _ in known], unsigned)
        entailed: set[tuple[int, bytes, str]] = set()
        if why is None:
            decider = Decider(ledger=ledger, retention=decided.retention, position=run.decided, at_us=run.at_us)
            sources = {event.stream: key[:16] for event, _, key in known}
            entailed = {(each.stream, each.release.sha256, each.release.reason) for each in decider.of_streams(sources)}
        moved = self._moved(run, known)
        rows = ledger.projection.named({fact.sha256 for _, fact, _ in known})
        released = {(row.stream, row.sha256) for row in rows if row.state == RELEASED}
        seen: set[tuple[int, bytes]] = set()
        for event, fact, key in known:
            of = event.stream, fact.sha256
            is_right = (*of, fact.reason) in entailed and of not in seen and event.seq not in moved
            seen.add(of)
            if not is_right:
                because = why or ("its element had changed since" if event.seq in moved else "the policy keeps it")
                yield _finding(event, fact, StreamKey.parse(key), because, is_undone=of not in released)

    def _moved(self, run: _Run, known: list[tuple[StoredFact, ReleaseFact, bytes]]) -> set[int]:
        """Return the releases whose element changed in another way between the decision and the release."""
        at = {event.stream: event.seq for event, _, _ in known}
        own = {event.seq for event, _, _ in known}
        moved: set[int] = set()
        since: dict[int, int] = {}
        for row in self._ledger.log.histories(at, max(own, default=0)):
            event = StoredFact._make(row)
            if event.seq in own:
                if event.stream in since:
                    moved.add(event.seq)
            elif event.seq > run.decided:
                fact = _fact(event)
                if fact is None or (fact.policy, fact.decided, fact.at_us) != run:
                    since[event.stream] = event.seq
        return moved

    def _why_not(
        self, run: _Run, decided: Decided, events: list[StoredFact], unsigned: dict[int, Retention]
    ) -> str | None:
        """Return why no release of this run is entailed, None if the policy decides."""
        if not events:
            return None
        head = self._ledger.log.events_at([run.decided])
        if run.policy < 1 or decided.position != run.policy or run.policy in unsigned:
            return "the policy that it names was not in force, or nobody signed it"
        if not head or run.decided >= events[0].seq or run.at_us > head[0].recorded_us:
            return "it was decided for a time in the future"
        if decided_of(self._ledger, until=events[-1].seq).position != run.policy:
            return "another policy was in force by then"
        if any(was_alarmed(sources_at(self._ledger, at)) for at in (run.decided, events[-1].seq)):
            return "an alarm was open"
        return None

    def _unsigned(self) -> Iterator[tuple[int, Retention]]:
        """Yield the decisions that nobody signed, unless they keep as much as the one before or predate the key."""
        ledger_id = self._ledger.identity().ledger_id
        before, is_authorised = NOTHING, True
        for event in self._ledger.log.stream_events(RETENTION_KEY.stored):
            fact = fact_of(event) if event.seq <= self._position else None
            if not isinstance(fact, RetentionFact) or self._key is None:
                continue
            now = fact.retention
            came_before_key = self._signed_from is None or event.seq <= self._signed_from
            keeps_as_much = is_authorised and now.rules == before.rules and set(now.pins) >= set(before.pins)
            is_authorised = came_before_key or keeps_as_much or is_signed(now, ledger_id, self._key)
            if not is_authorised:
                yield event.seq, now
            before = now


def _fact(event: StoredFact) -> ReleaseFact | None:
    try:
        fact = fact_of(event)
    except LedgerError:
        return None
    return fact if isinstance(fact, ReleaseFact) else None


def _finding(event: StoredFact, fact: ReleaseFact, key: StreamKey, why: str, *, is_undone: bool) -> Finding:
    undone = "; it was taken back, or stored again" if is_undone else ""
    return Finding(
        kind="unentailed_release",
        severity="note" if is_undone else "error",
        detail=f"no policy justifies the release of this copy ({why}){undone}",
        hint="find out who can write to the database" if is_undone else _HINT,
        source=key.source.hex(),
        element=key.id,
        object=fact.sha256.hex(),
        position=event.seq,
    )
