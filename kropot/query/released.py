"""When and why retention let a copy go."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from kropot.wording import instant, moment
from ledger.events import StreamKey
from ledger.retention import RETENTION_KEY, ReleaseFact
from ledger.rows import RELEASED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kropot.replay.fold import Standing
    from ledger.log import Ledger

_PAGE: Final = 1000
_WHY: Final = {"replaced": "a newer version had replaced it", "vanished": "its element had vanished"}


class Released(Struct, frozen=True, kw_only=True):
    """A release: its event's position and time, its reason, who ran it, and the position of the policy."""

    position: int
    at_us: int
    reason: str
    by: str
    policy: int

    @property
    def text(self) -> str:
        """When and why, as the end of a sentence that begins with "released"."""
        return f"on {moment(self.at_us)}, because {_WHY.get(self.reason, 'of an unknown reason')}"

    @property
    def json(self) -> dict[str, Any]:
        """The fields of the JSON answers."""
        return {
            "position": self.position,
            "at": instant(self.at_us),
            "reason": self.reason,
            "by": self.by,
            "policy": self.policy,
        }


def release_of(ledger: Ledger, key: StreamKey, sha256: bytes) -> Released | None:
    """Return the last event that let this element's copy go, None if there is none."""
    for event in ledger.history(key, newest_first=True):
        fact = event.fact
        if isinstance(fact, ReleaseFact) and fact.sha256 == sha256:
            return Released(
                position=event.position, at_us=event.recorded_us, reason=fact.reason, by=fact.by, policy=fact.policy
            )
    return None


def with_releases(ledger: Ledger, standings: Iterable[Standing]) -> Iterator[tuple[Standing, Released | None]]:
    """Yield each standing with the release of its copy, None if it is there. Without a policy, this reads nothing."""
    if next(ledger.log.stream_events(RETENTION_KEY.stored, newest_first=True), None) is None:
        yield from ((standing, None) for standing in standings)
        return
    source = iter(standings)
    while page := list(islice(source, _PAGE)):
        wanted = {each.element.copy.sha256 for each in page if each.element.copy is not None}
        rows = [row for row in ledger.projection.named(wanted) if row.state == RELEASED]
        keys = dict(ledger.log.streams({row.stream for row in rows}))
        gone = {(StreamKey.parse(key), row.sha256) for row in rows if (key := keys.get(row.stream)) is not None}
        for each in page:
            copy = each.element.copy
            is_gone = copy is not None and (each.key, copy.sha256) in gone
            yield each, release_of(ledger, each.key, copy.sha256) if is_gone and copy is not None else None
