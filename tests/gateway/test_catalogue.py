"""The catalogue: no cursor misses a version, no nonce seals two contents, and memory stays flat."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec.structs import replace

from kropot.gateway.catalogue import Bitmap, Catalogue, UnsettledError
from kropot.gateway.sources import FolderSource, NearbyFiles, NotServedError, ScannedFile, Seen, Unreadable, path_key
from kropot.gateway.state import PER_SECOND, State, next_second, open_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECOND = 1_000_000_000
TICK = 4_000_000
START = 1_800_000_000 * SECOND


class NearbyFakes(NearbyFiles):
    def open(self, path: bytes) -> tuple[int, Seen]:
        return self._tree.open(path)


@dataclass
class FakeTree(FolderSource):
    """A folder in memory whose time stamps are as coarse as a real one's."""

    now: int = START
    files: dict[bytes, tuple[Seen, int]] = field(default_factory=dict)
    unreadable: list[bytes] = field(default_factory=list)
    device: int = 1
    writes: int = 0

    def write(self, path: bytes, size: int = 7) -> None:
        self.writes += 1
        stamp = self.now // TICK * TICK
        seen = Seen(dev=self.device, ino=crc32(path), size=size, mtime_ns=stamp, ctime_ns=stamp, mode=0o644)
        self.files[path] = (seen, self.writes)

    def walk(self) -> Iterator[ScannedFile | Unreadable]:
        for path in self.unreadable:
            yield Unreadable(path=path, reason="EACCES")
        for path, (seen, _) in list(self.files.items()):
            if not any((path + b"/").startswith(blind + b"/") for blind in self.unreadable):
                yield ScannedFile(path=path, seen=seen)

    def look(self, path: bytes) -> Seen | None:
        return self.files[path][0] if path in self.files else None

    def open(self, path: bytes) -> tuple[int, Seen]:  # noqa: ARG002 - the signature of the real one
        raise NotServedError("nothing is hashed here")

    def has_entry(self, path: bytes) -> bool:  # noqa: ARG002 - the signature of the real one
        return False

    def nearby(self) -> NearbyFiles:
        return NearbyFakes(self)

    def open_entry(self, path: bytes) -> int:
        raise FileNotFoundError(path)

    def device_number(self) -> int:
        return self.device

    def mark(self) -> bytes:
        return bytes([self.device])


@dataclass
class World:
    tree: FakeTree
    state: State
    catalogue: Catalogue

    def tick(self, seconds: float) -> None:
        self.tree.now += round(seconds * SECOND)

    def all(self, limit: int = 8191) -> list[tuple[int | None, bytes]]:
        return [(row.date, row.path) for row in self.state.page(None, limit)[0]]


def make_world(state: State) -> World:
    tree = FakeTree()
    return World(tree, state, Catalogue(state, tree, clock_ns=lambda: tree.now, hash_up_to=-1))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    state = open_state(f"sqlite:///{tmp_path / 'gateway.db'}", create=True)
    yield make_world(state)
    state.close()


def fill(world: World, count: int, name: bytes = b"f%d") -> None:
    for number in range(count):
        world.tree.write(name % number)
    world.tick(10)


def test_first_scan_is_dated_backwards_256_a_second(world: World) -> None:
    fill(world, 1000)
    now = world.tree.now // SECOND
    report = world.catalogue.scan()
    assert (report.files, report.new, report.changed, report.gone) == (1000, 1000, 0, 0)
    dates = [date for date, _ in world.all()]
    assert dates == sorted(dates, key=lambda date: date or 0)
    assert max(Counter(dates).values()) == PER_SECOND
    assert (dates[0], dates[-1]) == (now - 3, now)


def test_unchanged_folder_is_not_announced_again(world: World) -> None:
    fill(world, 300)
    world.catalogue.scan()
    before = world.all()
    world.tick(60)
    report = world.catalogue.scan()
    assert (report.files, report.new, report.changed, report.gone) == (300, 0, 0, 0)
    assert world.all() == before


def test_burst_of_changes_gets_seconds_of_its_own(world: World) -> None:
    fill(world, 100)
    world.catalogue.scan()
    last = world.state.source().last_date
    assert last is not None
    fill(world, 1000, b"g%d")
    now = world.tree.now // SECOND
    world.catalogue.scan()
    new = [date for date, path in world.all() if path.startswith(b"g")]
    assert sorted(Counter(new).items()) == [(now, 256), (now + 1, 256), (now + 2, 256), (now + 3, 232)]
    assert world.state.page(None, 1)[2] == now + 3


