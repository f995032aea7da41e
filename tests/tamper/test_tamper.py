"""Every tampering in the catalogue is found, called by its kind, and placed; and a clean ledger stays clean."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.objects.directory import DirectoryObjects
from kropot.replay.processes import in_processes
from kropot.verify import Finding, Note, Scope, Summary, Verification
from ledger.audit import LogAudit
from ledger.events import RemoteChanged
from ledger.log import Ledger, NewFact
from ledger.sql import open_store
from tests.kropot.bulk_stores import OneByOne
from tests.tamper.catalogue import Tamper, catalogue
from tests.tamper.world import KEY, Places, World, build

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ledger.audit import Finding
    from ledger.audit.fast.ranges import EventRange, RangeAudit, ReadRange
    from ledger.stores import LedgerStore

pytestmark = pytest.mark.xdist_group("tampering")

CATALOGUE = catalogue()


class Arena:
    """One copy of the world that is put back after every mutation; its store stays open, as a service's would."""

    def __init__(self, pristine: World, world: World, places: Places, store: LedgerStore) -> None:
        self.pristine = pristine
        self.world = world
        self.places = places
        self.store = store

    def verify(self, *, ranges: bool = False) -> tuple[list[Finding], Summary]:
        """Verify everything; copies object by object, as over any store, or by ranges, as in a local folder."""
        notes = tuple(Note(path.name, path.read_bytes()) for path in sorted(self.world.checkpoints.iterdir()))
        scope = Scope(against=notes, key=KEY.verifier, record=False)
        objects = DirectoryObjects(self.world.storage, "verify")
        run = Verification(Ledger(self.store), objects if ranges else OneByOne(objects), scope)  # type: ignore[arg-type]
        return list(run.findings()), run.summary

    def put_back(self, *, files: bool) -> None:
        with (
            closing(sqlite3.connect(self.pristine.database)) as sound,
            closing(sqlite3.connect(self.world.database)) as changed,
        ):
            changed.execute("PRAGMA synchronous = OFF")
            sound.backup(changed)
        if files:
            for name in ("storage", "checkpoints"):
                shutil.rmtree(self.world.folder / name)
                shutil.copytree(self.pristine.folder / name, self.world.folder / name, symlinks=True)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    pristine, places = build(tmp_path_factory.mktemp("pristine"))
    world = pristine.copy_to(tmp_path_factory.mktemp("arena") / "world")
    store = open_store(f"sqlite:///{world.database}")
    yield Arena(pristine, world, places, store)
    store.close()


def test_the_catalogue_holds_at_least_200_distinct_mutations() -> None:
    assert len({each.name for each in CATALOGUE}) == len(CATALOGUE) >= 200


@pytest.mark.parametrize("ranges", [False, True])
def test_the_untouched_world_is_clean(arena: Arena, *, ranges: bool) -> None:
    findings, summary = arena.verify(ranges=ranges)
    assert [(each.kind, each.severity) for each in findings] == [("erased", "note")]
    assert summary.complete
    assert summary.covered["checkpoints"]["unsealed_tail"] == 2


@pytest.mark.parametrize("tamper", CATALOGUE, ids=lambda each: each.name)
def test_tampering_is_found_named_and_placed(arena: Arena, tamper: Tamper) -> None:
    try:
        tamper.act(arena.world, arena.places)
        findings, summary = arena.verify()
        assert _apart(arena.store) == list(LogAudit(arena.store.log).findings())
        if tamper.object is not None:
            assert _told(arena.verify(ranges=True)[0]) == _told(findings)
    finally:
        arena.put_back(files=tamper.touches_files)
    assert not summary.sound
    named = [each for each in findings if each.kind == tamper.kind and each.severity == "error"]
    assert named, f"found {[(each.kind, each.position) for each in findings]}"
    if tamper.position is not None:
        wanted = {-1: arena.places.head, -2: arena.places.head + 1}.get(tamper.position, tamper.position)
        assert named[0].position == wanted
        assert min(each.position for each in findings if each.position is not None) >= wanted
    if tamper.near is not None:
        near = arena.places.head if tamper.near == -1 else tamper.near
        assert named[0].position is not None
        assert near - 20 < named[0].position <= near
    if tamper.object is not None:
        assert named[0].object is not None
        assert arena.places.objects[tamper.object].hex() in {each.object for each in named}
    assert all(each.detail and each.hint for each in named)


def _apart(store: LedgerStore, processes: int = 1) -> list[Finding]:
    """Audit the log in short ranges that are read apart, in this process or in others."""

    def run_ranges(read: ReadRange, ranges: Iterable[EventRange]) -> Iterator[RangeAudit | None]:
        return in_processes(
            lambda ledger, _, each: read(ledger.log, each), Ledger(store), 0, ranges, processes=processes
        )

    audit = LogAudit(store.log, run_ranges=run_ranges, page_events=7)
    flaws = list(audit.findings())
    assert flaws or audit.frontier.stored == store.log.head().frontier
    return flaws


def test_processes_find_what_one_finds(arena: Arena) -> None:
    assert _apart(arena.store, processes=2) == []
    for name in ("payload flipped at 40", "event 150 dropped", "time moved on at 151, consistently"):
        tamper = next(each for each in CATALOGUE if each.name == name)
        try:
            tamper.act(arena.world, arena.places)
            found = _apart(arena.store, processes=2)
            assert found == list(LogAudit(arena.store.log).findings())
            assert found
        finally:
            arena.put_back(files=False)


def _told(findings: list[Finding]) -> set[tuple[str, str | None, str | None]]:
    return {(each.kind, each.object, each.element) for each in findings}


def test_a_rewrite_behind_the_last_checkpoint_is_consistent_and_only_the_unsealed_tail_tells(arena: Arena) -> None:
    # What no check can prove: whoever rewrites what was never signed leaves a ledger without a flaw.
    stage = arena.world.folder / "stages" / "7.db"
    with closing(sqlite3.connect(stage)) as older, closing(sqlite3.connect(arena.world.database)) as changed:
        older.backup(changed)
    try:
        ledger = Ledger(arena.store, writer="main")
        entry = ledger.entries([arena.places.current])[arena.places.current]
        assert entry.element is not None
        forged = RemoteChanged(element=replace(entry.element, date=1, revision=entry.element.revision + 1))
        ledger.append([NewFact(key=arena.places.current, fact=forged, observed_us=1)])
        findings, summary = arena.verify()
    finally:
        arena.put_back(files=False)
    assert [(each.kind, each.severity) for each in findings] == [("erased", "note")]
    assert summary.covered["checkpoints"]["unsealed_tail"] == 1
