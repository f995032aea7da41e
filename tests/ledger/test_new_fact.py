"""A new fact is one class: two that this module defines are appended, proved, folded, projected, audited and shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, ClassVar

import pytest
from msgspec.structs import replace

from kropot.query.render import event_json
from ledger.audit import IndexAudit, LogAudit
from ledger.bounds import Length, Ordinal, Seconds
from ledger.errors import LedgerError, MalformedEventError
from ledger.events import FACTS, ElementFact, ObjectState, Source, SourceFact, UnknownFact, fact
from ledger.log import Ledger, NewFact, source_key
from ledger.memory import MemoryStore
from ledger.merkle import inclusion_path, verify_inclusion
from ledger.replica import fold
from tests.ledger.facts import COPY, ELEMENT
from tests.ledger.world import began, key, observed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def toys() -> Iterator[tuple[type[ElementFact], type[SourceFact]]]:
    """Define two facts for one test, and forget them afterwards."""

    @fact
    class CopyBlessed(ElementFact):
        """Somebody blessed the copy, so many times, with this seal."""

        VERSION: ClassVar[int] = 3
        IS_CRITICAL: ClassVar[bool] = True
        times: Ordinal
        seal: Annotated[bytes, Length(4)]

    @fact
    class SourceTuned(SourceFact):
        """Somebody moved the source's clock by `shift` seconds."""

        shift: Seconds

    yield CopyBlessed, SourceTuned
    del FACTS["CopyBlessed"], FACTS["SourceTuned"]


def element_fact(cls: type[ElementFact], **fields: object) -> ElementFact:
    return cls(element=ELEMENT, **{"times": 1, "seal": b"seal"} | fields)  # type: ignore[arg-type]


def test_a_new_fact_is_appended_proved_folded_projected_audited_and_shown(
    toys: tuple[type[ElementFact], type[SourceFact]],
) -> None:
    blessed, tuned = toys
    store = MemoryStore()
    ledger = Ledger(store, writer="main")
    source: Source = began().fact.source  # type: ignore[union-attr]
    ledger.append([began(), observed("a")])
    ledger.append([NewFact(key=key("a"), fact=element_fact(blessed), observed_us=1)])
    ledger.append([NewFact(key=source_key(key("a").source), fact=tuned(source=source, shift=-7), observed_us=1)])  # type: ignore[call-arg]

    # It is in the log, with its version and its flag, and is read back as the same value.
    stored = list(ledger.stored())[-2]
    assert (stored.type, stored.schema_version, stored.flags) == ("CopyBlessed", 3, 1)
    events = list(ledger.events())
    assert events[-2].fact == element_fact(blessed)
    assert events[-1].fact == tuned(source=source, shift=-7)  # type: ignore[call-arg]

    # It is proved.
    leaves = [event.leaf for event in ledger.stored()]
    size, index = len(leaves), stored.seq - 1
    path = inclusion_path(index, size, lambda start, stop: leaves[start:stop])
    assert verify_inclusion(stored.leaf, index, size, path, ledger.head().frontier.root)

    # It is folded and projected, both in the same way, and a rebuild gives the same.
    replica = fold(ledger.events())
    assert replica.entries[key("a")].position == stored.seq
    assert replica.entries == {entry.key: entry for entry in ledger.scan()}
    assert ledger.rebuild().skipped == 0
    assert replica.entries == {entry.key: entry for entry in ledger.scan()}

    # It is audited and found sound.
    audit = LogAudit(store.log)
    assert list(audit.findings()) == []
    assert list(IndexAudit(store, audit).findings()) == []

    # It is shown.
    shown = event_json(next(event for event in ledger.history(key("a")) if event.position == stored.seq))
    assert (shown["event"], shown["state"]) == ("CopyBlessed", "pending")
    assert json.dumps(shown)


def test_a_new_fact_is_refused_by_its_own_declaration(toys: tuple[type[ElementFact], type[SourceFact]]) -> None:
    blessed, _ = toys
    ledger = Ledger(MemoryStore(), writer="main")
    ledger.append([began()])
    for fields in ({"times": 0}, {"seal": b"long seal"}, {"times": 1 << 63}):
        with pytest.raises(MalformedEventError, match="CopyBlessed"):
            ledger.append([NewFact(key=key("a"), fact=element_fact(blessed, **fields), observed_us=1)])
    with pytest.raises(LedgerError, match="does not belong"):
        ledger.append([NewFact(key=source_key(key("a").source), fact=element_fact(blessed), observed_us=1)])


def test_a_program_that_does_not_know_a_critical_fact_stops_at_it() -> None:
    store = MemoryStore()
    ledger = Ledger(store, writer="main")

    @fact
    class OnlyHere(ElementFact):
        """A fact that is forgotten again."""

        IS_CRITICAL: ClassVar[bool] = True

    try:
        ledger.append([began(), NewFact(key=key("a"), fact=OnlyHere(element=ELEMENT), observed_us=1)])
    finally:
        del FACTS["OnlyHere"]
    assert list(ledger.events())[-1].fact == UnknownFact(type_name="OnlyHere", schema_version=1, critical=True)


@pytest.fixture
def plain() -> Iterator[type[ElementFact]]:
    """Define a fact that holds its element alone, as the fast paths of fold and audit recognise it."""

    @fact
    class CopyMoved(ElementFact):
        """The copy is stored again under its SHA-256."""

        OBJECT_STATE: ClassVar[ObjectState | None] = "sound"

    yield CopyMoved
    del FACTS["CopyMoved"]


def plain_store(cls: type[ElementFact]) -> MemoryStore:
    store = MemoryStore()
    ledger = Ledger(store, writer="main")
    ledger.append([began(), observed("a"), observed("b")])
    stored = replace(ELEMENT, copy=replace(COPY, revision=ELEMENT.revision))
    ledger.append([NewFact(key=key("a"), fact=cls(element=stored), observed_us=1)])
    return store


def test_a_plain_fact_that_stores_a_copy_is_found_sound_by_the_fast_audit(plain: type[ElementFact]) -> None:
    store = plain_store(plain)
    audit = LogAudit(store.log, page_events=2)
    assert list(audit.findings()) == []
    assert list(IndexAudit(store, audit).findings()) == []


def test_a_plain_critical_fact_without_its_flag_is_found(
    plain: type[ElementFact], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = plain_store(plain)
    monkeypatch.setattr(plain, "IS_CRITICAL", True)
    assert [finding.kind for finding in LogAudit(store.log, page_events=2).findings()] == ["bad_flags"]


def test_a_name_is_taken_once_and_an_object_that_is_not_sound_is_named() -> None:
    known = dict(FACTS)
    with pytest.raises(TypeError, match="two facts have the name"):
        fact(type("CopyStored", (ElementFact,), {}))
    with pytest.raises(TypeError, match="give it the field `sha256`"):
        fact(type("CopyBurnt", (ElementFact,), {"OBJECT_STATE": "lost"}))
    assert known == FACTS
