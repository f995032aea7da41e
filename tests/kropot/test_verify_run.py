"""What a verification of copies covers, records and leaves: budgets, ages, rates, resuming, and processes."""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
import signal
from typing import TYPE_CHECKING, BinaryIO

import pytest
from msgspec.structs import replace

from kropot.coverage import FIRST, LAST, due
from kropot.durable.errors import storage_error
from kropot.errors import KropotError
from kropot.objects.bulk.any_store import StoreReader
from kropot.objects.bulk.folder_ranges import RangeReader
from kropot.objects.bulk.processes import RangeWorkers
from kropot.objects.bulk.protocol import parts_of
from kropot.objects.bulk.reading import Throttle
from kropot.objects.directory import DirectoryObjects
from kropot.objects.layout import Layout
from kropot.objects.memory import MemoryObjects
from kropot.verify import Finding, Scope, Summary, Verification, World
from kropot.verify.copies import CopyAudit
from kropot.verify.ways_out import Way
from ledger.errors import ReadOnlyLedgerError
from ledger.events import Copy, CopyStored
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from tests.kropot.bulk_stores import InParts, OneByOne
from tests.ledger.world import began, element, key, observed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.objects.bulk.reading import Bad, ReadRequest
    from kropot.objects.store import ObjectStore

COUNT = 700


def fill(ledger: Ledger, objects: ObjectStore, count: int = COUNT) -> list[bytes]:
    """Store `count` objects of 100 bytes, each an element's copy; return their SHA-256."""
    rng = random.Random(5)
    ledger.append([began(), *(observed(number) for number in range(count))])
    staged = []
    for _ in range(count):
        upload = objects.stage()
        upload.write(rng.randbytes(100))
        staged.append(upload.finish())
    objects.publish(staged)
    facts = []
    for number, each in enumerate(staged):
        copy = Copy(sha256=each.sha256, size=each.size, iv=None, revision=1, instance="main")
        facts.append(NewFact(key=key(number), fact=CopyStored(element=replace(element(), copy=copy)), observed_us=1))
    ledger.append(facts)
    return [each.sha256 for each in staged]


class Time:
    """A clock that moves by so much at every look, and by what is slept."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 0.0
        self.step = step
        self.slept = 0.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds


class Place:
    """A ledger whose time is told, and a storage folder."""

    def __init__(self, folder: Path) -> None:
        self.clock_us = 1_000_000_000_000_000
        self.store = MemoryStore()
        self.ledger = Ledger(self.store, clock=self._now)
        self.folder = folder
        self.objects = DirectoryObjects(folder, "main")
        self.shas = fill(self.ledger, self.objects)

    def _now(self) -> int:
        self.clock_us += 1
        return self.clock_us

    def verify(
        self, *, ranges: bool = True, time: Time | None = None, parts: dict[str, int] | None = None, **scope: object
    ) -> tuple[list[Finding], Summary]:
        clock = time or Time()
        world = World(monotonic=clock.monotonic, sleep=clock.sleep)
        run = Verification(self.ledger, self.store_with(parts, ranges=ranges), Scope(**scope), world)  # type: ignore[arg-type]
        return list(run.findings()), run.summary

    def store_with(self, parts: dict[str, int] | None = None, *, ranges: bool = True) -> ObjectStore:
        if not ranges:
            return OneByOne(self.objects)  # type: ignore[return-value]  # it passes everything on
        return self.objects if parts is None else InParts(self.objects, self.folder, parts)  # type: ignore[return-value]

    def path(self, sha256: bytes) -> Path:
        return self.folder / "objects" / sha256.hex()[:2] / sha256.hex()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "storage")


BOTH = pytest.mark.parametrize("ranges", [True, False], ids=["by ranges", "by objects"])


@BOTH
def test_everything_is_read_and_that_is_recorded(place: Place, *, ranges: bool) -> None:
    findings, summary = place.verify(ranges=ranges)
    assert findings == []
    assert summary.complete
    assert (summary.covered["copies"]["objects"], summary.covered["copies"]["bytes"]) == (COUNT, COUNT * 100)
    (whole,) = place.ledger.audit()
    assert (whole.start, whole.end) == (FIRST, LAST)
    assert due(place.ledger.audit(), before_us=whole.at_us) == []


class Shown:
    """Keeps what a run shows: each part with what there is to do, and how far it came."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int | None, int | None]] = []
        self.ends: dict[str, tuple[int, int]] = {}

    def part(self, what: str, noun: str, *, count: int | None = None, size: int | None = None) -> None:
        assert not noun.endswith("s")
        self.parts.append((what, count, size))

    def reached(self, count: int, size: int = 0) -> None:
        what = self.parts[-1][0]
        assert (count, size) >= self.ends.get(what, (0, 0))
        self.ends[what] = (count, size)


