"""File systems that cannot sync folders (CIFS, FUSE) hold storage, restore and export; a failed sync is believed."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import TYPE_CHECKING

import pytest

from kropot.durable import dirfd
from kropot.durable.batch import Choice
from kropot.durable.draft import TreeError
from kropot.durable.errors import StorageError
from kropot.durable.newfile import settle, write_new
from kropot.durable.target import TargetFolder
from kropot.objects.directory import DirectoryObjects
from kropot.objects.store import Published

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EACH_FILE = Choice(method="fsync", why="as on a network file system")


@pytest.fixture
def break_folders(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes every later sync of a folder fail with this error."""

    def break_(number: int) -> None:
        real = os.fsync

        def fsync(fd: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(number, os.strerror(number))
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)

    monkeypatch.setattr(dirfd, "_told", set())
    return break_


def store_one(root: Path) -> object:
    """Store an object, as a collector does; return what came of it."""
    store = DirectoryObjects(root, "main", choice=EACH_FILE)
    upload = store.stage()
    upload.write(b"abc")
    (outcome,) = store.publish([upload.finish()])
    store.close()
    return outcome


def give_back(root: Path) -> None:
    """Place a file, as a restore does."""
    with TargetFolder(root) as tree:
        draft = tree.draft()
        draft.write(b"abc")
        draft.sync()
        tree.place(draft, (b"folder", b"name"))
        draft.drop()
        tree.sync()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_without_sync_of_folders_is_used_and_named_once(
    tmp_path: Path, break_folders: Callable[[int], None], capsys: pytest.CaptureFixture[str], number: int
) -> None:
    break_folders(number)
    assert isinstance(store_one(tmp_path / "storage"), Published)
    give_back(tmp_path / "out")
    assert (tmp_path / "out/folder/name").read_bytes() == b"abc"
    write_new(tmp_path / "export" / "manifest", b"{}")
    settle(tmp_path / "export" / "manifest")
    told = capsys.readouterr()
    # The folders above may lie on other volumes: each is named once.
    volumes = re.findall(r"folders_not_synced .*volume=(\S+)", told.out + told.err)
    assert volumes
    assert len(set(volumes)) == len(volumes)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_sync_of_a_folder_that_fails_is_never_swallowed(
    tmp_path: Path, break_folders: Callable[[int], None], number: int
) -> None:
    break_folders(number)
    with pytest.raises(StorageError):
        store_one(tmp_path / "storage")
    with pytest.raises(TreeError):
        give_back(tmp_path / "out")
    with pytest.raises(OSError, match="manifest"):
        write_new(tmp_path / "export" / "manifest", b"{}")
    (tmp_path / "there").touch()
    with pytest.raises(OSError, match="there"):
        settle(tmp_path / "there")


def test_a_file_whose_sync_is_refused_is_not_taken_for_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Invalid argument"):
        write_new(tmp_path / "file", b"x")
    assert not (tmp_path / "file").exists()
