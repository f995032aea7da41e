"""`kropotcli browse` on a ledger and storage of this machine: what it streams, cuts off, and leaves behind."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING

import pytest
import requests
from msgspec.structs import replace

from kropot.page.texts import T
from ledger.events import CopyStored, Keeping, SourceLabelled, StreamKey
from ledger.keeping import keep
from tests.browser.worlds import Browsing
from tests.keeper.wire import Wire
from tests.kropot.replay_world import KIT
from tests.kropot.sc2_world import VAULT
from tests.kropot.sealed_world import kit_file
from tests.kropot.test_restore_cli import kit_fields

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.keeper.serve import Kept

pytest_plugins = ["tests.keeper.owner"]

OPENING = T["files"]["opening"].partition("{")[0].encode()
LARGE = bytes(range(256)) * 40_000


class Own:
    """A browse of the keeper's own replica, and a session with it."""

    def __init__(self, kept: Kept, browsing: Browsing) -> None:
        self.kept, self.base = kept, browsing.base
        self.session = requests.Session()
        self.session.trust_env = False
        assert self.session.get(browsing.address, timeout=20).status_code == 200

    def get(self, path: str) -> requests.Response:
        """Ask for a page, until all names are opened."""
        while True:
            answer = self.session.get(f"{self.base}/page/{path}", timeout=20)
            if OPENING not in answer.content:
                return answer

    def object_of(self, name: bytes) -> Path:
        source = next(iter(self.kept.world.ledger.sources()))
        return self.object_at(StreamKey(source=source, kind="file", id=VAULT.element(name).hex()))

    def object_at(self, key: StreamKey) -> Path:
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
    assert gone.status_code == 404
    assert "text/html" in gone.headers["content-type"]
    with zipfile.ZipFile(io.BytesIO(own.get("zip?folder=docs").content)) as archive:
        assert b"docs/large.bin" in archive.read("kropot-not-in-this-zip.txt")


def taken(answer: requests.Response) -> tuple[bytes, bool]:
    """Return what came of an answer, and whether it came to its end."""
    came = bytearray()
    try:
        for piece in answer.iter_content(1 << 16):
            came += piece
    except requests.RequestException:
        return bytes(came), False
    return bytes(came), True


@pytest.fixture
def away(kept: Kept, tmp_path: Path) -> Iterator[tuple[Own, Wire]]:
    """A browse of a keeper that is reached over a wire."""
    source = next(iter(kept.world.ledger.sources()))
    kept.world.seal(source, b"docs/large.bin", LARGE)
    folder = tmp_path / "local"
    folder.mkdir()
    kit_file(folder)
    with Wire(kept.url) as wire:
        place = ("--from", wire.url, "--access-token-file", kept.token_file(folder))
        with Browsing(folder, *place, "--key", "vault.json", hurried=True) as browsing:
            own = Own(kept, browsing)
            assert "large.bin" in own.get("files?folder=docs").text
            yield own, wire


def test_a_transfer_that_is_cut_goes_on_and_comes_whole(away: tuple[Own, Wire]) -> None:
    own, wire = away
    wire.hang_up()
    wire.cut_after = [3_000_000, 1_000_000, 2_000_000]
    assert own.get("download?path=docs/large.bin").content == LARGE
    wire.hang_up()
    wire.cut_after = [4_000_000]
    with zipfile.ZipFile(io.BytesIO(own.get("zip?folder=docs").content)) as archive:
        assert archive.testzip() is None
        assert archive.read("docs/large.bin") == LARGE
    assert b"\r\nRange: bytes=" in wire.sent


@pytest.mark.parametrize("path", ["download?path=docs/large.bin", "zip?folder=docs"])
def test_nothing_looks_complete_when_the_keeper_dies_on_its_way(away: tuple[Own, Wire], path: str) -> None:
    own, wire = away
    wire.dies_after = 5_000_000
    with own.session.get(f"{own.base}/page/{path}", timeout=20, stream=True) as answer:
        assert answer.status_code == 200
        came, is_whole = taken(answer)
    assert not is_whole
    assert 1_000_000 < len(came) < len(LARGE)
    # A zip without its directory at the end is none.
    assert not zipfile.is_zipfile(io.BytesIO(came))
    assert b"PK\x05\x06" not in came
    gone = own.get("download?path=docs/large.bin&at=%40" + str(own.kept.world.ledger.head().position))
    assert gone.status_code == 502
    assert "text/html" in gone.headers["content-type"]
    for screen in ("health", "time", "go?when=1d"):
        silent = own.session.get(f"{own.base}/page/{screen}", timeout=20)
        assert (silent.status_code, "The keeper" in silent.text) == (502, True), screen


