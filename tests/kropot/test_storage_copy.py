"""Copies of a storage: goes on where it was cut, spreads no damage, and mixes no histories."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from kropot.durable.errors import StorageError
from kropot.errors import IntegrityError
from kropot.objects.directory import DirectoryObjects
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published
from kropot.objects.stores.copying import StorageCopy, StorageCopyReport
from kropot.objects.stores.local import LocalFiles
from kropot.segments import SegmentFolder
from tests.kropot.test_segments import began, new_ledger

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.log import Ledger


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    store = DirectoryObjects(root, "one", pack=PackRule(below=1000, worth=0))
    batch = []
    for content in [bytes([n]) * (n + 1) for n in range(50)] + [bytes([n]) * 2000 for n in range(20)]:
        upload = store.stage()
        upload.write(content)
        batch.append(upload.finish())
    assert all(isinstance(one, Published) for one in store.publish(batch))
    store.close()
    return root


def copy(source: Path, target: LocalFiles, *, verify: bool = False) -> StorageCopyReport:
    return StorageCopy(LocalFiles(source), target, verify=verify, progress=lambda _files, _bytes: None).run()


def names(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and "tmp" not in path.relative_to(root).parts
    }


def test_copy_has_every_file_and_a_second_run_copies_none(source: Path, tmp_path: Path) -> None:
    target = LocalFiles(tmp_path / "target")
    assert copy(source, target).files == 21
    assert names(tmp_path / "target") == names(source) | {"storage.txt"}
    again = copy(source, target, verify=True)
    assert (again.files, again.there, again.checked) == (0, 21, 21)
    store = DirectoryObjects(tmp_path / "target", "one")
    assert len(list(store.walk())) == 70


def test_copy_that_was_cut_goes_on(source: Path, tmp_path: Path) -> None:
    class Cut(LocalFiles):
        left = 7

        def put_file(self, *args: object) -> None:
            self.left -= 1
            if self.left < 0:
                raise StorageError("cut")
            super().put_file(*args)  # type: ignore[arg-type]

    with pytest.raises(StorageError, match="cut"):
        copy(source, Cut(tmp_path / "target"))
    assert 0 < len(names(tmp_path / "target")) <= 7
    done = copy(source, LocalFiles(tmp_path / "target"))
    assert 0 < done.there <= 7
    assert done.files + done.there == 21


def test_damage_in_the_source_is_told_and_not_spread(source: Path, tmp_path: Path) -> None:
    loose = next(path for path in sorted((source / "objects").rglob("*")) if path.is_file())
    loose.write_bytes(b"?" + loose.read_bytes()[1:])
    pack = next(path for path in (source / "packs").rglob("*") if path.is_file())
    pack.write_bytes(b"?" + pack.read_bytes()[1:])
    done = copy(source, LocalFiles(tmp_path / "target"))
    assert (done.damaged, done.files) == (2, 20)
    assert any(loose.name in line for line in done.told)
    assert any("1 damaged objects" in line for line in done.told)
    assert f"objects/{loose.name[:2]}/{loose.name}" not in names(tmp_path / "target")


def test_damage_in_the_target_is_replaced_with_verify(source: Path, tmp_path: Path) -> None:
    target = LocalFiles(tmp_path / "target")
    copy(source, target)
    loose = next(path for path in sorted((tmp_path / "target" / "objects").rglob("*")) if path.is_file())
    loose.write_bytes(b"?" + loose.read_bytes()[1:])
    assert copy(source, target).replaced == 0
    assert copy(source, target, verify=True).replaced == 1
    assert hashlib.sha256(loose.read_bytes()).hexdigest() == loose.name


def test_place_of_another_or_longer_history_is_refused(source: Path, tmp_path: Path) -> None:
    def written(root: Path, count: int, ledger: Ledger) -> None:
        began(ledger, count)
        (root / "tmp" / "main").mkdir(parents=True, exist_ok=True)
        SegmentFolder(root, scratch=root / "tmp" / "main").write(ledger)

    ledger = new_ledger(1)
    written(source, 3, ledger)
    target = tmp_path / "target"
    copy(source, LocalFiles(target))
    assert names(target / "ledger") == names(source / "ledger")
    written(target, 2, ledger)
    with pytest.raises(IntegrityError, match="in the right order"):
        copy(source, LocalFiles(target))
    other = tmp_path / "other"
    written(other, 1, new_ledger(1))
    with pytest.raises(IntegrityError, match="another ledger"):
        copy(source, LocalFiles(other))
