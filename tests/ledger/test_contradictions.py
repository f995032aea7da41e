"""Facts that contradict themselves, or what was recorded before: refused by `append`, and found by the audit."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from ledger.audit import Finding, IndexAudit, LogAudit
from ledger.bounds import MAX_US
from ledger.codec import encode_payload
from ledger.errors import ConflictError, LedgerError, MalformedEventError
from ledger.events import (
    Copy,
    CopyDamaged,
    CopyLost,
    CopyStored,
    Fact,
    Failure,
    FetchFailed,
    HeldListing,
    ListingAdvanced,
    RemoteChanged,
    RemoteCopied,
    RemoteObserved,
    RemoteReappeared,
    RemoteVanished,
    SourceBegan,
    StreamKey,
    Surge,
)
from ledger.log import Ledger, NewFact, source_key
from ledger.memory import MemoryStore
from tests.ledger.world import SOURCE, began, element, key, let_go, observed, sha, source

if TYPE_CHECKING:
    from collections.abc import Iterator

COPY = Copy(sha256=sha("content"), size=16, iv=None, revision=1, instance="main")
FAILURE = Failure(reason="http_500", attempts=1, since_us=1, next_try_us=2)

CONTRADICTIONS: dict[str, Fact] = {
    "a stored copy that is not there": CopyStored(element=element()),
    "a stored copy that is damaged": CopyStored(element=replace(element(), copy=COPY, damage="damaged")),
    "a copy newer than its element": CopyStored(element=replace(element(), copy=replace(COPY, revision=2))),
    "a first sight with a copy that is not there": RemoteCopied(element=element()),
    "a first sight with a copy that is damaged": RemoteCopied(element=replace(element(), copy=COPY, damage="lost")),
    "a first sight with a copy of nothing present": RemoteCopied(element=replace(element(), present=False, copy=COPY)),
    "vanished and present": RemoteVanished(element=element()),
    "observed and not present": RemoteObserved(element=replace(element(), present=False)),
    "reappeared and not present": RemoteReappeared(element=replace(element(), present=False)),
    "a failure without a reason": FetchFailed(element=element()),
    "damage without a copy": RemoteVanished(element=replace(element(), present=False, damage="lost")),
    "the damaged copy of nothing": CopyDamaged(element=element(), sha256=COPY.sha256),
    "a damaged copy that is sound": CopyDamaged(element=replace(element(), copy=COPY), sha256=COPY.sha256),
    "a lost copy that is damaged": CopyLost(
        element=replace(element(), copy=COPY, damage="damaged"), sha256=COPY.sha256
    ),
}
BELIEVABLE: dict[str, Fact] = {
    "a copy": CopyStored(element=replace(element(), copy=COPY)),
    "a first sight with its copy": RemoteCopied(element=replace(element(), copy=COPY)),
    "an older copy": RemoteVanished(element=replace(element(revision=3), present=False, copy=COPY)),
    "a failure": FetchFailed(element=replace(element(), failure=FAILURE)),
    "damage to the copy": CopyDamaged(element=replace(element(), copy=COPY, damage="damaged"), sha256=COPY.sha256),
    "damage to an older version": CopyDamaged(element=replace(element(), copy=COPY), sha256=sha("older")),
}


def findings(ledger: Ledger) -> list[Finding]:
    log = LogAudit(ledger.log)
    found = list(log.findings())
    return found or list(IndexAudit(ledger.store, log).findings())


@contextmanager
def unchecked(fact: Fact) -> Iterator[None]:
    """Let a program without these rules append."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fact), "contradiction", lambda _: None)
        patch.setattr("ledger.log.refuse_contradictions", lambda *_: None)
        yield


def begun() -> Ledger:
    ledger = Ledger(MemoryStore(), writer="main")
    ledger.append([began(), observed("a")])
    return ledger


def new(fact: Fact, name: str = "a") -> NewFact:
    return NewFact(key=key(name), fact=fact, observed_us=1)


