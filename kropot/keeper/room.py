"""The API's answers about the space in a storage: what fills it, and what a policy would free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kropot.durable.errors import StorageError
from kropot.keeper.operations import RULES
from kropot.keeper.slow_answer import PATIENCE_S, SlowAnswer
from kropot.query.past import sources_at
from kropot.query.space import space_of, sums_of
from kropot.retention.deciding import Decider
from kropot.retention.policy import DAY_S, MIN_AGE_S, parse_policy
from kropot.retention.releasing import would_release
from kropot.storage_away import StorageAwayError, demand_objects
from ledger.log import utc_now_us
from ledger.retaining import decided_of
from ledger.retention import Retention

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.keeper.asking import Asked
    from kropot.keeper.visitor import Visitor
    from kropot.objects.opening import Storage
    from kropot.query.space import Space
    from ledger.log import Ledger
    from ledger.retention import KeepRules

_MOST: int = 10_000
_FEW: int = 10_000
"""With up to this many elements, an answer waits until counting ends, for `PATIENCE_S` seconds at most."""


class RoomAnswers:
    """Answers the questions about the space in one storage. Any thread may call it."""

    def __init__(self, ledger: Ledger, storage: Storage) -> None:
        """Read this replica."""
        self._ledger = ledger
        self._storage = storage
        self._filled: SlowAnswer[int, Space] = SlowAnswer(self._count)
        self._tried: SlowAnswer[tuple[tuple[KeepRules, ...], int], dict[str, dict[str, int]]]
        self._tried = SlowAnswer(self._would_release)

    def close(self) -> None:
        """Stop the computations."""
        self._filled.close()
        self._tried.close()

    def space(self, visitor: Visitor, _asked: Asked | None = None) -> dict[str, Any]:
        """Return how much is stored in each state, and the free space. The ledger maintains the sums of the states."""
        seen = [id_ for id_ in sources_at(self._ledger) if visitor.sees(id_)]
        states: dict[bytes, dict[str, dict[str, int]]] = {id_: {} for id_ in seen}
        total: dict[str, dict[str, int]] = {}
        for tally in self._ledger.tallies():
            if tally.source not in states:
                continue
            states[tally.source][tally.state] = {"elements": tally.elements, "bytes": tally.bytes}
            sum_ = total.setdefault(tally.state, {"elements": 0, "bytes": 0})
            sum_["elements"] += tally.elements
            sum_["bytes"] += tally.bytes
        room = self._room()
        # A token that is bound to sources learns nothing about other sources.
        fills = None if visitor.sources is not None else self._fills(room["free_bytes"])
        sources = [{"source": id_.hex(), "states": states[id_]} for id_ in seen]
        return {"states": total, "sources": sources, **room, "fills": fills}

    def policy(self, visitor: Visitor, asked: Asked) -> dict[str, Any]:
        """Return what a policy would release now. With many elements this takes a while, as `counting` says."""
        rules = {name: asked.whole(name, 0, most=_MOST) for name in RULES if name != "min_age_days"}
        age = asked.whole("min_age_days", MIN_AGE_S // DAY_S, most=_MOST)
        if any(rules.values()):
            table = {f"keep-{name}": count for name, count in rules.items()} | {"min-age": age * DAY_S}
            found, which = tuple(parse_policy(table).values()), "asked"
        else:
            found = decided_of(self._ledger).retention.rules
            which = "recorded" if found else "none"
        is_wanted = which != "none" and visitor.sources is None
        question = (found, self._ledger.head().position)
        known = self._tried.latest(question) if is_wanted else None
        # An answer that is a round out of date will do. One for other rules will not.
        looked = known is not None and known[0][0] == found
        sum_ = known[1] if known is not None and looked else {}
        return {
            "rules": which,
            "looked": looked,
            "counting": is_wanted and not looked,
            "copies": sum(each["objects"] for each in sum_.values()),
            "bytes": sum(each["bytes"] for each in sum_.values()),
            "reasons": sum_,
        }

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _room(self) -> dict[str, int | None]:
        """Return the free bytes and files, None if the storage cannot be examined."""
        found: dict[str, int | None] = {"free_bytes": None, "free_files": None}
        try:
            demand_objects(self._storage, self._ledger)
            room = self._storage.room()
            found = {"free_bytes": room.bytes, "free_files": room.files}
        except (StorageAwayError, StorageError, OSError):
            pass  # `status` says why
        return found | {"ledger_free_bytes": self._ledger.database.free_bytes()}

    def _fills(self, free: int | None) -> dict[str, Any]:
        """Return what fills the storage: today's sums, and the results of the last count."""
        position = self._ledger.head().position
        is_few = sum(each.elements for each in self._ledger.tallies()) <= _FEW
        known = self._filled.latest(position, patience_s=PATIENCE_S if is_few else 0.0)
        space = sums = sums_of(self._ledger, free=free)
        if known is not None:
            space = replace(known[1], current=sums.current, vanished=sums.vanished, freed=sums.freed, free=free)
        return space.json | {"counted_at": None if known is None else known[0]}

    def _count(self, _position: int, go_on: Callable[[], None]) -> Space:
        return space_of(self._ledger, self._storage, free=None, everything=True, go_on=go_on)

    def _would_release(
        self, question: tuple[tuple[KeepRules, ...], int], go_on: Callable[[], None]
    ) -> dict[str, dict[str, int]]:
        rules, position = question
        retention = Retention(rules=rules, pins=decided_of(self._ledger).retention.pins, signature=None)
        decider = Decider(ledger=self._ledger, retention=retention, position=position, at_us=utc_now_us(), go_on=go_on)
        found: dict[str, dict[str, int]] = {}
        for (_, reason), (copies, size) in would_release(decider).copies.items():
            sum_ = found.setdefault(reason, {"objects": 0, "bytes": 0})
            sum_["objects"] += copies
            sum_["bytes"] += size
        return found
