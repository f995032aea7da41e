"""What every object store promises, run over all of them."""

from __future__ import annotations

import hashlib
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot import processes
from kropot.durable.batch import Choice
from kropot.durable.errors import StorageError, StorageFullError
from kropot.errors import LockedError
from kropot.objects.directory import DirectoryObjects
from kropot.objects.instance import InstanceLock
from kropot.objects.memory import MemoryDisk, MemoryObjects
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import ObjectMissingError, ObjectStore, Published, PublishError, Staged
from kropot.objects.stores.objects import RemoteObjects, object_key
from kropot.objects.stores.packs import pack_key
from kropot.objects.upload import HELD_BACK
from ledger.memory import MemoryStore
from tests.faults.files import UnsyncedFiles
from tests.remote_stores import KINDS as STORES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ledger.places import PlaceStore
    from tests.remote_stores import StoreServer


@dataclass
class Bench:
    """One kind of store on a disk of its own: how to open it, hurt it, fill its disk, and let its process die.

    `fill` is None where a test cannot fill the disk. `keeps_temporaries` says that staged objects can be seen.
    """

    open: Callable[[str], ObjectStore]
    damage: Callable[[bytes], None]
    fill: Callable[[bool], None] | None
    die: Callable[[ObjectStore], None]
    keeps_temporaries: bool = True


class NarrowFiles(UnsyncedFiles):
    """Files on a disk that a test fills and empties."""

    is_full = False

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(fd, data)


class Telling:
    """A store that records the places of what it published, as a collector does with the events."""

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        outcomes = super().publish(batch)  # type: ignore[misc]  # it is mixed in
        told = [one.place for one in outcomes if isinstance(one, Published) and one.place is not None]
        self._packed.places.add(told)  # type: ignore[attr-defined]  # it is the memory store's
        return outcomes


class TellingObjects(Telling, DirectoryObjects):
    """In a folder."""


def directory_bench(tmp_path: Path, method: str, rule: PackRule | None = None) -> Bench:
    """Open stores in a folder; with a `rule` that packs everything, and a ledger that is told all places at once."""
    files = NarrowFiles()
    places = None if rule is None else MemoryStore().places
    choice = Choice(method=method, why="the test says so")  # type: ignore[arg-type]

    def damage(sha256: bytes) -> None:
        if places is not None:
            (place,) = places.find([sha256])[sha256]
            path = tmp_path / "packs" / place.pack.hex()[:2] / place.pack.hex()
            data = path.read_bytes()
            path.write_bytes(data[: place.offset] + b"rotten" + data[place.offset + 6 :])
            return
        path = tmp_path / "objects" / sha256.hex()[:2] / sha256.hex()
        path.write_bytes(b"rotten" + path.read_bytes()[6:])

    def die(store: ObjectStore) -> None:
        assert isinstance(store, DirectoryObjects)
        store._lock.release()

    def open_(instance: str) -> ObjectStore:
        if places is None:
            return DirectoryObjects(tmp_path, instance, files=files, choice=choice)
        return TellingObjects(tmp_path, instance, files=files, choice=choice, places=places, pack=rule)

    return Bench(
        open=open_,
        damage=damage,
        fill=lambda full: setattr(files, "is_full", full),
        die=die,
    )


def memory_bench() -> Bench:
    disk = MemoryDisk()

    def damage(sha256: bytes) -> None:
        disk.objects[sha256] = b"rotten" + disk.objects[sha256][6:]

    return Bench(
        open=lambda instance: MemoryObjects(instance, disk),
        damage=damage,
        fill=lambda full: setattr(disk, "capacity", disk.used if full else None),
        die=lambda store: disk.claimed.discard(store._instance),  # type: ignore[attr-defined]
    )


class TellingRemote(Telling, RemoteObjects):
    """On another machine."""


