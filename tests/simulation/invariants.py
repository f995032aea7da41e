"""What must hold after every run, whatever happened in it: each a function whose name says it."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from typing import TYPE_CHECKING, Final

from kropot.sc2.opening import open_object
from kropot.sc2.vault import keyring
from kropot.securecopy.sealing import open_stream
from ledger.events import (
    CopyDamaged,
    CopyLost,
    CopyStored,
    Element,
    RemoteCopied,
    RemoteVanished,
    StreamKey,
    VaultNamed,
)
from ledger.replica import fold
from tests.simulation.sealed import SealedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.events import Copy
    from ledger.replica import Event
    from tests.simulation.world import World

HOUR = 3600 * 1_000_000


def elements(world: World) -> Iterator[tuple[StreamKey, Element]]:
    """Yield every element as the projection has it."""
    for entry in world.ledger.scan():
        assert entry.element is not None
        yield entry.key, entry.element


def records(world: World) -> Iterator[Event]:
    return world.ledger.events()


# --- the replica comes to what the server has ---


def every_file_of_the_server_has_a_current_copy(world: World) -> None:
    known = {key.id: element for key, element in elements(world)}
    for name, id_ in world.server.ids().items():
        assert id_ in known, f"{name} was never seen"
        assert known[id_].present, f"{name} is taken for gone"
        assert known[id_].is_current, f"{name} is {known[id_].state}: {known[id_].failure}"


def everything_that_is_gone_is_known_to_be_gone_and_keeps_its_copy(world: World) -> None:
    here = set(world.server.ids().values())
    held = any(entry.source.held is not None for entry in world.ledger.sources().values())
    for key, element in elements(world):
        if key.id not in here:
            assert held or not element.present, f"{key.id} is gone, and that went unnoticed"


def copies_open_to_what_the_file_held(world: World) -> None:
    now = {id_: world.server.content(name) for name, id_ in world.server.ids().items()}
    for key, element in elements(world):
        copy = element.copy
        if copy is None or world.objects.size(copy.sha256) is None:
            continue
        opened = opened_copy(world, copy)
        assert opened in world.contents[key.id], f"the copy of {key.id} never was its content"
        if key.id in now and element.is_current:
            assert opened == now[key.id], f"the copy of {key.id} is out of date"


def opened_copy(world: World, copy: Copy) -> bytes:
    """Return what the owner's keys make of a copy."""
    sealed = world.objects.open(copy.sha256).read()
    if isinstance(world.server, SealedServer):
        assert copy.iv is None
        return b"".join(open_object(io.BytesIO(sealed), keyring([world.server.repository.vault])).chunks)
    assert copy.iv is not None
    return b"".join(open_stream(iter([sealed]), world.server.kit.key(copy.iv), copy.iv))


# --- what is recorded is true ---


def nothing_present_was_declared_gone(world: World) -> None:
    for record in records(world):
        if isinstance(record.fact, RemoteVanished):
            assert record.key is not None
            spans = world.absent[record.key.id]
            seen = record.recorded_us - HOUR
            assert any(
                since is not None and since <= record.recorded_us and (until is None or until >= seen)
                for since, until in spans
            ), f"{record.key.id} was declared gone at {record.recorded_us} while it was there"


def every_object_that_an_event_names_is_there(world: World) -> None:
    lost = {r.fact.sha256 for r in records(world) if isinstance(r.fact, CopyDamaged | CopyLost)}
    for row in world.ledger.copies():
        if row.sha256 in lost:
            continue
        places = world.ledger.places.find([row.sha256])
        is_there = row.sha256 in world.disk.objects or row.sha256 in places
        assert is_there, f"event {row.position} names an object that is not there, or not placed"
        stored = world.objects.open(row.sha256).read()
        assert len(stored) == row.size
        assert hashlib.sha256(stored).digest() == row.sha256


def no_revision_was_copied_twice(world: World) -> None:
    copied: Counter[tuple[int, int, int]] = Counter()
    damages: Counter[int] = Counter()
    for record in records(world):
        if isinstance(record.fact, CopyDamaged | CopyLost):
            damages[record.stream] += 1
        elif isinstance(record.fact, CopyStored | RemoteCopied):
            copied[record.stream, record.fact.element.revision, damages[record.stream]] += 1
    assert all(times == 1 for times in copied.values())


