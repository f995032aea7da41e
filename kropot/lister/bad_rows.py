"""Gets a listing past a row that the server cannot list, by finding the first second after which it can list again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.lister.conversation import FAR, PageRequest, Trouble
from kropot.securecopy.wire import wall_clock

if TYPE_CHECKING:
    from kropot.lister.conversation import Conversation

SAMPLES = 8
ROUNDS = 4


def pass_bad_row(since: int, zone: str) -> Conversation[int]:
    """Return the smallest second found after which the server lists a page of one row; after `since` it lists none.

    If no other bad row is near, that is the bad row's own second. But the next bad row can follow at once, so many
    places are sampled before the answer is accepted, and it is still a range, not a proof. A good row alone between two
    bad ones can stay hidden; its second is in the range that the listing reports.
    """
    bad, good = since, FAR
    step = 1
    while since + step < FAR:
        if (yield from _comes(since + step, zone)):
            good = since + step
            break
        bad, step = since + step, 2 * step
    for _ in range(ROUNDS):
        good = yield from _narrow(bad, good, zone)
        earlier = yield from _earlier(since, good, zone)
        if earlier is None:
            break
        bad, good = earlier
    return good


def _narrow(bad: int, good: int, zone: str) -> Conversation[int]:
    while good - bad > 1:
        middle = (bad + good) // 2
        if (yield from _comes(middle, zone)):
            good = middle
        else:
            bad = middle
    return good


def _earlier(since: int, good: int, zone: str) -> Conversation[tuple[int, int] | None]:
    """Return the first (bad, good) pair of seconds found among samples between `since` and `good`, None if all fail.

    Files come in bursts, so the samples get denser towards `good`. The second just before it is one of them, because a
    server that fails now and then is not taken at its word.
    """
    even = {since + (good - since) * i // SAMPLES for i in range(1, SAMPLES)}
    doubling = {good - (1 << i) for i in range((good - since).bit_length())}
    bad = since
    for second in sorted(even | doubling):
        if since < second < good:
            if (yield from _comes(second, zone)):
                return bad, second
            bad = second
    return None


def _comes(second: int, zone: str) -> Conversation[bool]:
    """Whether the server lists a page of one row after this second. Only two failures in a row mean no."""
    for _ in range(2):
        answer = yield PageRequest(since=wall_clock(second, zone), limit=1)
        if not isinstance(answer, Trouble):
            return True
    return False
