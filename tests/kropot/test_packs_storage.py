"""Objects in packs within a storage: lost and lying placements, damaged packs, gathering, indexing."""

from __future__ import annotations

import hashlib
import random
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kropot.durable.batch import Choice
from kropot.errors import LockedError
from kropot.objects.directory import DirectoryObjects
from kropot.objects.layout import Layout
from kropot.objects.opening import FolderStorage
from kropot.objects.packs.folder import PackFolder
from kropot.objects.packs.packing import PackRule
from kropot.objects.packs.reindex import reindex
from kropot.objects.store import ObjectMissingError, Published
from ledger.memory import MemoryStore
from ledger.places import Placement
from tests.faults.files import ForgetfulFiles, Killed, UnsyncedFiles, WatchedFiles, killed_at

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kropot.durable.filesystem import FileSystem
    from ledger.places import PlaceStore

CHOICE = Choice(method="fsync", why="the test says so")
PACKS = PackRule(worth=0)
FILES = PackRule(below=0)
CONTENTS = [b"", b"one", b"two" * 100, b"three", b"four"]


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def put(root: Path, contents: Iterable[bytes], rule: PackRule, files: FileSystem | None = None) -> list[Placement]:
    """Store objects, and return the places of those that went into packs."""
    store = DirectoryObjects(root, "writer", files=files or UnsyncedFiles(), choice=CHOICE, pack=rule)
    outcomes = store.publish([store.stage_whole(content, sha(content)) for content in contents])
    store.close()
    assert all(isinstance(one, Published) for one in outcomes)
    return [one.place for one in outcomes if isinstance(one, Published) and one.place is not None]


def contents_in(root: Path, places: PlaceStore | None) -> dict[bytes, bytes]:
    """Return everything that a walk finds, as it is opened."""
    found = {}
    with closing(DirectoryObjects(root, "reader", places=places)) as store:
        for sha256, size in store.walk():
            with store.open(sha256) as file:
                found[sha256] = file.read()
            assert store.size(sha256) == size == len(found[sha256])
    return found


def read(root: Path, places: PlaceStore | None, content: bytes) -> bytes:
    """Return what a new store reads as the object of this content."""
    with closing(DirectoryObjects(root, "reader", places=places)) as store, store.open(sha(content)) as file:
        return file.read()


EVERYTHING = {sha(content): content for content in CONTENTS}


def pack_path(root: Path, name: bytes) -> Path:
    return root / "packs" / name.hex()[:2] / name.hex()


@pytest.mark.parametrize("places", [MemoryStore().places, None])
def test_packed_and_loose_objects_are_one_store(tmp_path: Path, places: PlaceStore | None) -> None:
    placed = put(tmp_path, CONTENTS[:3], PACKS)
    assert len(placed) == 3
    if places is not None:
        places.add(placed)
    assert put(tmp_path, CONTENTS[3:], FILES) == []
    assert contents_in(tmp_path, places) == EVERYTHING
    with pytest.raises(ObjectMissingError):
        read(tmp_path, places, b"none")


def wrong(placed: list[Placement]) -> list[Placement]:
    """Return placements that all lie: ranges shifted, too long, of the neighbour, or in a pack that is not there."""
    lies = []
    for at, one in enumerate(placed):
        pack = bytes(32) if at == 0 else one.pack
        offset = [one.offset, one.offset + 1, 1 << 62, placed[0].offset, 0][at]
        lies.append(Placement(sha256=one.sha256, pack=pack, offset=offset, length=one.length + (1 << 40) * (at == 1)))
    return lies


def test_placements_that_lie_hide_nothing(tmp_path: Path) -> None:
    places = MemoryStore().places
    places.add(wrong(put(tmp_path, CONTENTS, PACKS)))
    with closing(DirectoryObjects(tmp_path, "reader", places=places)) as store:
        for content in CONTENTS:
            with store.open(sha(content)) as file:
                assert file.read() == content
            assert store.size(sha(content)) == len(content)


def test_placements_that_are_lost_or_name_too_much_hide_nothing(tmp_path: Path) -> None:
    places = MemoryStore().places
    placed = put(tmp_path, CONTENTS, PACKS)
    places.add(placed[:2])
    assert contents_in(tmp_path, places) == EVERYTHING
    places.add([*placed, Placement(sha256=sha(b"never there"), pack=bytes(32), offset=0, length=11)])
    assert contents_in(tmp_path, places) == EVERYTHING