def remote_bench(server: StoreServer, prefix: str, locks: Path, places: PlaceStore | None = None) -> Bench:
    """Open stores on a server, below a prefix of the test's own; each `open` has connections of its own."""
    places = MemoryStore().places if places is None else places

    def open_(instance: str) -> ObjectStore:
        folder = locks / instance
        folder.mkdir(parents=True, exist_ok=True)
        lock = InstanceLock(str(folder), instance)
        return TellingRemote(server.files(prefix, instance), instance, lock=lock, places=places)

    def damage(sha256: bytes) -> None:
        files = server.files(prefix)
        found = places.find([sha256]).get(sha256)
        key, at = (pack_key(found[0].pack), found[0].offset) if found else (object_key(sha256), 0)
        data = files.get(key)
        files.put(key, data[:at] + b"rotten" + data[at + 6 :])
        files.close()

    def die(store: ObjectStore) -> None:
        assert isinstance(store, RemoteObjects)
        store._lock.release()

    return Bench(open=open_, damage=damage, fill=None, die=die, keeps_temporaries=False)


KINDS = [
    "syncfs",
    "fsync",
    "packs",
    "memory",
    *(pytest.param(kind, marks=pytest.mark.xdist_group("stores")) for kind in STORES),
]


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    if request.param in STORES:
        # What is forked by other tests of this process has nothing to do with the threads of obstore.
        monkeypatch.setattr(processes, "_is_forbidden", False)
        server = request.getfixturevalue("store_servers").get(request.param)
        return remote_bench(server, f"contract/{tmp_path.name}-{secrets.token_hex(4)}", tmp_path / "locks")
    if request.param == "packs":
        return directory_bench(tmp_path / "store", "syncfs", PackRule(worth=0))
    return memory_bench() if request.param == "memory" else directory_bench(tmp_path / "store", request.param)


@pytest.fixture
def store(bench: Bench) -> Iterator[ObjectStore]:
    store = bench.open("one")
    yield store
    store.close()


def nothing(_note: bytes) -> bool:
    return False


def staged(store: ObjectStore, content: bytes) -> Staged:
    upload = store.stage()
    upload.write(content)
    return upload.finish()


def put(store: ObjectStore, *contents: bytes) -> list[bytes]:
    outcomes = store.publish([staged(store, content) for content in contents])
    assert all(isinstance(outcome, Published) for outcome in outcomes)
    return [outcome.sha256 for outcome in outcomes]


def content_of(store: ObjectStore, sha256: bytes) -> bytes:
    with store.open(sha256) as reader:
        return reader.read()


def temporaries(store: ObjectStore) -> list[tuple[str | None, int]]:
    return [(left.instance, left.size) for left in store.leftovers() if left.kind == "temporary"]


@pytest.mark.parametrize("size", [0, 1, 4096, HELD_BACK - 1, HELD_BACK, HELD_BACK + 17])
def test_object_reads_back_under_its_own_sha256(store: ObjectStore, size: int) -> None:
    content = random.Random(size).randbytes(size)
    sha256 = put(store, content)[0]
    assert sha256 == hashlib.sha256(content).digest()
    assert content_of(store, sha256) == content
    assert store.size(sha256) == size


def test_buffer_may_be_reused_after_each_write(store: ObjectStore) -> None:
    upload, buffer = store.stage(), bytearray(100_000)
    for value in range(10):
        buffer[:] = bytes([value]) * len(buffer)
        upload.write(memoryview(buffer))
    assert upload.size == 1_000_000
    outcome = store.publish([upload.finish()])[0]
    assert content_of(store, outcome.sha256) == b"".join(bytes([value]) * 100_000 for value in range(10))


def test_staged_object_has_no_name_before_it_is_published(store: ObjectStore) -> None:
    waiting = staged(store, b"waiting")
    assert store.size(waiting.sha256) is None
    assert list(store.walk()) == []
    with pytest.raises(ObjectMissingError) as caught:
        store.open(waiting.sha256)
    assert caught.value.sha256 == waiting.sha256
    store.publish([waiting])
    assert list(store.walk()) == [(waiting.sha256, 7)]
    assert temporaries(store) == []