def test_a_moment_that_nobody_understands_is_the_visitors_mistake(away: tuple[Own, Wire]) -> None:
    own, _ = away
    assert own.session.get(f"{own.base}/page/go?when=nonsense", timeout=20).status_code == 400


def test_what_aes_cbc_sealed_is_opened_and_never_looks_complete_if_it_is_unsound(kept: Kept, tmp_path: Path) -> None:
    world = kept.world
    source = world.source(KIT, url="https://cbc.example")
    keep(world.ledger, source, SourceLabelled(keeping=Keeping(label="cbc")), version=0)
    good = world.put_path(source, b"photos/large.bin", LARGE)
    world.put_path(source, b"photos/small", b"small")
    world.put(source, "lies", b"another content", sha256="00" * 32)
    bare = world.put(source, "bare", b"anybody can have made this")
    element = world.elements[bare]
    assert element.copy is not None
    world._append(bare, CopyStored(element=replace(element, copy=replace(element.copy, iv=None))))
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "cbc.json").write_text(json.dumps({"data": kit_fields(KIT), "secureCopyStoredSalt": "salt"}))
    (folder / "cbc.json").chmod(0o600)
    place = ("--db-string", f"sqlite:///{kept.folder / 'ledger.db'}", "--storage-path", str(kept.folder / "storage"))
    with Browsing(folder, *place, "--key", "cbc.json") as browsing:
        own = Own(kept, browsing)
        top = own.get("files?folder=cbc").text
        assert "lies" in top
        assert "No kit opens 5 elements" in top  # the other source has another key
        side = own.get("files?folder=cbc/photos&sel=cbc/photos/small&read=1").text
        assert "Checked against the recorded hash" in side
        assert ">small</pre>" in side
        assert own.get("download?path=cbc/photos/large.bin").content == LARGE
        with zipfile.ZipFile(io.BytesIO(own.get("zip?folder=cbc/photos").content)) as archive:
            assert archive.read("photos/large.bin") == LARGE
        assert "4 not authenticated: AES-CBC" in own.get("proof").text
        bare_page = own.get("download?path=cbc/bare")
        assert bare_page.status_code >= 400
        assert "somebody swapped the content" in bare_page.text
        assert "differs from its form" in own.get("files?folder=cbc&sel=cbc/lies&read=1").text
        for path in ("download?path=cbc/lies", "zip?folder=cbc"):
            with pytest.raises(requests.RequestException):
                own.get(path)
        path_ = own.object_at(good)
        data = path_.read_bytes()
        for changed in (data[:-1] + bytes([data[-1] ^ 1]), data[:-16], bytes([data[0] ^ 1]) + data[1:]):
            path_.write_bytes(changed)
            for path in ("download?path=cbc/photos/large.bin", "zip?folder=cbc/photos"):
                with pytest.raises(requests.RequestException):
                    own.get(path)


def test_what_is_not_there_is_told(own: Own) -> None:
    for path in ("download?path=nothing", "download", "zip?folder=nothing", "download?path=docs", "nothing"):
        answer = own.get(path)
        assert answer.status_code == 404, path
    assert own.get("download?path=docs/a.txt&version=1").status_code == 404
    assert own.get("space?daily=7&min_age_days=1").status_code == 200
    assert own.get("compare?at=@3&with=@9").status_code == 200


def test_each_of_several_sources_is_a_folder_of_its_own(kept: Kept, tmp_path: Path) -> None:
    first = next(iter(kept.world.ledger.sources()))
    other = kept.world.source(None, url="https://other.example")
    keep(kept.world.ledger, other, SourceLabelled(keeping=Keeping(label="the other")), version=0)
    kept.world.seal(other, b"top", b"another")
    folder = tmp_path / "local"
    folder.mkdir()
    kit_file(folder)
    place = ("--db-string", f"sqlite:///{kept.folder / 'ledger.db'}", "--storage-path", str(kept.folder / "storage"))
    with Browsing(folder, *place, "--key", "vault.json") as browsing:
        own = Own(kept, browsing)
        top = own.get("files").text
        assert "the other" in top
        assert first.hex()[:8] in top
        assert f"--source {other.hex()} -- top" in own.get("files?sel=the+other/top").text
        assert own.get("download?path=the+other/top").content == b"another"
        assert own.get(f"download?path={first.hex()[:8]}/top").content == b"on top"