def test_every_part_shows_how_far_it_is(place: Place) -> None:
    shown, position = Shown(), place.ledger.head().position
    findings = Verification(place.ledger, place.objects, Scope(), World(progress=shown)).findings()
    assert list(findings) == []
    assert shown.parts == [
        ("database", None, None),
        ("ledger", position, None),
        ("projection", COUNT, None),
        ("state", position, None),
        ("copies", None, COUNT * 100),
    ]
    assert shown.ends == {
        "ledger": (position, 0),
        "projection": (COUNT, 0),
        "state": (position, 0),
        "copies": (COUNT, COUNT * 100),
    }


@BOTH
def test_a_spent_budget_is_sound_but_not_complete_and_the_next_run_goes_on(place: Place, *, ranges: bool) -> None:
    runs = 0
    seen = 0
    while True:
        runs += 1
        findings, summary = place.verify(ranges=ranges, time=Time(1.0), budget_s=12 if ranges else 300)
        assert findings == []
        assert summary.sound
        seen += summary.covered["copies"]["objects"]
        if all(part.at_us is not None for part in due(place.ledger.audit())):
            break
        assert not summary.complete
        assert any("still due" in gap for gap in summary.not_covered)
    assert runs > 1
    # A run that finishes what is due begins anew with what was read longest ago.
    assert seen >= COUNT


@BOTH
def test_damage_anywhere_is_found_by_runs_that_each_come_part_of_the_way(place: Place, *, ranges: bool) -> None:
    rotten = set(random.Random(1).sample(place.shas, 12))
    for sha256 in rotten:
        place.path(sha256).write_bytes(bytes(100))
    found: set[str | None] = set()
    while any(part.at_us is None for part in due(place.ledger.audit())):
        findings, _ = place.verify(ranges=ranges, time=Time(1.0), budget_s=12 if ranges else 300)
        found |= {each.object for each in findings}
    assert found == {sha256.hex() for sha256 in rotten}


def test_what_was_read_lately_is_passed_over(place: Place) -> None:
    hour = 3_600_000_000
    assert place.verify()[1].covered["copies"]["objects"] == COUNT
    assert place.verify(max_age_us=hour)[1].covered["copies"]["objects"] == 0
    place.clock_us += 2 * hour
    assert place.verify(max_age_us=hour)[1].covered["copies"]["objects"] == COUNT


def test_known_damage_is_reported_by_every_run(place: Place) -> None:
    lost, rotten, back = place.shas[3], place.shas[4], place.shas[5]
    held = place.path(back).read_bytes()
    place.path(lost).unlink()
    place.path(back).unlink()
    place.path(rotten).write_bytes(bytes(100))
    first = {each.object: each for each in place.verify()[0]}
    place.path(back).write_bytes(held)
    wanted = {(lost.hex(), "lost_object"), (rotten.hex(), "damaged_object"), (back.hex(), "recovered_object")}
    scopes: list[dict[str, object]] = [{}, {"max_age_us": 10**12}, {"budget_s": 0, "time": Time(0.1)}, {"quick": True}]
    for scope in scopes:
        findings, summary = place.verify(record=False, **scope)  # type: ignore[arg-type]
        found = {(each.object, each.kind) for each in findings}
        if scope.keys() & {"quick", "budget_s"}:  # what was put back is not read, so it is not called sound
            assert found == (wanted - {(back.hex(), "recovered_object")}) | {(back.hex(), "lost_object")}
        else:
            assert found == wanted
        assert not summary.sound
        assert {each.hint for each in findings if each.object == lost.hex()} == {first[lost.hex()].hint}
    assert place.verify()[1].covered["copies"]["newly_bad"] == 0
    assert (back.hex(), "recovered_object") not in {(each.object, each.kind) for each in place.verify()[0]}