def test_answers_come_in_the_order_of_the_batch(store: ObjectStore) -> None:
    batch = [staged(store, bytes([n])) for n in range(40)]
    assert [outcome.sha256 for outcome in store.publish(batch)] == [one.sha256 for one in batch]


def test_empty_batch_is_published(store: ObjectStore) -> None:
    store.lock()
    assert store.publish([]) == []


def test_object_that_exists_is_kept_and_said_to(store: ObjectStore) -> None:
    put(store, b"twice")
    outcome = store.publish([staged(store, b"twice")])[0]
    assert isinstance(outcome, Published)
    assert (outcome.existed, outcome.set_aside) == (True, None)
    assert content_of(store, outcome.sha256) == b"twice"
    assert temporaries(store) == []


def test_same_content_twice_in_one_batch_is_one_object(store: ObjectStore) -> None:
    outcomes = store.publish([staged(store, b"same"), staged(store, b"same")])
    assert [isinstance(outcome, Published) and outcome.existed for outcome in outcomes] == [False, True]
    assert len(list(store.walk())) == 1
    assert temporaries(store) == []


def test_damaged_object_of_the_same_name_is_set_aside_and_replaced(bench: Bench, store: ObjectStore) -> None:
    sha256 = put(store, b"sound content")[0]
    bench.damage(sha256)
    outcome = store.publish([staged(store, b"sound content")])[0]
    assert isinstance(outcome, Published)
    assert not outcome.existed
    assert outcome.set_aside is not None
    assert content_of(store, sha256) == b"sound content"
    assert [left.size for left in store.leftovers() if left.kind == "quarantined"] == [13]


def test_missing_object_has_no_size_and_does_not_open(store: ObjectStore) -> None:
    assert store.size(bytes(32)) is None
    with pytest.raises(ObjectMissingError):
        store.open(bytes(32))
    with pytest.raises(ObjectMissingError):
        store.set_aside(bytes(32))


def test_set_aside_object_is_gone_and_never_overwrites_another(store: ObjectStore) -> None:
    sha256 = put(store, b"first")[0]
    places = [store.set_aside(sha256)]
    assert store.size(sha256) is None
    put(store, b"first")
    places.append(store.set_aside(sha256))
    assert len(set(places)) == 2
    assert [left.size for left in store.leftovers() if left.kind == "quarantined"] == [5, 5]


@given(
    contents=st.sets(st.integers(0, 10**6), max_size=30),
    start=st.binary(max_size=33),
    end=st.none() | st.binary(max_size=33),
)
def test_walk_yields_the_half_open_range_in_order(
    tmp_path_factory: pytest.TempPathFactory, contents: set[int], start: bytes, end: bytes | None
) -> None:
    rule = PackRule(worth=0)
    for bench in (
        directory_bench(tmp_path_factory.mktemp("walk"), "syncfs"),
        directory_bench(tmp_path_factory.mktemp("packs"), "syncfs", rule),
        memory_bench(),
    ):
        store = bench.open("one")
        store.lock()
        known = sorted(put(store, *(str(content).encode() for content in contents)))
        bounds = [start, end, *known[:2], None]
        for first in (start, known[0] if known else b""):
            for last in bounds:
                expected = [sha for sha in known if sha >= first and (last is None or sha < last)]
                assert [sha for sha, _ in store.walk(first, last)] == expected
        store.close()


def test_aborted_upload_leaves_nothing(store: ObjectStore) -> None:
    for size in (0, 10, 1 << 20):
        upload = store.stage()
        upload.write(bytes(size))
        upload.abort()
        upload.abort()
        with pytest.raises(StorageError):
            upload.write(bytes(1 << 20))
    assert list(store.leftovers()) == []


