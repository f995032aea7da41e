"""The rules by which `append` refuses a new fact that contradicts what was recorded of its element before.

An element's revision never falls, and only an object that was stored can be damaged, lost or released. The audit finds
events that break these rules (`ledger/audit/log_rule.py`). How a fact can contradict itself is defined in its class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.decoding import fact_of
from ledger.errors import LedgerError
from ledger.events import CopyStored, ElementFact
from ledger.projection import named_object
from ledger.rows import SOUND, StoredFact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.append import AppendContext, NewFact
    from ledger.rows import StreamRow
    from ledger.stores import EventLog, Writing

UNREAD: Final = frozenset({CopyStored.TYPE})
"""Facts whose element is not looked up. Copies are half of all events, and reading the state before each costs a
tenth of an append (docs/decisions/0014-what-a-database-is-asked.md). Only the audit finds one with an old revision."""


def refuse_contradictions(facts: Sequence[NewFact], ground: AppendContext, log: EventLog, tx: Writing) -> None:
    """Refuse facts that contradict what is recorded of their elements, or each other.

    Raises:
        LedgerError: if there is one. It says which fact, and why.
    """
    revisions = _revisions(facts, ground, log)
    stored: set[tuple[bytes, bytes]] = set()
    judged: dict[tuple[bytes, int], str] = {}
    for new, key in zip(facts, ground.keys, strict=True):
        fact = new.fact
        if not isinstance(fact, ElementFact):
            continue
        element, state, row = fact.element, fact.OBJECT_STATE, ground.streams.get(key)
        before = revisions.get(key, 0)
        if element.revision < before:
            raise _contradiction(fact.TYPE, f"the element goes back from revision {before} to {element.revision}")
        revisions[key] = element.revision
        if not fact.NAMES_OBJECT and state == SOUND:
            if element.copy is not None:
                stored.add((element.copy.sha256, key))
        elif state is not None and not _is_known(named_object(fact), key, stored, row):
            judged[named_object(fact), 0 if row is None else row.stream] = fact.TYPE
    for sha256, stream in judged.keys() - (tx.stored(judged.keys()) if judged else set()):
        raise _contradiction(judged[sha256, stream], f"its object {sha256.hex()} was never stored")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _contradiction(type_name: str, why: str) -> LedgerError:
    return LedgerError(f"cannot record a {type_name} that contradicts earlier events: {why}")


def _is_known(sha256: bytes, key: bytes, stored: set[tuple[bytes, bytes]], row: StreamRow | None) -> bool:
    """Return whether the object is one that the batch stores, or the element's present copy."""
    return (sha256, key) in stored or (row is not None and row.entry is not None and row.entry.sha256 == sha256)


def _revisions(facts: Sequence[NewFact], ground: AppendContext, log: EventLog) -> dict[bytes, int]:
    """Return the newest revision of the elements that have an entry, by stored key."""
    at = {}
    for new, key in zip(facts, ground.keys, strict=True):
        row = ground.streams.get(key)
        is_read = isinstance(new.fact, ElementFact) and new.fact.TYPE not in UNREAD
        if is_read and row is not None and row.entry is not None:
            at[row.entry.seq] = key
    if not at:
        return {}
    found = {}
    for event in map(StoredFact._make, log.facts_at(list(at))):
        fact = None if event.payload is None else fact_of(event)
        if isinstance(fact, ElementFact):
            found[at[event.seq]] = fact.element.revision
    return found
