"""A tree with every kind of entry, and a world that holds what a gateway would make of it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.durable.dirfd import open_entry
from kropot.gateway.describing import Describer
from kropot.sc2.form import Form, Kind, fitted
from kropot.sc2.seal import Sealing
from kropot.sc2.sparse import content_reader
from ledger.events import RemoteObserved
from tests.kropot.replay_world import EMPTY
from tests.kropot.sc2_world import SOURCE, VAULT
from tests.kropot.sealed_world import SealedWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ledger.events import StreamKey

MANIFEST = "kropot-manifest.jsonl"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
_REQUIRED = os.environ.get("KROPOT_TEST_REQUIRE_RSYNC") == "1"


class EntriesWorld(SealedWorld):
    """A world whose `take` stores a whole folder, as a gateway and a collector would."""

    def take(self, source: bytes, folder: Path) -> dict[bytes, StreamKey]:
        """See everything in a folder, and store its objects."""
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            describer = Describer(os.fstat(root).st_dev, b"k" * 32)
            return {path: self._take(source, describer, root, path) for path in paths_in(folder)}
        finally:
            os.close(root)

    def take_again(self, key: StreamKey, folder: Path, path: bytes) -> None:
        """See a new version of one entry, and store its object."""
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            assert self._take(key.source, Describer(os.fstat(root).st_dev, b"k" * 32), root, path) == key
        finally:
            os.close(root)

    def _take(self, source: bytes, describer: Describer, root: int, path: bytes) -> StreamKey:
        descriptor = open_entry(root, path)
        try:
            complete, _ = describer.form(descriptor, path, sealed_us=self.now_us)
            if complete.kind is Kind.FILE:
                complete = dataclasses.replace(
                    complete, sha256=hashlib.sha256(os.pread(descriptor, complete.size, 0)).digest()
                )
            read = content_reader(complete, lambda at, size: os.pread(descriptor, size, at), fitted(complete)[1])
            return self.put(source, fitted(complete)[0], lambda sealing: b"".join(sealing.span(read)))
        finally:
            os.close(descriptor)

    def keep(self, key: StreamKey, form: bytes, sealed: bytes) -> None:
        """See an element as it was listed, and store the object that was sent for it."""
        self._append(key, RemoteObserved(element=replace(EMPTY, date=1_790_000_000, form=form)))
        self._store(key, sealed, None)

    def put(self, source: bytes, form: Form, whole: Callable[[Sealing], bytes]) -> StreamKey:
        """See an element with this form, and store the object that `whole` makes of its sealing."""
        version = VAULT.version(self.random.randbytes(16))
        key = self._list(source, VAULT, form, SOURCE, version)
        self._store(key, whole(Sealing(VAULT, form, source=SOURCE, version=version)), None)
        return key


def paths_in(folder: Path) -> Iterator[bytes]:
    """Yield the path of everything in a folder, and of the folder itself."""
    yield b""
    root = os.fsencode(folder)
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            yield os.path.relpath(place + b"/" + name, root)


def make_tree(root: Path) -> None:
    """Make one entry of every kind that comes back, as far as this user can."""
    for name in ("docs/deep", "empty", "closed", "shared"):
        (root / name).mkdir(parents=True)
    (root / "docs/a.txt").write_bytes(b"hello")
    (root / "docs/deep/large.bin").write_bytes(os.urandom(200_000))
    (root / "none").touch()
    (root / "docs/link").hardlink_to(root / "docs/a.txt")
    (root / "closed/other link").hardlink_to(root / "docs/a.txt")
    (root / "to file").symlink_to("docs/a.txt")
    (root / "docs/to folder").symlink_to("../empty")
    (root / "to nowhere").symlink_to("/there is/nothing")
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 17)
        file.write(b"in the middle")
        file.truncate(1 << 19)
    with (root / "many holes").open("wb") as file:
        for number in range(470):
            file.seek(number << 13)
            file.write(b"%d" % number)
    (root / os.fsdecode(b"not text \xff")).write_bytes(b"bytes")
    (root / "docs/a.txt").chmod(0o640)
    (root / "shared").chmod(0o3777)
    for name, value in (("user.short", b"v"), ("user.long", b"x" * 3000)):
        os.setxattr(root / "docs/deep/large.bin", name, value)
        os.setxattr(root / "empty", name, value[:100])
    for number, path in enumerate(sorted(paths_in(root), key=lambda path: -path.count(b"/"))):
        place = os.fsencode(root) + b"/" + path
        if os.geteuid() == 0:
            os.chown(place, 1 + number, 2 + number, follow_symlinks=False)
    (root / "none").chmod(0o4755)
    give_acls(root)
    (root / "closed").chmod(0o500)
    for number, path in enumerate(sorted(paths_in(root), key=lambda path: -len(path))):
        place = os.fsencode(root) + b"/" + path
        os.utime(place, ns=(0, 1_500_000_000_123_456_789 + number), follow_symlinks=False)


def give_acls(root: Path) -> None:
    """Give ACLs: a reader of a file, and one of everything new in a folder."""
    if shutil.which("setfacl") is None:
        assert not _REQUIRED, "setfacl is not installed, and KROPOT_TEST_REQUIRE_RSYNC says that it must be there"
        return
    subprocess.run(["setfacl", "-m", "u:7:r", root / "docs/a.txt"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:7:rx", root / "shared"], check=True)


def differences(one: Path, other: Path) -> str:
    """Return what rsync would change in `other` to make it like `one`; nothing if they are alike."""
    if shutil.which("rsync") is None:
        if _REQUIRED:
            pytest.fail("rsync is not installed, and KROPOT_TEST_REQUIRE_RSYNC says that it must be there")
        pytest.skip("rsync is not installed")
    command = ["rsync", "-aHAXSni", "--delete", "-c", "--exclude", MANIFEST, f"{one}/", f"{other}/"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, errors="surrogateescape")
    return done.stdout