def test_objects_of_a_pack_without_a_footer_are_read_where_the_ledger_says(tmp_path: Path) -> None:
    places = MemoryStore().places
    placed = put(tmp_path, CONTENTS, PACKS)
    path = pack_path(tmp_path, placed[0].pack)
    path.write_bytes(path.read_bytes()[:-20])
    assert contents_in(tmp_path, None) == {}
    places.add(placed)
    assert contents_in(tmp_path, places) == EVERYTHING


def test_damaged_object_is_read_from_another_pack_that_has_it(tmp_path: Path) -> None:
    places = MemoryStore().places
    first, second = put(tmp_path, CONTENTS, PACKS), put(tmp_path, CONTENTS[1:3], PACKS)
    places.add(first)
    places.add(second)
    path = pack_path(tmp_path, first[2].pack)
    data = bytearray(path.read_bytes())
    data[first[2].offset] ^= 1
    path.write_bytes(data)
    for known in (places, None):
        assert read(tmp_path, known, CONTENTS[2]) == CONTENTS[2]


def test_set_aside_object_of_a_pack_is_gone_until_the_packs_are_indexed_again(tmp_path: Path) -> None:
    places = MemoryStore().places
    placed = put(tmp_path, CONTENTS, PACKS)
    places.add(placed)
    path = pack_path(tmp_path, placed[2].pack)
    data = bytearray(path.read_bytes())
    data[placed[2].offset] ^= 1
    path.write_bytes(data)
    store = DirectoryObjects(tmp_path, "reader", places=places)
    kept = store.set_aside(sha(CONTENTS[2]))
    assert kept.endswith(f"quarantine/{sha(CONTENTS[2]).hex()}.0")
    assert (tmp_path / "quarantine" / kept.rpartition("/")[2]).read_bytes() == bytes(
        [data[placed[2].offset]]
    ) + CONTENTS[2][1:]
    assert path.read_bytes() == data
    assert store.size(sha(CONTENTS[2])) is None
    assert contents_in(tmp_path, places).keys() == EVERYTHING.keys() - {sha(CONTENTS[2])}
    # It is fetched again, and lies loose or in another pack.
    places.add(put(tmp_path, [CONTENTS[2], b"another"], PACKS))
    with store.open(sha(CONTENTS[2])) as file:
        assert file.read() == CONTENTS[2]
    store.close()
    reindex(PackFolder(Layout(str(tmp_path))), places)
    assert contents_in(tmp_path, places) == EVERYTHING | {sha(b"another"): b"another"}


def test_object_that_the_ledger_places_is_read_before_it_is_used_again(tmp_path: Path) -> None:
    places = MemoryStore().places
    placed = put(tmp_path, CONTENTS, PACKS)
    places.add(placed)
    path = pack_path(tmp_path, placed[1].pack)
    data = bytearray(path.read_bytes())
    data[placed[1].offset] ^= 1
    path.write_bytes(data)
    store = DirectoryObjects(tmp_path, "writer", files=UnsyncedFiles(), choice=CHOICE, places=places)
    sound, rotten = store.publish([store.stage_whole(content, sha(content)) for content in (b"three", b"one")])
    store.close()
    assert isinstance(sound, Published)
    assert isinstance(rotten, Published)
    assert (sound.existed, sound.place) == (True, placed[3])
    assert (rotten.existed, rotten.place) == (False, None)
    assert contents_in(tmp_path, places) == EVERYTHING


# --- storage index ---------------------------------------------------------------------------------------------------


def test_index_is_made_anew_from_the_packs_alone(tmp_path: Path) -> None:
    places = MemoryStore().places
    placed = put(tmp_path, CONTENTS, PACKS)
    places.add([*wrong(placed), Placement(sha256=sha(b"x"), pack=b"\x07" * 32, offset=0, length=1)])
    report = reindex(PackFolder(Layout(str(tmp_path))), places)
    assert (report.packs, report.objects, report.damaged, report.forgotten) == (1, 5, 0, 2)
    assert sorted(places.walk(), key=lambda one: one.offset + one.length) == sorted(
        placed, key=lambda one: one.offset + one.length
    )


def test_damaged_pack_keeps_what_the_ledger_knows_of_it(tmp_path: Path) -> None:
    places = MemoryStore().places
    placed = put(tmp_path, CONTENTS, PACKS)
    places.add(placed)
    path = pack_path(tmp_path, placed[0].pack)
    path.write_bytes(path.read_bytes()[:-1])
    report = reindex(PackFolder(Layout(str(tmp_path))), places)
    assert (report.packs, report.damaged, report.forgotten) == (0, 1, 0)
    assert placed[0].pack.hex() in report.told[0]
    assert contents_in(tmp_path, places) == EVERYTHING


