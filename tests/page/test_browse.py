"""`kropotcli browse` on a ledger and storage of this machine: what it streams, cuts off, and leaves behind."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import pytest
import requests

from ledger.events import StreamKey
from tests.browser.worlds import Browsing
from tests.kropot.sc2_world import VAULT
from tests.kropot.sealed_world import kit_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.keeper.serve import Kept

pytest_plugins = ["tests.keeper.owner"]

LARGE = bytes(range(256)) * 40_000


class Own:
    """A browse of the keeper's own replica, and a session with it."""

    def __init__(self, kept: Kept, browsing: Browsing) -> None:
        self.kept, self.base = kept, browsing.base
        self.session = requests.Session()
        self.session.trust_env = False
        assert self.session.get(browsing.address, timeout=20).status_code == 200

    def get(self, path: str) -> requests.Response:
        return self.session.get(f"{self.base}/page/{path}", timeout=20)

    def object_of(self, name: bytes) -> Path:
        key = StreamKey(source=next(iter(self.kept.world.ledger.sources())), kind="file", id=VAULT.element(name).hex())
        copy = self.kept.world.elements[key].copy
        assert copy is not None
        found = self.kept.folder / "storage" / "objects" / copy.sha256.hex()[:2] / copy.sha256.hex()
        found.chmod(0o600)
        return found


@pytest.fixture
def own(kept: Kept, tmp_path: Path) -> Iterator[Own]:
    source = next(iter(kept.world.ledger.sources()))
    kept.world.seal(source, b"docs/large.bin", LARGE)
    kept.world.seal(source, b"docs/..%2f\xffodd\nname", b"odd")
    folder = tmp_path / "local"
    folder.mkdir()
    kit_file(folder)
    place = ("--db-string", f"sqlite:///{kept.folder / 'ledger.db'}", "--storage-path", str(kept.folder / "storage"))
    with Browsing(folder, *place, "--key", "vault.json") as browsing:
        yield Own(kept, browsing)


def test_contents_are_opened_here_and_nothing_is_left_behind(own: Own, tmp_path: Path) -> None:
    assert "large.bin" in own.get("files?folder=docs").text
    assert own.get("download?path=docs/large.bin").content == LARGE
    odd = own.get("files?q=odd").text
    assert "\n odd" not in odd
    zipped = own.get("zip?folder=docs").content
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        assert archive.testzip() is None
        assert archive.read("docs/large.bin") == LARGE
        assert all(not name.startswith(("/", "..")) and "\n" not in name for name in archive.namelist())
    assert own.get("proof").text.count("authentic") == 1
    assert own.get("files?at=@2").status_code == 200
    left = {path.name for path in (tmp_path / "local").rglob("*") if path.is_file()}
    assert left == {"vault.json", "browse.err"}


def test_a_download_that_turns_out_unsound_never_looks_complete(own: Own) -> None:
    path = own.object_of(b"docs/large.bin")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(requests.RequestException):
        own.get("download?path=docs/large.bin")
    with pytest.raises(requests.RequestException):
        own.get("zip?folder=docs")
    path.write_bytes(data[:-70_000])
    with pytest.raises(requests.RequestException):
        own.get("download?path=docs/large.bin")
    path.unlink()
    gone = own.get("download?path=docs/large.bin")
    assert gone.status_code >= 400
    assert "text/html" in gone.headers["content-type"]
    with zipfile.ZipFile(io.BytesIO(own.get("zip?folder=docs").content)) as archive:
        assert b"docs/large.bin" in archive.read("kropot-not-in-this-zip.txt")


def test_what_is_not_there_is_told(own: Own) -> None:
    for path in ("download?path=nothing", "download", "zip?folder=nothing", "download?path=docs", "nothing"):
        answer = own.get(path)
        assert answer.status_code == 404, path
    assert own.get("download?path=docs/a.txt&version=1").status_code == 404
    assert own.get("space?daily=7&min_age_days=1").status_code == 200
    assert own.get("compare?at=@3&with=@9").status_code == 200
