"""Tokens of sc2: what is listed, what is sent, and which key seals which version."""

from __future__ import annotations

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from kropot.gateway.accepts import names_media_type
from kropot.gateway.sources import NotServedError
from kropot.sc2.layout import CHUNK, MEDIA_TYPE, padded_content_size
from kropot.sc2.opening import open_list_form
from kropot.sc2.refused import NoKeyError
from kropot.sc2.vault import keyring
from tests.gateway.serve import ADMIN, PADDED, PLAIN, SEALED, SETTLE_S, VAULTED, Client, Served, VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BIG = os.urandom(3 * CHUNK + 77)
FILES = {b"one": b"1", b"empty": b"", b"big": BIG, b"deep/er/\xff name": b"x" * CHUNK}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Served(tmp_path, hash_up_to=CHUNK)
    for path, content in FILES.items():
        place = gateway.folder / os.fsdecode(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    with gateway:
        gateway.rest()
        yield gateway


def keep_kit_at(path: Path) -> Callable[[Any], Path]:
    def keep(kit: Any) -> Path:
        path.write_bytes(kit.encode())
        return path

    return keep


@pytest.mark.parametrize("spec", [VAULTED, PADDED], ids=["as long as it is", "padded"])
def test_every_file_is_listed_and_sent_as_what_it_is(served: Served, spec: dict[str, Any]) -> None:
    client = served.vault_client(spec)
    listed = client.listed()
    assert listed.keys() == FILES.keys()
    for path, (entry, found) in listed.items():
        assert entry.id == client.vault.element(path).hex()
        pulled = client.object(entry.id)
        assert pulled.plain == FILES[path]
        assert found.header == pulled.header
        assert pulled.header.vault == client.vault.id
        assert pulled.header.source == served.server.service.source.uid
        assert (entry.etag, entry.size) == (pulled.response.headers["etag"], len(pulled.sealed))
        assert found.form == pulled.form
        status = (served.folder / os.fsdecode(path)).stat()
        assert (found.form.size, found.form.mtime_ns) == (status.st_size, status.st_mtime_ns)
        assert found.form.mode == status.st_mode & 0o7777
        assert (found.form.sha256 is None) == (len(FILES[path]) > CHUNK)
        if spec is PADDED:
            assert found.form.padded_length == padded_content_size(len(FILES[path]))
            assert entry.size >= 256 + 256
    head = client.session.head(f"{client.url}/secure-copy/file/{listed[b'big'][0].id}/content", timeout=20)
    assert (head.status_code, head.headers["content-length"]) == (200, str(listed[b"big"][0].size))
    answer = client.get(f"/secure-copy/file/{listed[b'one'][0].id}/submitdata").json()["object"]
    assert (answer["etag"], answer["size"]) == (listed[b"one"][0].etag, listed[b"one"][0].size)
    assert b"deep" not in client.get("/secure-copy/file/list").content
    header = client.get("/secure-copy/file/list").content.partition(b"\n\n")[0]
    assert b'"vault":"' + client.vault.id.hex().encode() + b'"' in header
    assert b"vault" not in served.client().get("/secure-copy/file/list").content.partition(b"\n\n")[0]


@pytest.mark.parametrize(
    ("accept", "is_named"),
    [
        (None, False),
        ("*/*", False),
        ("application/*", False),
        ("application/octet-stream", False),
        (f"{MEDIA_TYPE}x", False),
        (f"{MEDIA_TYPE};q=0", False),
        (f"{MEDIA_TYPE}; q = 0.000", False),
        (MEDIA_TYPE, True),
        (f"text/html, {MEDIA_TYPE.upper()} ; q=0.1,", True),
    ],
)
def test_sc2_is_sent_only_to_whoever_names_it(accept: str | None, *, is_named: bool) -> None:
    headers = [(b"host", MEDIA_TYPE.encode())] + ([] if accept is None else [(b"accept", accept.encode())])
    assert names_media_type(headers, MEDIA_TYPE) is is_named


def test_a_client_of_2020_sees_an_encrypted_source_and_gets_a_sentence(served: Served) -> None:
    client = served.vault_client()
    client.session.headers["Accept"] = "*/*"
    for method in ("GET", "HEAD"):
        answer = client.session.request(
            method, f"{client.url}/secure-copy/file/{client.ids()[b'one']}/content", timeout=20
        )
        assert answer.status_code == 406
        assert answer.headers["content-type"] == "application/json"
    assert MEDIA_TYPE in client.get(f"/secure-copy/file/{client.ids()[b'one']}/content").json()["status"]


def test_any_range_begins_anywhere_also_after_a_restart(served: Served, tmp_path: Path) -> None:
    client = served.vault_client()
    element = client.ids()[b"big"]
    whole = client.object(element)
    tag, size = whole.response.headers["etag"], len(whole.sealed)
    served.__exit__(None, None, None)
    with Served(tmp_path, hash_up_to=CHUNK) as again:
        client.url = again.server.url
        for start in (0, 1, 143, 145, 430, 500, CHUNK, 2 * CHUNK + 1, size - 1):
            answer = client.get(
                f"/secure-copy/file/{element}/content", headers={"Range": f"bytes={start}-", "If-Range": tag}
            )
            assert (answer.status_code, answer.content) == (206, whole.sealed[start:]), start
            assert answer.headers["etag"] == tag
        other = client.get(f"/secure-copy/file/{element}/content", headers={"Range": "bytes=5-", "If-Range": '"x"'})
        assert (other.status_code, other.content) == (200, whole.sealed)
        assert client.object(client.ids()[b"one"]).plain == b"1"


def test_a_change_of_metadata_alone_names_the_same_version(served: Served) -> None:
    client = served.vault_client()
    before = {path: (entry, found, client.object(entry.id)) for path, (entry, found) in client.listed().items()}
    (served.folder / "one").chmod(0o640)
    os.utime(served.folder / "one", ns=(5, 1_700_000_000_000_000_000))
    (served.folder / "big").chmod(0o600)
    served.rest()
    after = client.listed()
    entry, found = after[b"one"]
    assert entry.date > before[b"one"][0].date
    assert (entry.etag, entry.size) == (before[b"one"][0].etag, before[b"one"][0].size)
    assert found.header == before[b"one"][1].header
    assert (found.form.mode, found.form.mtime_ns) == (0o640, 1_700_000_000_000_000_000)
    assert client.object(entry.id).sealed == before[b"one"][2].sealed, "the form in the object is that of its birth"
    # It was sent whole before, so its SHA-256 is known: the bytes decide for large files as well.
    assert after[b"big"][0].etag == before[b"big"][0].etag
    assert after[b"big"][1].form.mode == 0o600


def test_a_hash_that_nobody_knows_means_a_new_version(served: Served) -> None:
    client = served.vault_client()
    before = client.listed()[b"big"][1].header.version
    (served.folder / "big").chmod(0o600)
    served.rest()
    assert client.listed()[b"big"][1].header.version != before


@pytest.mark.parametrize("scanned", [True, False], ids=["after a scan", "before the scan"])
def test_other_bytes_are_another_version(served: Served, *, scanned: bool) -> None:
    client = served.vault_client()
    entry, found = client.listed()[b"one"]
    (served.folder / "one").write_bytes(b"2")
    if scanned:
        served.rest()
    pulled = client.object(entry.id)
    assert pulled.plain == b"2"
    assert pulled.header.version != found.header.version
    assert client.object(entry.id).sealed == pulled.sealed, "its birth was kept"
    served.rest()
    assert client.listed()[b"one"][0].etag == pulled.response.headers["etag"]


def test_a_new_token_of_the_vault_goes_on_where_the_old_one_is(served: Served) -> None:
    first = served.vault_client()
    other, padded = served.vault_client(), served.vault_client(PADDED, first.vault.id.hex()[:6])
    before = first.listed()
    again = served.vault_client(vault=first.vault.id.hex().upper())
    assert again.vault == first.vault
    assert again.token != first.token
    assert again.listed() == before
    assert again.object(before[b"big"][0].id).sealed == first.object(before[b"big"][0].id).sealed
    assert padded.ids() == first.ids()
    assert not {entry.etag for entry, _ in padded.listed().values()} & {entry.etag for entry, _ in before.values()}
    # Two keepers with two vaults have nothing in common but the source.
    theirs = other.listed()
    for part in ("element", "version", "key_id", "commitment", "vault"):
        ours = {getattr(found.header, part) for _, found in before.values()}
        assert not ours & {getattr(found.header, part) for _, found in theirs.values()}, part


def test_a_new_master_seals_what_is_born_from_then_on(served: Served, tmp_path: Path) -> None:
    client = served.vault_client()
    before = client.listed()
    objects = {path: client.object(entry.id).sealed for path, (entry, _) in before.items()}
    book = served.server.service.book
    held, path = book.vaults.rotate(client.vault.id.hex()[:8], keep_kit_at(tmp_path / "kit"))
    assert path.exists()
    assert held.vault.masters[:-1] == client.vault.masters
    (served.folder / "new").write_bytes(b"new")
    (served.folder / "one").write_bytes(b"other")
    served.rest()
    time.sleep(1.1)
    newer = VaultClient(client.url, client.token, served.server.create_vault_token(VAULTED, held.vault.id.hex())[1])
    after = newer.listed()
    for name in (b"big", b"empty"):
        assert after[name][0].etag == before[name][0].etag
        assert client.object(after[name][0].id).sealed == objects[name], "nothing is fetched again"
    for name in (b"new", b"one"):
        assert after[name][1].header.key_id == held.vault.key_ids[-1]
        assert newer.object(after[name][0].id).plain == (served.folder / os.fsdecode(name)).read_bytes()
        with pytest.raises(NoKeyError):
            client.object(after[name][0].id)
    assert newer.object(after[b"big"][0].id).plain == BIG, "the new kit opens all"


def test_an_older_copy_of_the_database_brings_no_retired_master_back(served: Served, tmp_path: Path) -> None:
    client = served.vault_client()
    old = client.listed()
    database = tmp_path / "state" / "gateway.db"
    with closing(sqlite3.connect(database)) as at:
        [(kept,)] = at.execute("SELECT sealed FROM gateway_vault").fetchall()
    book = served.server.service.book
    book.vaults.rotate(client.vault.id.hex(), keep_kit_at(tmp_path / "kit"))
    with closing(sqlite3.connect(database)) as at, at:
        at.execute("UPDATE gateway_vault SET sealed = ?", (kept,))
    time.sleep(1.1)
    assert client.listed() == old, "what was born before is sealed as before"
    (served.folder / "one").write_bytes(b"secret from whoever has the old kit")
    served.rest()
    assert client.get("/secure-copy/file/list").status_code == 503
    assert client.get(f"/secure-copy/file/{old[b'one'][0].id}/content").status_code == 503
    held, _ = book.vaults.rotate(client.vault.id.hex(), keep_kit_at(tmp_path / "newer kit"))
    time.sleep(1.1)
    answer = client.page(limit=8191).entries
    ring = keyring([held.vault])
    found = {form.form.path: form for each in answer if (form := open_list_form(_text(each), ring))}
    assert found[b"one"].header.key_id == held.vault.key_ids[-1]


def _text(entry: Any) -> str:
    return str(entry.form.decode().split('"')[3])


def test_long_births_are_not_remembered(served: Served) -> None:
    """A folder of long names, or of large attributes, would fill the memory otherwise."""
    folder = served.folder
    for _ in range(15):
        folder = folder / ("n" * 250)
    folder.mkdir(parents=True)
    (folder / ("f" * 200)).write_bytes(b"far away")
    served.rest()
    client = served.vault_client()
    [path] = [path for path in client.ids() if path.endswith(b"f" * 200)]
    for _ in range(2):
        assert client.object(client.ids()[path]).plain == b"far away"
    app = served.server.service.app
    kept = {row.path: row.birth for row in app._contents._recent._rows.values()}
    assert kept.keys() > FILES.keys()
    assert [each for each, birth in kept.items() if birth is None] == [path]
    assert {birth.form.path for birth in app._births._recent.values()} == kept.keys() - {path}


def test_racing_lists_agree_on_one_form_of_each_version(served: Served) -> None:
    client = served.vault_client()
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda _: client.get("/secure-copy/file/list").content, range(16)))
    assert len(set(pages)) == 1
    element = client.ids()[b"one"]
    (served.folder / "one").write_bytes(b"2")
    time.sleep(2 * SETTLE_S)
    with ThreadPoolExecutor(8) as pool:
        assert len({each.sealed for each in pool.map(lambda _: client.object(element), range(16))}) == 1