def test_a_quick_run_calls_nothing_sound_that_it_did_not_read(place: Place) -> None:
    place.path(place.shas[3]).write_bytes(bytes(100))  # the right size
    place.verify()
    (finding,) = place.verify(quick=True)[0]
    assert (finding.kind, finding.hint) == ("damaged_object", Way.READ.value)
    assert [each.kind for each in place.verify()[0]] == ["damaged_object"]


def test_a_mass_of_known_losses_is_no_unmounted_storage(place: Place) -> None:
    for sha256 in place.shas[:300]:
        place.path(sha256).unlink()
    findings, summary = place.verify()
    assert {each.hint for each in findings} == {Way.MOUNT.value}
    assert summary.covered["copies"]["recorded"] == 0
    findings, summary = place.verify(repair=True)  # the person says that it is the right storage
    assert summary.covered["copies"]["recorded"] == 300
    place.path(place.shas[400]).unlink()
    findings, summary = place.verify()
    assert {each.hint for each in findings} == {Way.AGAIN.value}
    assert summary.covered["copies"]["recorded"] == 1
    assert summary.covered["copies"]["not_recorded_because"] is None


@BOTH
def test_a_run_that_is_killed_has_recorded_how_far_it_came(place: Place, *, ranges: bool) -> None:
    for sha256 in sorted(place.shas)[::100]:
        place.path(sha256).write_bytes(bytes(100))
    world = World(monotonic=Time(400.0).monotonic)
    run = Verification(place.ledger, place.store_with({"part_objects": 100}, ranges=ranges), Scope(), world)
    findings = run.findings()
    for _ in range(6):
        next(findings)
    # Nothing is closed, flushed or told: the process is simply no more.
    assert place.ledger.audit() != ()
    (kept,) = place.ledger.audit()
    assert kept.start == FIRST
    assert kept.end < LAST
    findings.close()


def test_the_rate_is_kept(place: Place) -> None:
    time = Time()
    place.verify(time=time, rate=10_000)
    assert COUNT * 100 / 10_000 - 2 <= time.slept <= COUNT * 100 / 10_000 + 2


def test_a_slow_reading_ends_soon_after_it_is_told_to(place: Place) -> None:
    time = Time()
    _, summary = place.verify(time=time, rate=1000, budget_s=10)  # all of it would take 70 s
    assert not summary.complete
    assert time.slept < 25
    assert summary.covered["copies"]["objects"] > 0
    assert place.ledger.audit()


class Broken:
    """Reads every block but one, which is broken off, as an endless object in it would be."""

    def __init__(self, which: int) -> None:
        self.which = which
        self.blocks = 0

    def submit(self, _block: list[ReadRequest]) -> None:
        pass

    def result(self) -> list[Bad] | None:
        self.blocks += 1
        return None if self.blocks == self.which else []

    def close(self) -> None:
        pass


@pytest.mark.parametrize("which", [1, 3, 70])
def test_nothing_behind_a_block_that_was_broken_off_counts_as_read(place: Place, which: int) -> None:
    reader = StoreReader(place.objects, Broken(which), stopped=lambda: False, block_bytes=1000)
    audit = CopyAudit(place.ledger, reader)
    assert all(reports == [] for reports in audit.walk(FIRST, LAST))
    behind = sorted(place.shas)[(which - 1) * 10 :]
    assert audit.read_to is None if which == 1 else audit.read_to is not None and audit.read_to < behind[0]


def test_a_throttle_saves_up_no_more_than_a_second() -> None:
    time = Time()
    throttle = Throttle(1000, sleep=time.sleep, monotonic=time.monotonic)
    time.now = 3600.0
    throttle.take(1000)
    assert time.slept == 0
    throttle.take(3000)
    assert time.slept == pytest.approx(3.0)
    Throttle(None, sleep=time.sleep, monotonic=time.monotonic).take(10**12)
    assert time.slept == pytest.approx(3.0)


def test_without_recording_nothing_is_appended(place: Place) -> None:
    place.path(place.shas[0]).unlink()
    before = place.ledger.head()
    findings, summary = place.verify(record=False)
    assert [(each.kind, each.hint) for each in findings] == [("lost_object", Way.RECORD.value)]
    assert summary.covered["copies"]["not_recorded_because"] is not None
    assert place.ledger.head() == before