def test_clock_set_back_never_dates_into_the_past(world: World) -> None:
    fill(world, 10)
    world.catalogue.scan()
    last = world.state.source().last_date
    world.tree.now -= 3600 * SECOND
    world.tree.write(b"new")
    world.tree.now += 10 * SECOND
    world.catalogue.scan()
    assert dict((path, date) for date, path in world.all())[b"new"] == (last or 0) + 1  # noqa: C402 - pairs are turned


@given(now=st.integers(0, 1 << 40), last=st.none() | st.integers(0, 1 << 40))
def test_next_second_is_new_and_not_before_now(now: int, last: int | None) -> None:
    date = next_second(now, last)
    assert date >= now
    assert last is None or date > last
    assert date in {now, None if last is None else last + 1}


def test_young_versions_wait_until_they_have_settled(world: World) -> None:
    fill(world, 5)
    world.catalogue.scan()
    world.tree.write(b"young")
    world.tree.write(b"f1")
    before = world.all()
    report = world.catalogue.scan()
    assert sorted(report.young) == [b"f1", b"young"]
    assert world.all() == before
    world.tick(1.9)
    assert world.catalogue.revisit(report.young).young == report.young
    world.tick(0.2)
    assert world.catalogue.revisit(report.young).young == []
    assert {path for _, path in world.all()} == {path for _, path in before} | {b"young"}
    assert dict(map(reversed, world.all()))[b"f1"] > dict(map(reversed, before))[b"f1"]  # type: ignore[arg-type]


def test_deleted_files_leave_the_list_and_the_counts(world: World) -> None:
    fill(world, 1000)
    world.catalogue.scan()
    for number in range(0, 1000, 3):
        del world.tree.files[b"f%d" % number]
    assert world.catalogue.scan().gone == 334
    rows, remaining, _, _ = world.state.page(None, 8191)
    assert len(rows) == remaining == 666
    assert not [row for row in rows if int(row.path[1:]) % 3 == 0]


def test_unreadable_folder_is_not_gone(world: World) -> None:
    for name in (b"a/1", b"a/b/2", b"ab/3", b"c"):
        world.tree.write(name)
    world.tick(10)
    world.catalogue.scan()
    world.tree.unreadable = [b"a"]
    del world.tree.files[b"c"]
    report = world.catalogue.scan()
    assert report.gone == 1
    assert {path for _, path in world.all()} == {b"a/1", b"a/b/2", b"ab/3"}


def test_empty_folder_in_the_place_of_another_takes_nothing_off(world: World) -> None:
    fill(world, 10)
    world.catalogue.scan()
    files, world.tree.files, world.tree.device = world.tree.files, {}, 2
    report = world.catalogue.scan()
    assert (report.misplaced, report.gone, len(world.all())) == (True, 0, 10)
    world.tree.files, world.tree.device = files, 1
    assert not world.catalogue.scan().misplaced
    world.tree.files = {}
    report = world.catalogue.scan()
    assert (report.misplaced, report.gone) == (False, 10), "the same folder, really emptied"


def test_folder_that_is_unmounted_while_it_is_scanned_takes_nothing_off(world: World) -> None:
    fill(world, 1200)
    world.catalogue.scan()
    files = dict(world.tree.files)
    # The walk met the first thousand before the disk went away.
    world.tree.files = dict(list(files.items())[:1000])

    def unmount() -> bool:
        world.tree.files, world.tree.device = {}, 2
        return False

    report = world.catalogue.scan(stop=unmount)
    assert (report.misplaced, report.gone, len(world.all())) == (True, 0, 1200)
    world.tree.files, world.tree.device = files, 1
    report = world.catalogue.scan()
    assert (report.misplaced, report.gone) == (False, 0)
    assert not world.catalogue.is_gone(b"f7")
    del world.tree.files[b"f7"]
    assert world.catalogue.is_gone(b"f7")
    world.tree.device = 2
    assert not world.catalogue.is_gone(b"f7")


def test_stopped_scan_declares_nothing_gone(world: World) -> None:
    fill(world, 1200)
    world.catalogue.scan()
    world.tree.files = dict(list(world.tree.files.items())[:600])
    report = world.catalogue.scan(stop=lambda: True)
    assert (report.stopped, report.gone, len(world.all())) == (True, 0, 1200)


def test_first_scan_that_was_cut_short_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, 5000)
    assert world.catalogue.scan(stop=lambda: True).stopped
    assert not world.state.source().is_ready
    monkeypatch.setattr("kropot.gateway.state.files._DATED_AT_ONCE", 1024)
    world.catalogue.scan()
    assert world.state.source().is_ready
    dates = Counter(date for date, _ in world.all())
    assert sum(dates.values()) == 5000
    assert max(dates.values()) == PER_SECOND
    assert world.state.page(None, 1)[1] == 5000


