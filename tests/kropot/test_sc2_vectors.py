"""The frozen vectors of sc2: made again to the byte, opened by this program and by strangers who never saw it."""

from __future__ import annotations

import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kropot.sc2.kit import OwnerKit
from kropot.sc2.kits import parse_kit
from kropot.sc2.layout import list_form_bytes, parse_header
from kropot.sc2.opening import open_list_form, open_object
from kropot.sc2.passphrase import LockedKit
from kropot.sc2.recipe import PROGRAM, recipe
from kropot.sc2.vault import keyring

if TYPE_CHECKING:
    from kropot.sc2.vault import Vault

ROOT = Path(__file__).parent.parent
HERE = ROOT / "vectors" / "sc2"
TOLD = json.loads((HERE / "vectors.json").read_text())
STRANGER = HERE / "open.mjs"
each_object = pytest.mark.parametrize("vector", TOLD["objects"], ids=lambda vector: vector["name"])
needs_node = pytest.mark.skipif(
    shutil.which("node") is None and not os.environ.get("CI"), reason="node is missing: apt-get install nodejs"
)


def kit() -> OwnerKit:
    found = parse_kit((HERE / "kit.json").read_bytes(), name="kit.json")
    assert isinstance(found, OwnerKit)
    return found


def ring() -> dict[bytes, Vault]:
    vault = kit().vault
    assert vault is not None
    return keyring([vault])


def test_the_vectors_are_made_again_to_the_byte() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "sc2_vectors.py"))["files"]()
    kept = {path.name: path.read_bytes() for path in HERE.iterdir() if path.suffix in {".sc2", ".json"}}
    assert made == kept


@each_object
def test_objects_and_list_forms_open(vector: dict[str, Any]) -> None:
    data = (HERE / f"{vector['name']}.sc2").read_bytes()
    assert (len(data), sha256(data).hexdigest()) == (vector["object_size"], vector["object_sha256"])
    back = open_object(io.BytesIO(data), ring())
    plain = b"".join(back.chunks)
    assert back.header == open_list_form(vector["list_form"], ring()).header
    assert (back.header.element_id, back.header.version.hex()) == (vector["element"], vector["version"])
    assert (back.header.etag, back.form.path.hex()) == (vector["etag"], vector["path"])
    if not vector["name"].startswith("attributes"):
        assert back.form.encode().hex() == vector["form"]
        assert (len(plain), sha256(plain).hexdigest()) == (vector["plain_size"], vector["plain_sha256"])


def test_the_locked_kit_opens_to_the_same_keys() -> None:
    locked = parse_kit((HERE / "kit-locked.json").read_bytes(), name="kit-locked.json")
    assert isinstance(locked, LockedKit)
    assert locked.open(TOLD["passphrase"]) == kit()


def stranger(data: bytes, tmp_path: Path) -> subprocess.CompletedProcess[bytes]:
    (tmp_path / "object").write_bytes(data)
    command = ["node", STRANGER, HERE / "kit.json", tmp_path / "object", tmp_path / "form.json"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


@needs_node
@pytest.mark.parametrize("name", ["file-0", "file-65537", "padded", "symlink", "attributes", "folder"])
def test_a_stranger_opens_them_with_webcrypto_alone(name: str, tmp_path: Path) -> None:
    assert len(STRANGER.read_text().splitlines()) <= 80
    data = (HERE / f"{name}.sc2").read_bytes()
    mine = open_object(io.BytesIO(data), ring())
    done = stranger(data, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(mine.chunks)
    form = json.loads((tmp_path / "form.json").read_text())
    assert b64decode(form["path"]) == mine.form.path
    assert (form["kind"], int(form["mtime_ns"])) == (mine.form.kind, mine.form.mtime_ns)


@needs_node
def test_a_stranger_refuses_what_was_altered(tmp_path: Path) -> None:
    data = (HERE / "file-65537.sc2").read_bytes()
    begin = 146 + 256 + 28
    for damaged, reason in (
        (data[:-29], b"content"),
        (data[:begin] + data[-29:], b"content"),
        (data[:begin], b"content"),
        (data[:200] + b"\0" + data[201:], b"form"),
        (data[:90] + b"\0" + data[91:], b"commitment"),
    ):
        done = stranger(damaged, tmp_path)
        assert (done.returncode, done.stdout) == (4, b"")
        assert done.stderr == b"refused: " + reason + b"\n"


def test_the_recipe_opens_an_object_as_it_says(tmp_path: Path) -> None:
    page = recipe(parse_header((HERE / "file-65537.sc2").read_bytes()))
    assert len(page.splitlines()) < 80
    assert all(len(line) <= 120 for line in page.splitlines())
    (tmp_path / "open.py").write_text(PROGRAM)
    for name in ("file-0", "file-65537", "symlink"):
        vector = next(each for each in TOLD["objects"] if each["name"] == name)
        command = [sys.executable, "-I", tmp_path / "open.py", HERE / "kit.json", HERE / f"{name}.sc2"]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        assert sha256(done.stdout).hexdigest() == vector["plain_sha256"]
        assert done.stderr.decode() == f"{bytes.fromhex(vector['form'])!r}\n"
    data = (HERE / "file-1.sc2").read_bytes()
    for damaged in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], data[:-29], data + b"\0"):
        (tmp_path / "damaged").write_bytes(damaged)
        command = [sys.executable, "-I", tmp_path / "open.py", HERE / "kit.json", tmp_path / "damaged"]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert done.returncode
        assert done.stdout == b""


def test_a_recipe_shows_no_key() -> None:
    page = recipe(parse_header(list_form_bytes(TOLD["objects"][0]["list_form"])))
    vault = kit().vault
    assert vault is not None
    assert vault.id.hex() in page
    for secret in (*vault.masters, vault.id_key, vault.etag_key):
        assert secret.hex() not in page