def test_a_quick_look_says_that_it_read_nothing(place: Place) -> None:
    place.path(place.shas[0]).write_bytes(bytes(100))
    place.path(place.shas[1]).write_bytes(b"short")
    findings, summary = place.verify(quick=True)
    assert [(each.kind, each.object) for each in findings] == [("damaged_object", place.shas[1].hex())]
    assert any("contents" in gap for gap in summary.not_covered)
    assert place.ledger.audit() == ()


@BOTH
def test_what_no_event_names_is_a_note(place: Place, *, ranges: bool) -> None:
    upload = place.objects.stage()
    upload.write(b"nobody's")
    (orphan,) = place.objects.publish([upload.finish()])
    (place.folder / "objects" / "zz").mkdir()
    (place.folder / "tmp" / "gone").mkdir()
    (place.folder / "tmp" / "gone" / "7").write_bytes(b"half")
    findings, summary = place.verify(ranges=ranges)
    assert {(each.kind, each.severity) for each in findings} == {
        ("orphan_object", "note"),
        ("stray_file", "note"),
        ("temporary_file", "note"),
    }
    assert orphan.sha256.hex() in {each.object for each in findings}
    assert summary.sound


@pytest.mark.parametrize("most", [0, 10_000])
def test_every_stray_is_reported_once_however_much_is_read(place: Place, most: int) -> None:
    parts = {"part_objects": 1, "most_strays": most}  # several parts a folder
    sha256 = place.shas[7]
    names = {f"{sha256.hex()[:2]}/notes", f"{sha256.hex()[:2]}/{'0' * 64}", "README"}
    for name in names:
        (place.folder / "objects" / name).write_bytes(b"stray")
    place.path(sha256).unlink()  # as many files in the folder as there should be, and one more
    for scope in ({}, {"max_age_us": 10**12}, {"quick": True}):
        findings, _ = place.verify(record=not scope, parts=parts, **scope)
        told = [each.detail for each in findings if each.kind == "stray_file"]
        assert sorted(told) == sorted(f"objects/{name} (5 bytes) is not an object" for name in names)


class Awkward(MemoryObjects):
    """A store whose disk has its moods: `fails` says what opening an object does instead."""

    fails: Callable[[bytes], BinaryIO | None] = staticmethod(lambda _: None)

    def open(self, sha256: bytes) -> BinaryIO:
        return self.fails(sha256) or super().open(sha256)


def awkward(fails: Callable[[bytes, bytes], BinaryIO | None]) -> tuple[list[Finding], Summary, Ledger]:
    """Verify 20 objects, the first of which fails so."""
    ledger = Ledger(MemoryStore())
    objects = Awkward()
    first = fill(ledger, objects, 20)[0]
    objects.fails = lambda sha256: fails(sha256, first)
    run = Verification(ledger, objects, Scope())
    return list(run.findings()), run.summary, ledger


def _raise(number: int) -> BinaryIO:
    error = OSError(number, os.strerror(number))
    raise storage_error(error, "opening it") from error


def test_an_error_of_the_disk_is_damage() -> None:
    findings, _, ledger = awkward(lambda sha256, first: _raise(errno.EIO) if sha256 == first else None)
    assert [each.kind for each in findings] == ["damaged_object"]
    assert [entry.element.damage for entry in ledger.scan(states=["damaged"]) if entry.element] == ["damaged"]


def test_a_missing_right_is_no_damage_and_is_not_recorded() -> None:
    findings, summary, ledger = awkward(lambda sha256, first: _raise(errno.EACCES) if sha256 == first else None)
    assert [each.kind for each in findings] == ["unreadable_object"]
    assert not summary.sound
    assert list(ledger.scan(states=["damaged", "lost"])) == []


def test_what_reads_differently_twice_is_not_called_damaged() -> None:
    times = itertools.count()

    def once(sha256: bytes, first: bytes) -> BinaryIO | None:
        return io.BytesIO(bytes(100)) if sha256 == first and next(times) == 0 else None

    findings, summary, ledger = awkward(once)
    (finding,) = findings
    assert finding.kind == "unreadable_object"
    assert "read a second time, it was sound" in finding.detail
    assert not summary.sound
    assert list(ledger.scan(states=["damaged", "lost"])) == []


