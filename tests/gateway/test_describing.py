"""What a gateway seals about an entry: all that Linux knows, from one open descriptor, and through no symlink."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kropot.durable.dirfd import open_entry
from kropot.gateway import describing
from kropot.gateway.describing import Describer
from kropot.gateway.facts import content_of, large_of, pack
from kropot.gateway.serving import ChangedError
from kropot.gateway.sources import NotServedError
from kropot.sc2.form import Form, Kind, fitted, merged
from tests.kropot.entries_world import make_tree, paths_in

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    make_tree(made)
    return made


def form_of(root: Path, path: bytes, key: bytes = b"k" * 32) -> Form:
    folder = os.open(root, os.O_RDONLY)
    try:
        descriptor = open_entry(folder, path)
        try:
            return Describer(os.fstat(folder).st_dev, key).form(descriptor, path, sealed_us=1)[0]
        finally:
            os.close(descriptor)
    finally:
        os.close(folder)


def test_every_kind_has_a_form(root: Path) -> None:
    kinds = {path: form_of(root, path).kind for path in paths_in(root)}
    assert kinds[b""] is kinds[b"empty"] is Kind.FOLDER
    assert kinds[b"to file"] is kinds[b"docs/to folder"] is kinds[b"to nowhere"] is Kind.SYMLINK
    assert kinds[b"docs/a.txt"] is kinds[b"sparse"] is Kind.FILE


def test_a_form_says_what_the_file_system_says(root: Path) -> None:
    path, found = b"docs/deep/large.bin", (root / "docs/deep/large.bin").stat()
    form = form_of(root, path)
    assert (form.uid, form.gid) == (found.st_uid, found.st_gid)
    assert (form.mtime_ns, form.size) == (found.st_mtime_ns, found.st_size)
    assert dict(form.xattrs)[b"user.short"] == b"v"
    assert form_of(root, b"to nowhere").target == b"/there is/nothing"
    assert form_of(root, b"to nowhere").mode is None, "a symlink has none of its own"


def test_the_names_of_one_file_have_one_group_that_tells_no_inode(root: Path) -> None:
    groups = {form_of(root, path).link_group for path in (b"docs/a.txt", b"docs/link", b"closed/other link")}
    assert len(groups) == 1
    group = groups.pop()
    assert group is not None
    assert form_of(root, b"docs/a.txt", b"x" * 32).link_group != group, "another gateway names it in another way"
    assert form_of(root, b"none").link_group is None


def test_holes_are_not_in_the_content(root: Path) -> None:
    form = form_of(root, b"sparse")
    assert sum(length for _, length in form.holes) == form.size - form.plain_length
    assert form.plain_length < 20_000 < form.size
    with (root / "sparse").open("rb") as file:
        for start, length in form.holes:
            file.seek(start)
            assert file.read(length) == bytes(length)


def test_of_too_many_holes_the_longest_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (root / "many holes").open("ab") as file:
        file.truncate(file.tell() + (1 << 16))
    monkeypatch.setattr(describing, "MOST_HOLES", 2)
    form = form_of(root, b"many holes")
    assert len(form.holes) == 2
    assert form.holes[-1][0] + form.holes[-1][1] == form.size


def test_what_does_not_fit_into_a_form_is_content(root: Path) -> None:
    complete = form_of(root, b"many holes")
    fit, blob = fitted(complete)
    assert blob
    assert not fit.holes
    assert merged(fit, blob) == complete
    same = large_of(pack(complete))
    assert same
    assert same != large_of(pack(replace(complete, xattrs=((b"user.more", b"v"),)))), "a new version"
    assert same == large_of(pack(replace(complete, mode=0o600, mtime_ns=1, uid=77)))


def test_metadata_is_no_content(root: Path) -> None:
    folder, link = form_of(root, b"docs"), form_of(root, b"to file")
    assert content_of(pack(folder)) == content_of(pack(replace(folder, mtime_ns=5, mode=0o700, uid=77)))
    assert content_of(pack(link)) == content_of(pack(replace(link, mtime_ns=5, gid=77)))
    assert content_of(pack(link)) != content_of(pack(replace(link, target=b"elsewhere")))
    assert large_of(pack(form_of(root, b"docs/a.txt"))) == b""


@pytest.mark.parametrize("path", [b"docs/to folder/x", b"to file/x", b"through/a.txt"])
def test_no_symlink_is_followed(root: Path, path: bytes) -> None:
    (root / "through").symlink_to("docs")
    (root / "empty/x").touch()
    with pytest.raises(NotADirectoryError):
        form_of(root, path)


def test_an_entry_that_changes_meanwhile_has_no_form(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.listxattr

    def changing(place: int) -> list[str]:
        (root / "docs/a.txt").chmod(0o604)
        return real(place)

    monkeypatch.setattr(os, "listxattr", changing)
    with pytest.raises(ChangedError):
        form_of(root, b"docs/a.txt")


def test_pipes_and_sockets_have_no_form(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(NotServedError):
        form_of(root, b"pipe")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(OSError, match="No such device"):
            form_of(root, b"socket")