def test_patient_first_scan_waits_for_young_files_and_dates_all_backwards(world: World) -> None:
    fill(world, 300)
    for number in range(300):
        world.tree.write(b"young%d" % number)
    report = world.catalogue.scan(patient=True)
    assert (report.unsettled, world.catalogue.is_ready, world.all()) == (300, False, [])
    world.tick(2)
    assert world.catalogue.scan(patient=True).unsettled == 0
    assert world.catalogue.is_ready
    dates = [date or 0 for date, _ in world.all()]
    assert (len(dates), max(dates)) == (600, world.tree.now // SECOND)


def test_dating_that_was_cut_short_goes_on_behind_what_was_dated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, 3000)
    monkeypatch.setattr("kropot.gateway.state.files._DATED_AT_ONCE", 1024)
    real, calls = State._tally, []

    def cut(self: State, at: object, moved: dict[int, int]) -> None:
        calls.append(moved)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, at, moved)  # type: ignore[arg-type]

    monkeypatch.setattr(State, "_tally", cut)
    with pytest.raises(KeyboardInterrupt):
        world.catalogue.scan()
    assert not world.state.source().is_ready
    world.tick(1)
    world.catalogue.scan()
    dates = Counter(date for date, _ in world.all())
    assert (sum(dates.values()), max(dates.values())) == (3000, PER_SECOND)
    assert world.state.page(None, 1)[1] == 3000


def test_page_goes_on_to_the_end_of_its_second(world: World) -> None:
    fill(world, 600)
    world.catalogue.scan()
    for limit in (1, 255, 256, 257, 599, 8191):
        rows, _, _, _ = world.state.page(None, limit)
        assert len(rows) >= min(limit, 600)
        assert len(rows) in {256, 512, 600}


@given(seed=st.lists(st.integers(0, 300_000), min_size=1, max_size=12), since=st.integers(-5, 300_010))
@settings(max_examples=8)
def test_counts_are_what_counting_gives(tmp_path_factory: pytest.TempPathFactory, seed: list[int], since: int) -> None:
    state = open_state(f"sqlite:///{tmp_path_factory.mktemp('count') / 'gateway.db'}", create=True)
    world = make_world(state)
    dates = []
    for number, date in enumerate(sorted(set(seed))):
        world.tree.now = date * SECOND
        world.tree.write(b"f%d" % number)
        world.tree.now += 3 * SECOND
        world.catalogue.scan()
    dates = [row.date or 0 for row in state.page(None, 8191)[0]]
    assert state.page(since, 1)[1] == sum(date >= since for date in dates)
    state.close()


def test_renewed_nonce_is_committed_and_announced_later(world: World) -> None:
    fill(world, 3)
    world.catalogue.scan()
    row = next(row for row in world.state.page(None, 10)[0] if row.path == b"f1")
    world.tree.write(b"f1", size=9)
    looks = world.tree.files[b"f1"][0]
    with pytest.raises(UnsettledError) as caught:
        world.catalogue.renewed(row, looks)
    assert 0 < caught.value.wait_s <= 2
    world.tick(2)
    fresh = world.catalogue.renewed(row, looks)
    assert fresh.nonce != row.nonce
    assert world.state.file(row.id) == fresh
    assert world.catalogue.renewed(row, looks).nonce == fresh.nonce, "whoever comes second gets the same"
    assert world.catalogue.scan().changed == 1
    again = world.state.file(row.id)
    assert again is not None
    assert again.nonce == fresh.nonce
    assert (again.date or 0) > (row.date or 0)
    assert not again.is_due


def test_changed_file_gets_a_fresh_nonce_by_the_scan(world: World) -> None:
    fill(world, 3)
    world.catalogue.scan()
    before = {row.path: row for row in world.state.page(None, 10)[0]}
    world.tree.write(b"f1")
    world.tick(3)
    assert world.catalogue.scan().changed == 1
    after = {row.path: row for row in world.state.page(None, 10)[0]}
    assert {path for path in after if after[path].nonce != before[path].nonce} == {b"f1"}
    assert after[b"f1"].id == before[b"f1"].id