@pytest.mark.parametrize("forged", ["form", "key", "nothing", "of another file"])
def test_whoever_writes_the_database_chooses_no_form_and_no_key(served: Served, tmp_path: Path, forged: str) -> None:
    client = served.vault_client()
    listed = client.listed()
    before = client.object(listed[b"one"][0].id)
    with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at, at:
        births = dict(at.execute("SELECT mark, birth FROM gateway_element").fetchall())
        mark, other = (bytes.fromhex(listed[name][0].id)[:16] for name in (b"one", b"empty"))
        birth = births[mark]
        put = {
            "form": birth.replace(b"\xcd\x01\xa4", b"\xcd\x01\xff"),
            "key": birth[:48] + bytes(8) + birth[56:],
            "nothing": None,
            "of another file": birth[:16] + births[other][16:],
        }[forged]
        assert put != birth
        at.execute("UPDATE gateway_element SET birth = ? WHERE mark = ?", (put, mark))
    served.server.service.app._contents._recent._rows.clear()
    after = client.object(listed[b"one"][0].id)
    assert after.plain == b"1"
    assert after.header == before.header
    assert (after.form.path, after.form.mode, after.form.size) == (b"one", before.form.mode, 1)


def test_what_no_form_can_hold_does_not_hide_the_rest(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can write into the folder could stop all lists with one file otherwise."""
    os.utime(served.folder / "one", (0, 10**10))
    assert (served.folder / "one").stat().st_mtime_ns > 2**63
    with (served.folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr("kropot.sc2.form.MAX_CONTENT", 1 << 39)
    monkeypatch.setattr("kropot.gateway.describing._holes", lambda *_: ())
    served.rest()
    client = served.vault_client()
    listed = client.listed()
    assert listed.keys() == FILES.keys()
    assert listed[b"one"][1].form.mtime_ns is None
    with pytest.raises(NotServedError):
        served.server.service.app._births.of(
            served.server.service.book.find(client.token),  # type: ignore[arg-type]
            bytes(16),
            next(iter(served.server.service.state.page(None, 1)[0])),
        )


def test_the_longest_path_is_served_and_a_longer_one_is_not(tmp_path: Path) -> None:
    gateway = Served(tmp_path)
    descriptor = os.open(gateway.folder, os.O_RDONLY)
    for _ in range(16):
        os.mkdir("d" * 254, dir_fd=descriptor)
        inner = os.open("d" * 254, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    for name in ("n" * 15, "n" * 16):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    with gateway:
        client = gateway.vault_client()
        [path] = client.ids()
        assert len(path) == 4095
        assert client.object(client.ids()[path]).plain == b""


def test_the_keys_rest_sealed_and_bound_to_their_vault(served: Served, tmp_path: Path) -> None:
    first, second = served.vault_client(), served.vault_client()
    first.listed()
    served.__exit__(None, None, None)
    folder = tmp_path / "state"
    kept = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    for vault in (first.vault, second.vault):
        for key in (vault.id_key, vault.etag_key, *vault.masters):
            assert key not in kept
            assert key.hex().encode() not in kept
    with closing(sqlite3.connect(folder / "gateway.db")) as at, at:
        one, two = at.execute("SELECT sealed FROM gateway_vault ORDER BY number").fetchall()
        at.execute("UPDATE gateway_vault SET sealed = ? WHERE number = 1", two)
        at.execute("UPDATE gateway_vault SET sealed = ? WHERE number = 2", one)
    with Served(tmp_path) as again:
        first.url = again.server.url
        assert first.get("/secure-copy/file/list").status_code == 503


@pytest.mark.parametrize("schema", [b"1", b"2"])
def test_a_database_of_before_is_upgraded_and_serves_old_and_new_tokens(tmp_path: Path, schema: bytes) -> None:
    gateway = Served(tmp_path)
    (gateway.folder / "one").write_bytes(b"1")
    with gateway:
        gateway.rest()
        client = gateway.client()
        before = client.content(client.ids()[b"one"])
    with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at, at:
        at.execute("DROP TABLE gateway_vault")
        at.execute("ALTER TABLE gateway_element DROP COLUMN birth")
        for column in ("origin", "seal", "restless_s") if schema == b"1" else ():
            at.execute(f"ALTER TABLE gateway_file DROP COLUMN {column}")
        at.execute("UPDATE gateway_meta SET value = ? WHERE name = 'schema'", (schema,))
    for _ in range(2):
        with Served(tmp_path) as again:
            old = Client(again.server.url, client.token, client.kit)
            assert old.content(old.ids()[b"one"]).sealed == before.sealed
            new = again.vault_client()
            assert new.object(new.ids()[b"one"]).plain == b"1"


def test_over_http_only_the_method_makes_a_token_of_sc2(served: Served, tmp_path: Path) -> None:
    admin = served.client(ADMIN)

    def ask(spec: dict[str, Any]) -> Any:
        return admin.session.post(f"{admin.url}/auth/token/generate", json=spec, timeout=20).json()

    plain = ask(PLAIN)
    assert "kit" not in plain
    assert plain["token"]["data"]["secureCopyEncryptionMethod"] == ""
    assert "padding" not in plain["token"]["data"]
    made = ask(PADDED)
    assert made["token"]["data"]["padding"] == "padme"
    kit = (tmp_path / "state" / "kits").joinpath(made["kit"].rpartition("/")[2]).read_text()
    assert '"format":"kropotcli-kit-v2"' in kit
    assert not [word for word in kit.split('"') if len(word) == 64 and word in str(made)]
    for spec, field in (
        ({**SEALED, "data": {**SEALED["data"], "padding": "padme"}}, "form.data.padding"),  # type: ignore[dict-item]
        ({**PADDED, "data": {**PADDED["data"], "padding": "round"}}, "form.data.padding"),  # type: ignore[dict-item]
        ({**PADDED, "data": {**PADDED["data"], "padding": ["padme"]}}, "form.data.padding"),  # type: ignore[dict-item]
        ({**VAULTED, "data": {**VAULTED["data"], "secureCopyDigestSalt": "salt"}}, "form.data.secureCopyDigestSalt"),  # type: ignore[dict-item]
    ):
        assert list(ask(spec)["fields"]) == [field]