def a_sealed_version_was_copied_once_whatever_became_of_its_metadata(world: World) -> None:
    """An object of `sc2` has the same bytes every time, so a version that is fetched again shows as the same object."""
    if not isinstance(world.server, SealedServer):
        return
    copied: Counter[tuple[int, bytes, int]] = Counter()
    damages: Counter[int] = Counter()
    for record in records(world):
        if isinstance(record.fact, CopyDamaged | CopyLost):
            damages[record.stream] += 1
        elif isinstance(record.fact, CopyStored | RemoteCopied):
            assert record.fact.element.copy is not None
            copied[record.stream, record.fact.element.copy.sha256, damages[record.stream]] += 1
    assert all(times == 1 for times in copied.values())


def the_vault_is_named_once_and_never_where_there_is_none(world: World) -> None:
    named = [record.fact.vault for record in records(world) if isinstance(record.fact, VaultNamed)]
    has_rows = any(True for _ in elements(world))
    is_sealed = isinstance(world.server, SealedServer)
    assert named == ([world.server.repository.vault.id] if is_sealed and has_rows else [])


def revisions_and_versions_count_up_by_one(world: World) -> None:
    revisions: dict[int, int] = {}
    versions: dict[int, int] = {}
    for record in records(world):
        assert record.stream_version == versions.get(record.stream, 0) + 1
        versions[record.stream] = record.stream_version
        element = getattr(record.fact, "element", None)
        if isinstance(element, Element):
            before = revisions.get(record.stream, 0)
            assert element.revision - before in {0, 1}
            revisions[record.stream] = element.revision


# --- the ledger ---


def positions_have_no_gap_and_time_never_goes_back(world: World) -> None:
    position = recorded_us = 0
    for record in records(world):
        assert record.position == position + 1
        assert record.recorded_us >= recorded_us
        position, recorded_us = record.position, record.recorded_us
    assert position == world.ledger.head().position


def the_projection_is_the_fold_of_the_events(world: World) -> None:
    replica = fold(records(world))
    assert {entry.key: entry for entry in world.ledger.scan()} == replica.entries
    assert {entry.id: entry.source for entry in world.ledger.sources().values()} == replica.sources


def the_tallies_are_the_counts(world: World) -> None:
    counted = Counter(element.state for _, element in elements(world))
    assert {tally.state: tally.elements for tally in world.ledger.tallies()} == dict(counted)


# --- nothing is left over ---


def nobody_holds_a_lease_or_a_name_any_more(world: World) -> None:
    assert [actor.code for actor in world.actors] == [0] * len(world.actors)
    assert world.store.work.instances() == []
    assert not world.store.work._leases
    assert not world.store.work._reservations
    assert not world.disk.claimed
    assert not world.disk.temporary


def no_plain_name_reached_the_ledger(world: World) -> None:
    for event in world.ledger.stored():
        assert event.payload is not None
        assert b"secret name" not in event.payload
    for actor in world.actors:
        assert not any("secret name" in say.text or "secret name" in str(say.fields) for say in actor.said)


INVARIANTS: Final[tuple[Callable[[World], None], ...]] = (
    positions_have_no_gap_and_time_never_goes_back,
    the_projection_is_the_fold_of_the_events,
    the_tallies_are_the_counts,
    revisions_and_versions_count_up_by_one,
    no_revision_was_copied_twice,
    a_sealed_version_was_copied_once_whatever_became_of_its_metadata,
    the_vault_is_named_once_and_never_where_there_is_none,
    every_object_that_an_event_names_is_there,
    nothing_present_was_declared_gone,
    copies_open_to_what_the_file_held,
    every_file_of_the_server_has_a_current_copy,
    everything_that_is_gone_is_known_to_be_gone_and_keeps_its_copy,
    nobody_holds_a_lease_or_a_name_any_more,
    no_plain_name_reached_the_ledger,
)