def test_racing_requests_agree_on_one_nonce(world: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    fill(world, 1)
    world.catalogue.scan()
    row = world.state.page(None, 1)[0][0]
    world.tree.write(b"f0", size=9)
    world.tick(3)
    looks = world.tree.files[b"f0"][0]
    with ThreadPoolExecutor(8) as pool:
        nonces = {each.nonce for each in pool.map(lambda _: world.catalogue.renewed(row, looks), range(16))}
    assert len(nonces) == 1


few = st.integers(0, 2)


class Cursors(RuleBasedStateMachine):
    """Files change at random while clients of both kinds poll; at the end each has seen the newest version of all."""

    def __init__(self) -> None:
        super().__init__()
        self.naive: dict[bytes, bytes] = {}
        self.naive_cursor: int | None = None
        self.closed: dict[bytes, bytes] = {}
        self.closed_cursor: int | None = None
        self.sealed: dict[bytes, int] = {}

    @initialize(files=st.sampled_from([0, 5, 400]))
    def begin(self, files: int) -> None:
        from tempfile import mkdtemp

        self.place = mkdtemp()
        self.state = open_state(f"sqlite:///{self.place}/gateway.db", create=True)
        self.world = make_world(self.state)
        for number in range(files):
            self.world.tree.write(b"f%d" % number)
        self.world.tick(5)
        self.world.catalogue.scan()

    @rule(number=few, size=st.sampled_from([7, 7, 8]))
    def write(self, number: int, size: int) -> None:
        self.world.tree.write(b"f%d" % number, size)

    @rule(first=few, count=st.sampled_from([20, 300]))
    def write_many(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.world.tree.write(b"f%d" % number)

    @rule(number=few)
    def delete(self, number: int) -> None:
        self.world.tree.files.pop(b"f%d" % number, None)

    @rule(seconds=st.sampled_from([0.001, 0.3, 1.7, 2.5, 90.0]))
    def wait(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule()
    def scan(self) -> None:
        self.world.catalogue.scan()

    @rule(limit=st.sampled_from([1, 100, 256, 300]))
    def poll_naively(self, limit: int) -> None:
        """The old client: the last date it saw is where it goes on."""
        rows, _, _, _ = self.state.page(self.naive_cursor, limit)
        for row in rows:
            self.naive[row.path] = row.identity
            self.naive_cursor = row.date

    @rule()
    def poll_to_the_closed_second(self) -> None:
        """Our client: everything up to the closed second, which is where it goes on, without any overlap."""
        rows, _, closed, _ = self.state.page(self.closed_cursor, 8191)
        for row in rows:
            self.closed[row.path] = row.identity
        self.closed_cursor = closed

    @rule(number=few)
    def fetch(self, number: int) -> None:
        """What the content route does: settle which version the open file is, then seal it."""
        path = b"f%d" % number
        row = self.state.known([path_key(path)]).get(path_key(path))
        if row is None or path not in self.world.tree.files:
            return
        looks, content = self.world.tree.files[path]
        try:
            row = row if row.identity == looks.identity else self.world.catalogue.renewed(row, looks)
        except UnsettledError:
            return
        assert self.sealed.setdefault(row.nonce, content) == content, "one nonce sealed two contents"

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        self.world.tick(3)
        self.world.catalogue.scan()
        self.poll_to_the_closed_second()
        while self.state.page(self.naive_cursor, 1)[0]:
            self.poll_naively(256)
        now = {path: seen.identity for path, (seen, _) in self.world.tree.files.items()}
        assert {path: self.naive.get(path) for path in now} == now
        assert {path: self.closed.get(path) for path in now} == now
        rows = self.state.page(None, 8191)[0]
        assert {row.path for row in rows} == set(now)
        assert max(Counter(row.date for row in rows).values(), default=0) <= PER_SECOND
        self.state.close()
        import shutil

        shutil.rmtree(self.place)


TestCursors = Cursors.TestCase
TestCursors.settings = settings(
    max_examples=10, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@given(numbers=st.sets(st.integers(0, 1 << 20), max_size=200), other=st.integers(0, 1 << 20))
def test_bits_are_a_set(numbers: set[int], other: int) -> None:
    bits = Bitmap()
    for number in [*numbers, *numbers]:
        bits.add(number)
    assert bits.count == len(numbers)
    assert (other in bits) == (other in numbers)
    assert all(number in bits for number in numbers)


def test_small_files_are_hashed_and_big_ones_are_not(tmp_path: Path) -> None:
    from hashlib import sha256

    (tmp_path / "source").mkdir()
    for size in (0, 9, 10, 11):
        (tmp_path / "source" / str(size)).write_bytes(b"x" * size)
    state = open_state(f"sqlite:///{tmp_path / 'gateway.db'}", create=True)
    Catalogue(state, FolderSource(os.fsencode(tmp_path / "source")), settle_ns=0, hash_up_to=10).scan()
    hashes = {row.path: row.sha256 for row in state.page(None, 10)[0]}
    assert hashes == {b"%d" % size: sha256(b"x" * size).digest() if size < 11 else None for size in (0, 9, 10, 11)}
    state.close()


def test_fake_folder_looks_as_coarse_as_a_real_one() -> None:
    tree = FakeTree()
    tree.write(b"x")
    first = tree.files[b"x"][0]
    tree.write(b"x")
    assert tree.files[b"x"][0] == first, "two writes within a tick look alike: that is what settling is for"
    tree.now += TICK
    tree.write(b"x")
    assert tree.files[b"x"][0] != first
    assert replace(first, ctime_ns=0) != first