# --- storage pack ----------------------------------------------------------------------------------------------------


def gathered(root: Path, places: PlaceStore, files: FileSystem | None = None) -> None:
    store = DirectoryObjects(root, "packer", files=files or UnsyncedFiles(), choice=CHOICE, pack=PACKS)
    try:
        store.clean_own_leftovers(lambda _: False)
        store.gatherer(places).run()
    except Killed:
        store._folder.forget()  # with the process, as its lock and what it had open
        store._lock.release()
        raise
    store.close()


def loose(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "objects").glob("*/*"))


def test_loose_objects_are_gathered_and_their_files_go(tmp_path: Path) -> None:
    places = MemoryStore().places
    put(tmp_path, CONTENTS, FILES)
    with FolderStorage(tmp_path, "main").gatherer(places, PackRule()) as gatherer:
        assert not gatherer.is_worth()
        assert gatherer.run().left == 5
        with pytest.raises(LockedError), FolderStorage(tmp_path, "main").gatherer(places, PACKS):
            pass
    with FolderStorage(tmp_path, "main").gatherer(places, PackRule(worth=0, below=300)) as gatherer:
        report = gatherer.run()
    assert (report.packs, report.objects, report.removed, report.left) == (1, 4, 4, 0)
    assert loose(tmp_path) == [sha(CONTENTS[2]).hex()]
    assert contents_in(tmp_path, places) == contents_in(tmp_path, None) == EVERYTHING


def test_damaged_loose_object_stays_where_it_is(tmp_path: Path) -> None:
    places = MemoryStore().places
    put(tmp_path, CONTENTS, FILES)
    name = sha(b"three").hex()
    (tmp_path / "objects" / name[:2] / name).write_bytes(b"rotten")
    with FolderStorage(tmp_path, "main").gatherer(places, PACKS) as gatherer:
        report = gatherer.run()
    assert (report.objects, report.removed, report.damaged) == (4, 4, 1)
    assert loose(tmp_path) == [name]


def test_kill_between_any_two_steps_of_gathering_loses_nothing_and_is_finished_later(tmp_path: Path) -> None:
    steps = WatchedFiles(UnsyncedFiles())
    put(tmp_path / "undisturbed", CONTENTS, FILES)
    gathered(tmp_path / "undisturbed", MemoryStore().places, steps)
    assert loose(tmp_path / "undisturbed") == []
    for at in range(len(steps.steps)):
        root, places = tmp_path / str(at), MemoryStore().places
        put(root, CONTENTS, FILES)
        files = WatchedFiles(UnsyncedFiles(), killed_at(at))
        with pytest.raises(Killed):
            gathered(root, places, files)
        files.bury()
        assert contents_in(root, places) == contents_in(root, None) == EVERYTHING
        gathered(root, places)
        assert loose(root) == []
        assert contents_in(root, places) == EVERYTHING


def test_power_cut_at_any_step_of_gathering_loses_nothing(tmp_path: Path) -> None:
    steps = WatchedFiles(UnsyncedFiles())
    put(tmp_path / "undisturbed", CONTENTS, FILES)
    gathered(tmp_path / "undisturbed", MemoryStore().places, steps)
    for at in range(len(steps.steps) + 1):
        folder, places = tmp_path / f"cut{at}", MemoryStore().places
        disk = ForgetfulFiles(folder)
        disk.make_folder(str(folder))
        put(folder, CONTENTS, FILES, disk)
        try:
            gathered(folder, places, WatchedFiles(disk, killed_at(at)))
        except Killed:
            # The next run finds a pack whose name may not be durable, and adopts it before it removes any file.
            gathered(folder, places, WatchedFiles(disk))
        disk.lose_power(folder / "survivors", random.Random(at))
        assert contents_in(folder / "survivors", places) == contents_in(folder / "survivors", None) == EVERYTHING


def test_pack_that_no_event_names_is_adopted_and_not_made_again(tmp_path: Path) -> None:
    places = MemoryStore().places
    placed = put(tmp_path, CONTENTS, PACKS)
    put(tmp_path, CONTENTS[:2], FILES)
    with FolderStorage(tmp_path, "main").gatherer(places, PACKS) as gatherer:
        report = gatherer.run()
    assert (report.adopted, report.packs, report.removed) == (1, 0, 2)
    assert {one.pack for one in places.walk()} == {placed[0].pack}
    assert contents_in(tmp_path, places) == EVERYTHING
