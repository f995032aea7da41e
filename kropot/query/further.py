"""The further storages as `status` sees them: whether they are there, and how far behind they are. It costs little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.errors import KropotError
from kropot.query.alarm import Alarm
from kropot.wording import SECOND_US

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.further.joining import Surroundings
    from kropot.objects.stores.waiting import LockedVersions
    from ledger.log import Ledger
    from ledger.rows import FurtherRow

BEHIND_S: Final = 2 * 86_400
"""A further storage that has not been in step for this long (seconds) is far behind."""


class FurtherFacts(Struct, frozen=True, kw_only=True):
    """The facts about a further storage: what the ledger knows, and why it cannot be used now, None if it can.

    `waiting` is what erasures left there until locks end, None if that is unknown.
    """

    row: FurtherRow
    why_away: str | None
    waiting: LockedVersions | None = None


def look_at_further(ledger: Ledger, surroundings: Surroundings) -> tuple[FurtherFacts, ...]:
    """Read the facts about each further storage that the ledger knows. Nothing is written anywhere."""
    found = []
    for row in surroundings.known(ledger):
        try:
            waiting = surroundings.look(ledger, row)
        except KropotError as error:
            found.append(FurtherFacts(row=row, why_away=str(error)))
        else:
            found.append(FurtherFacts(row=row, why_away=None, waiting=waiting))
    return tuple(found)


def further_alarms(now_us: int, facts: Sequence[FurtherFacts], behind_s: int) -> Iterator[Alarm]:
    """Yield an alarm for each further storage that has not been in step for too long."""
    for each in facts:
        if now_us - each.row.kept_us > behind_s * SECOND_US:
            why = "no collector brings it up to date" if each.why_away is None else each.why_away
            text = (
                f"the further storage {each.row.address} has not been in step for too long ({why}): collect with "
                "--also-store or run `kropotcli storage catch-up`; if it is gone for good, run `kropotcli storage "
                f"forget {each.row.id.hex()}`"
            )
            yield Alarm(name="further_behind", source=None, text=text, since_us=each.row.kept_us)