@pytest.mark.parametrize("fact", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused_and_one_that_was_recorded_is_found(fact: Fact) -> None:
    ledger = begun()
    with pytest.raises(LedgerError, match=f"{fact.TYPE} that contradicts itself"):
        ledger.append([new(fact)])
    assert ledger.head().position == 3
    with unchecked(fact):
        ledger.append([new(fact)])
    assert [(found.kind, found.position) for found in findings(ledger)] == [("contradiction", 4)]


@pytest.mark.parametrize("fact", BELIEVABLE.values(), ids=BELIEVABLE)
def test_what_does_not_contradict_itself_is_recorded(fact: Fact) -> None:
    ledger = begun()
    stored = replace(COPY, sha256=sha("older"))
    ledger.append([new(CopyStored(element=replace(element(), copy=copy))) for copy in (stored, COPY)])
    ledger.append([new(fact)])
    if "revision=3" not in repr(fact):
        assert findings(ledger) == []


@contextmanager
def without_looking_back() -> Iterator[None]:
    """Let a program append that does not compare a fact with the state before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.log.refuse_contradictions", lambda *_: None)
        yield


@pytest.mark.parametrize(
    "fact",
    [
        RemoteChanged(element=element(revision=4)),
        RemoteReappeared(element=element(revision=4)),
        RemoteVanished(element=replace(element(revision=4), present=False)),
        FetchFailed(element=replace(element(revision=4), failure=FAILURE)),
    ],
    ids=lambda fact: fact.TYPE,
)
def test_a_revision_that_falls_is_refused_and_one_that_was_recorded_is_found(fact: Fact) -> None:
    ledger = begun()
    ledger.append([observed(f"b{number}") for number in range(500)])
    ledger.append([new(RemoteReappeared(element=element(revision=5)))])
    with pytest.raises(LedgerError, match=f"{fact.TYPE} .* from revision 5 to 4"):
        ledger.append([observed("c"), new(fact)])
    at = ledger.head().position + 1
    with without_looking_back():
        ledger.append([new(fact)])
    ledger.append([new(RemoteReappeared(element=element(revision=5)))])
    assert [(found.kind, found.position) for found in findings(ledger)] == [("contradiction", at)]


def test_a_revision_that_falls_within_a_batch_is_refused_even_of_a_copy() -> None:
    ledger = begun()
    copied = CopyStored(element=replace(element(), copy=COPY))
    with pytest.raises(LedgerError, match=r"CopyStored .* from revision 5 to 1"):
        ledger.append([new(RemoteChanged(element=element(revision=5)), "x"), new(copied, "x")])
    with pytest.raises(LedgerError, match=r"RemoteChanged .* from revision 5 to 4"):
        ledger.append([new(RemoteChanged(element=element(revision=revision))) for revision in (5, 4)])
    assert ledger.head().position == 3


def test_a_writer_who_was_too_slow_is_told_of_the_conflict_and_not_of_a_contradiction() -> None:
    ledger = begun()
    ledger.append([new(RemoteChanged(element=element(revision=2)))])
    late = replace(new(RemoteVanished(element=replace(element(), present=False))), expected=1)
    with pytest.raises(ConflictError):
        ledger.append([late])


JUDGED = {
    "damaged": CopyDamaged(element=replace(element(), copy=COPY), sha256=sha("never stored")),
    "lost": CopyLost(element=replace(element(), copy=COPY), sha256=sha("never stored")),
    "released": let_go(replace(element(), copy=COPY), sha("never stored")),
}


@pytest.mark.parametrize("fact", JUDGED.values(), ids=JUDGED)
def test_a_judgement_of_an_object_that_was_never_stored_is_refused_and_one_that_was_recorded_is_found(
    fact: Fact,
) -> None:
    ledger = begun()
    ledger.append([observed("other"), new(CopyStored(element=replace(element(), copy=COPY)))])
    stored = replace(COPY, sha256=sha("never stored"))
    # Another element's object is not this one's.
    ledger.append([new(CopyStored(element=replace(element(), copy=stored)), "other")])
    for name in ("a", "a new one"):
        with pytest.raises(LedgerError, match=f"{fact.TYPE} .* was never stored"):
            ledger.append([new(fact, name)])
    with without_looking_back():
        ledger.append([new(fact)])
    found = findings(ledger)
    assert [(one.kind, one.position) for one in found] == [("contradiction", 7)]
    assert sha("never stored").hex() in found[0].detail


def test_an_object_that_the_same_batch_stores_can_be_judged_in_it() -> None:
    ledger = begun()
    old = replace(COPY, sha256=sha("old"))
    facts = [CopyStored(element=replace(element(), copy=copy)) for copy in (old, COPY)]
    lost = CopyLost(element=replace(element(), copy=COPY), sha256=old.sha256)
    ledger.append([new(fact, "x") for fact in (*facts, lost)])
    ledger.append([new(lost, "x")])  # an older version: only the stored copies know it
    assert findings(ledger) == []


def test_a_source_that_begins_twice_is_found() -> None:
    ledger = begun()
    again = NewFact(key=source_key(SOURCE), fact=SourceBegan(source=source(SOURCE.hex())), observed_us=1)
    with pytest.raises(LedgerError, match="has begun already"):
        ledger.append([again])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.append._check_source", lambda *_: None)
        ledger.append([again])
    assert [(found.kind, found.position) for found in findings(ledger)] == [("misplaced", 4)]


def test_the_salt_of_a_source_never_changes() -> None:
    ledger = begun()
    other = replace(source("other"), token_mac=sha("t"))
    changed = NewFact(key=source_key(SOURCE), fact=ListingAdvanced(source=other), observed_us=1)
    with pytest.raises(LedgerError, match="cannot change"):
        ledger.append([changed])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.append._check_source", lambda *_: None)
        ledger.append([changed])
    assert [(found.kind, found.position) for found in findings(ledger)] == [("misplaced", 4)]


def test_a_source_that_never_began_is_found() -> None:
    ledger = Ledger(MemoryStore(), writer="main")
    first = NewFact(key=source_key(SOURCE), fact=ListingAdvanced(source=source(SOURCE.hex())), observed_us=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.append._check_source", lambda _, fact, salts: salts.update({SOURCE: fact.source.salt}))
        ledger.append([first])
    assert [(found.kind, found.position) for found in findings(ledger)] == [("misplaced", 2)]


def test_a_nonce_of_another_length_is_found() -> None:
    lengths = iter([16, 16, 32, 16, 32, 15])
    ledger = Ledger(MemoryStore(), writer="main", entropy=lambda _: bytes(next(lengths)))
    ledger.append([began(), observed("a")])
    ledger.append([new(FetchFailed(element=replace(element(), failure=FAILURE)))])
    assert [(found.kind, found.position) for found in findings(ledger)] == [("bad_nonce", 4)]


def test_a_key_that_is_too_long_is_refused_and_one_that_was_recorded_is_found() -> None:
    ledger = begun()
    long = NewFact(
        key=StreamKey(source=SOURCE, kind="file", id="x" * 600), fact=RemoteObserved(element=element()), observed_us=1
    )
    with pytest.raises(LedgerError, match="bytes"):
        ledger.append([long])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.append.MAX_KEY_BYTES", 1000)
        ledger.append([long])
    assert [(found.kind, found.position) for found in findings(ledger)] == [("misplaced", 4)]


@pytest.mark.parametrize(
    "fact",
    [
        FetchFailed(element=replace(element(), failure=replace(FAILURE, next_try_us=MAX_US + 1))),
        FetchFailed(element=replace(element(), failure=replace(FAILURE, since_us=-1))),
        ListingAdvanced(
            source=replace(source(), held=HeldListing(reason="missing", missing=1, known=1, since_us=MAX_US + 1))
        ),
        ListingAdvanced(source=replace(source(), surge=Surge(changed=1, known=1, since_us=MAX_US + 1))),
        ListingAdvanced(source=replace(source(), listed_us=MAX_US + 1)),
        ListingAdvanced(source=replace(source(), urls=())),
    ],
    ids=["next try", "since", "held", "surge", "listed", "no address"],
)
def test_a_value_beyond_its_bounds_is_neither_written_nor_read(fact: Fact) -> None:
    with pytest.raises(MalformedEventError, match="not allowed"):
        encode_payload(fact)