def test_a_database_that_cannot_be_written_is_verified_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ReadOnlyLedgerError("opened for reading")

    monkeypatch.setattr(place.ledger, "append", refuse)
    place.path(place.shas[0]).unlink()
    findings, summary = place.verify()
    assert [(each.kind, each.hint) for each in findings] == [("lost_object", Way.WRITABLE.value)]
    assert summary.covered["copies"]["not_recorded_because"] == "the database is read-only"


def test_a_flawed_ledger_is_not_written_to_and_its_copies_are_read(place: Place) -> None:
    place.path(place.shas[0]).unlink()
    events = place.store._tables.events
    events[5] = events[5]._replace(writer="forged")
    before = place.ledger.head()
    findings, summary = place.verify()
    assert [each.kind for each in findings] == ["column_mismatch", "lost_object"]
    assert findings[1].hint == Way.LEDGER.value
    assert place.ledger.head() == before
    assert any(gap.startswith("index") for gap in summary.not_covered)


# --- processes -------------------------------------------------------------------------------------------------------


def test_processes_find_what_one_finds(place: Place) -> None:
    rng = random.Random(2)
    for sha256 in rng.sample(place.shas, 30):
        if rng.random() < 0.5:
            place.path(sha256).unlink()
        else:
            place.path(sha256).write_bytes(b"x" * 100)
    rows = [(row.sha256, row.size) for row in place.store.projection.copies()]
    alone = RangeReader(Layout(str(place.folder)), lambda: False).read(FIRST, LAST, rows)
    workers = RangeWorkers(str(place.folder), processes=2)
    try:
        parts = list(parts_of(FIRST, LAST, 16))
        assert parts[0][0] == FIRST
        assert parts[-1][1] == LAST
        reads = []
        while parts or workers.waiting:
            while parts and workers.is_free:
                start, end = parts.pop(0)
                workers.submit(start, end, [row for row in rows if start <= row[0] <= end])
            read = workers.result()
            reads += [] if read is None else [read]
    finally:
        workers.close()
    assert [bad for read in reads for bad in read.bad] == alone.bad
    assert len(alone.bad) == 30
    assert sum(read.objects for read in reads) == alone.objects == COUNT - 30
    assert reads[-1].read_to == LAST


def test_processes_stop_where_they_are(place: Place) -> None:
    rows = [(row.sha256, row.size) for row in place.store.projection.copies()]
    workers = RangeWorkers(str(place.folder), processes=1)
    try:
        workers.stop()
        workers.submit(FIRST, LAST, rows)
        read = workers.result()
        assert read is not None
        assert read.read_to is not None
        assert FIRST < read.read_to < LAST
        assert 0 < read.objects < COUNT
    finally:
        workers.close()


def test_a_process_that_dies_is_no_clean_result(place: Place) -> None:
    workers = RangeWorkers(str(place.folder), processes=1)
    try:
        os.kill(workers._processes[0].pid, signal.SIGKILL)
        assert "signal 9" in workers._processes[0].fate()
        with pytest.raises((KropotError, OSError)):
            _read_nothing(workers)
    finally:
        workers.close()


def _read_nothing(workers: RangeWorkers) -> None:
    workers.submit(FIRST, LAST, [])
    workers.result()


def test_processes_end_with_their_parent(place: Place) -> None:
    workers = RangeWorkers(str(place.folder), processes=2)
    (first, second) = workers._processes
    for link in workers._links:
        link.close()  # what the system does when the parent dies
    assert (first.fate(), second.fate()) == ("it ended with 0", "it ended with 0")


def test_many_copies_are_read_in_processes(place: Place) -> None:
    parts = {"many_objects": 10, "part_objects": 50}
    place.path(place.shas[3]).write_bytes(b"x" * 100)
    findings, summary = place.verify(parts=parts)
    assert [each.object for each in findings] == [place.shas[3].hex()]
    assert summary.covered["copies"]["objects"] == COUNT - 1
    findings, summary = place.verify(parts=parts, time=Time(1.0), budget_s=3)
    assert not summary.complete
