"""Which versions of one element a policy lets go: its events in, releases out; pure.

A version is the copy of one object, from the event that stored it to the one that replaced it, or until the element
vanished. Ages count from that end, so a version that was good for years is young when something replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from kropot.wording import SECOND_US
from ledger.rows import SOUND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kropot.retention.moments import KeptMoments
    from ledger.retention import KeepRules

Reason = Literal["replaced", "vanished"]
"""Why a version is released: a newer one replaced it, or the element vanished and it was the last one."""


class SeenCopy(NamedTuple):
    """What one event says: the SHA-256 and size of the element's copy, None without one, and whether it is present.

    `judged` is an object and its new state ("damaged", "lost", "released", "sound"), None if the event says nothing.
    """

    position: int
    at_us: int
    sha256: bytes | None
    size: int
    is_present: bool
    judged: tuple[bytes, str] | None = None


class Release(NamedTuple):
    """An object that an element no longer needs, its size, and why."""

    sha256: bytes
    size: int
    reason: Reason


def releases(events: Iterable[SeenCopy], moments: KeptMoments, rules: KeepRules, now_us: int) -> list[Release]:
    """Return what the rules let go of an element with these events, in the order in which it was stored."""
    versions, is_present = _versions(events)
    sound = [each for each in versions.values() if each.state == SOUND]
    if not sound:
        return []
    newest = max(sound, key=lambda each: each.last_start)
    found: list[Release] = []
    for each in sound:
        if any(moments.need(start, end, vanished=vanished) for start, end, _, vanished in each.spans):
            continue
        ended_us = each.ended_us
        age_us = None if ended_us is None else now_us - ended_us
        if each is not newest:
            if age_us is not None and age_us >= rules.min_age_s * SECOND_US:
                found.append(Release(each.sha256, each.size, "replaced"))
        elif (
            not is_present
            and rules.vanished_s is not None
            and age_us is not None
            and age_us >= max(rules.vanished_s, rules.min_age_s) * SECOND_US
        ):
            found.append(Release(each.sha256, each.size, "vanished"))
    return found


# --- helpers ---------------------------------------------------------------------------------------------------------

_Span = tuple[int, int | None, int | None, bool]
"""Start, end, the end's time, and whether the element vanished there. End and time are None if it has not ended."""


@dataclass(slots=True)
class _Version:
    sha256: bytes
    size: int
    state: str = SOUND
    spans: list[_Span] = field(default_factory=list)

    @property
    def last_start(self) -> int:
        return self.spans[-1][0]

    @property
    def ended_us(self) -> int | None:
        """When it was last current, None if it still is."""
        return self.spans[-1][2]


def _versions(events: Iterable[SeenCopy]) -> tuple[dict[bytes, _Version], bool]:
    versions: dict[bytes, _Version] = {}
    open_: _Version | None = None
    is_present, before = False, None
    for each in events:
        position, at_us, sha256, size, is_present, judged = each
        now = sha256 if is_present else None
        if open_ is not None and open_.sha256 != now:
            start = open_.spans[-1][0]
            # A copy that is let go, or an element that vanished, ends a span; another copy replaces it.
            open_.spans[-1] = (start, position, at_us, now is None)
            open_ = None
        if sha256 is not None:
            known = versions.get(sha256)
            if known is None:
                known = versions[sha256] = _Version(sha256, size)
            if now is not None and open_ is None:
                known.spans.append((position, None, None, False))
                open_ = known
            elif not known.spans:
                # It was fetched although the element had just vanished, so it was current only for this moment.
                known.spans.append((position, position, at_us, True))
            if sha256 != before:
                known.state = SOUND
        before = sha256
        if judged is not None and judged[0] in versions:
            versions[judged[0]].state = judged[1]
    return versions, is_present