def test_abort_after_the_end_takes_nothing_back(store: ObjectStore) -> None:
    upload = store.stage()
    upload.write(b"kept")
    waiting = upload.finish()
    upload.abort()
    assert isinstance(store.publish([waiting])[0], Published)


def test_discarded_object_leaves_nothing_and_is_not_published(store: ObjectStore) -> None:
    waiting = staged(store, b"unwanted")
    store.discard([waiting])
    assert list(store.leftovers()) == []
    assert isinstance(store.publish([waiting])[0], PublishError)
    assert store.size(waiting.sha256) is None


def test_full_disk_is_said_clearly_and_leaves_nothing(bench: Bench, store: ObjectStore) -> None:
    if bench.fill is None:
        pytest.skip("a test cannot fill this store: tests/kropot/test_stores_faults.py has one that says it is full")
    put(store, b"before")
    bench.fill(True)
    with pytest.raises(StorageFullError, match="full"):
        staged(store, bytes(1 << 20))
    with pytest.raises(StorageFullError, match="full"):
        staged(store, b"small")
    assert list(store.leftovers()) == []
    bench.fill(False)
    sha256 = put(store, b"after")[0]
    assert content_of(store, sha256) == b"after"


def test_second_living_holder_of_an_instance_is_refused(bench: Bench, store: ObjectStore) -> None:
    store.lock()
    other = bench.open("one")
    for act in (other.lock, other.stage, lambda: other.clean_own_leftovers(nothing)):
        with pytest.raises(LockedError):
            act()
    bench.open("two").lock()


def test_instance_of_a_closed_or_dead_holder_is_taken_over_at_once(bench: Bench, store: ObjectStore) -> None:
    store.lock()
    bench.die(store)
    second = bench.open("one")
    second.lock()
    second.close()
    bench.open("one").lock()


def test_only_own_leftovers_are_cleaned(bench: Bench, store: ObjectStore) -> None:
    other = bench.open("two")
    if not bench.keeps_temporaries:
        pytest.skip("what is staged here waits on this machine, in files without names")
    staged(store, b"mine")
    staged(other, b"theirs")
    assert sorted(temporaries(store)) == [("one", 4), ("two", 6)]
    bench.die(store)
    again = bench.open("one")
    assert again.clean_own_leftovers(nothing) == 1
    assert again.clean_own_leftovers(nothing) == 0
    assert temporaries(again) == [("two", 6)]


def test_objects_of_one_instance_are_seen_by_another(bench: Bench, store: ObjectStore) -> None:
    sha256 = put(store, b"shared")[0]
    assert content_of(bench.open("two"), sha256) == b"shared"


def test_object_of_another_store_is_refused(store: ObjectStore) -> None:
    store.lock()
    with pytest.raises(TypeError):
        store.publish([Staged(path="", sha256=bytes(32), size=0)])


def test_free_room_is_a_number_or_unknown(store: ObjectStore) -> None:
    free = store.free_bytes()
    assert free is None or free > 0


def test_whole_object_is_kept_under_the_hash_that_was_given(store: ObjectStore) -> None:
    contents = [b"", b"whole", bytes(HELD_BACK)]
    batch = [store.stage_whole(content, hashlib.sha256(content).digest()) for content in contents]
    assert all(store.size(one.sha256) is None for one in batch)
    outcomes = store.publish([*batch, staged(store, b"whole")])
    assert [isinstance(one, Published) and one.existed for one in outcomes] == [False, False, False, True]
    assert [content_of(store, one.sha256) for one in outcomes] == [*contents, b"whole"]
    assert temporaries(store) == []


def test_whole_object_that_is_discarded_is_nowhere(store: ObjectStore) -> None:
    one = store.stage_whole(b"dropped", hashlib.sha256(b"dropped").digest())
    store.discard([one])
    assert (store.size(one.sha256), temporaries(store)) == (None, [])
