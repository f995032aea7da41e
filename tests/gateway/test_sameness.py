"""The bytes decide whether a content is the same, not the inode: what is the same is neither sent nor sealed again.

And the other way round: one IV never seals two contents, not even for somebody who can write the gateway's database.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kropot.gateway.keys import MasterKey
from kropot.gateway.sources import FolderSource, Seen
from tests.gateway.serve import KEY, SETTLE_S, Client, Pulled, Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL, LARGE = b"s" * 3000, os.urandom(1 << 20)
HASH_UP_TO = 100_000
"""Files above this many bytes are hashed only in doubt."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Served(tmp_path, hash_up_to=HASH_UP_TO)
    (gateway.folder / "small").write_bytes(SMALL)
    (gateway.folder / "large").write_bytes(LARGE)
    os.utime(gateway.folder / "large", (1_700_000_000, 1_700_000_000))
    with gateway:
        gateway.rest()
        yield gateway


def look(client: Client) -> dict[bytes, tuple[int, str | None, str, bytes]]:
    """Return date, tag, IV and sealed bytes of every file."""
    ids = client.ids()
    dates = {entry.id: (entry.date, entry.etag) for entry in client.page(limit=8191).entries}
    pulled: dict[bytes, Pulled] = {path: client.content(id_) for path, id_ in ids.items()}
    return {path: (*dates[ids[path]], pulled[path].iv or "", pulled[path].sealed) for path in ids}


def chmod(path: Path) -> None:
    path.chmod(0o640)


def link(path: Path) -> None:
    os.link(path, path.parent.parent / f"link to {path.name}")


def replace_by_a_copy(path: Path) -> None:
    """As a restore on the server's side does it: another inode, and everything else as it was."""
    before = path.stat()
    copy = path.parent.parent / "copy"
    copy.write_bytes(path.read_bytes())
    copy.chmod(before.st_mode)
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy.replace(path)


def touch(path: Path) -> None:
    os.utime(path)


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("change", [chmod, link, replace_by_a_copy])
def test_what_only_looks_different_keeps_tag_iv_and_bytes(
    served: Served, name: str, change: Callable[[Path], None]
) -> None:
    client = served.client()
    before = look(client)
    change(served.folder / name)
    served.rest()
    after = look(client)
    key = name.encode()
    assert after[key][1:] == before[key][1:]
    # Only what stands in a form is news. The forms of sc2 name the group of a hard link.
    assert (after[key][0] > before[key][0]) == (change in {chmod, link})
    form = client.form(next(entry for entry in client.page(limit=10).entries if entry.id == client.ids()[key]))
    assert (form["mode"] == 0o640) == (change is chmod)
    other = b"large" if name == "small" else b"small"
    assert after[other] == before[other]


def test_a_touched_small_file_is_read_and_its_content_is_the_same(served: Served) -> None:
    client = served.client()
    before = look(client)[b"small"]
    touch(served.folder / "small")
    served.rest()
    after = look(client)[b"small"]
    assert after[1:] == before[1:]
    assert after[0] > before[0], "its form has another mtime"


@pytest.mark.parametrize("asks_first", [True, False], ids=["asked before the scan", "scanned first"])
def test_a_file_system_under_another_device_number_changes_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, *, asks_first: bool
) -> None:
    client = served.client()
    before = look(client)
    served.server.rescan()
    real = Seen.identity.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Seen, "identity", property(lambda self: real(replace(self, dev=self.dev ^ 0xFF))))
    if asks_first:
        assert client.content(client.ids()[b"small"]).sealed == before[b"small"][3]
        assert client.get(f"/secure-copy/file/{client.ids()[b'large']}/content").status_code == 503, "a scan reads it"
    report = served.server.rescan()
    assert (report.new, report.changed, report.gone) == (0, 0, 0)
    assert look(client) == before
    assert served.server.rescan().kept == 0, "it is known now"


@pytest.mark.parametrize("name", ["small", "large"])
def test_other_bytes_under_the_old_size_and_mtime_get_another_iv(served: Served, name: str) -> None:
    client = served.client()
    before = look(client)[name.encode()]
    path = served.folder / name
    was = path.stat()
    path.write_bytes(os.urandom(was.st_size))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    served.rest()
    after = look(client)[name.encode()]
    assert after[0] > before[0]
    assert not set(after[1:]) & set(before[1:])
    assert client.content(client.ids()[name.encode()]).plain == path.read_bytes()


@pytest.mark.parametrize("forged", ["sha256", "origin", "both", "replayed"])
def test_whoever_writes_the_database_gets_no_iv_for_two_contents(served: Served, tmp_path: Path, forged: str) -> None:
    """He knows the old row, the new bytes and everything but the master key."""
    client = served.client()
    path = served.folder / "small"
    chmod(path)
    served.rest()
    before = look(client)[b"small"]
    database = tmp_path / "state" / "gateway.db"
    old = row_of(database)
    path.write_bytes(b"t" * len(SMALL))
    time.sleep(2 * SETTLE_S)
    if forged != "replayed":
        served.server.rescan()
    now = row_of(database)
    put = dict(old)
    if forged in {"origin", "both"}:
        put |= {"origin": old["origin"] or old["identity"], "identity": now["identity"]}
    if forged in {"sha256", "both"}:
        put |= {"sha256": now["sha256"]}
    with closing(sqlite3.connect(database)) as at, at:
        at.execute(
            "UPDATE gateway_file SET nonce=:nonce, origin=:origin, identity=:identity, sha256=:sha256, seal=:seal "
            "WHERE path=:path",
            put,
        )
    for round_ in range(2):
        served.server.service.app._contents._recent._rows.clear()
        after = client.content(client.ids()[b"small"])
        assert after.plain == b"t" * len(SMALL)
        assert after.iv != before[2], round_
        served.server.rescan()


def row_of(database: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(database)) as at:
        at.row_factory = sqlite3.Row
        return dict(at.execute("SELECT * FROM gateway_file WHERE path = ?", (b"small",)).fetchone())


def test_a_database_of_the_first_schema_is_upgraded_in_place_and_lists_the_same(tmp_path: Path) -> None:
    gateway = Served(tmp_path)
    (gateway.folder / "small").write_bytes(SMALL)
    with gateway:
        gateway.rest()
        client = gateway.client()
        token, before = client.token, look(client)
    database = tmp_path / "state" / "gateway.db"
    with closing(sqlite3.connect(database)) as at, at:
        for column in ("origin", "seal", "restless_s"):
            at.execute(f"ALTER TABLE gateway_file DROP COLUMN {column}")
        at.execute("UPDATE gateway_meta SET value = ? WHERE name = 'schema'", (b"1",))
    for _ in range(2):
        with Served(tmp_path) as again:
            assert look(Client(again.server.url, token, client.kit)) == before
    # What it says of contents is believed only after it was read again, and then used.
    with Served(tmp_path) as again:
        chmod(again.folder / "small")
        again.rest()
        assert look(Client(again.server.url, token, client.kit))[b"small"][1:] == before[b"small"][1:]


def test_doubts_about_large_files_do_not_hold_up_the_news(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    look(served.client())
    chmod(served.folder / "large")
    (served.folder / "news").write_bytes(b"news")
    time.sleep(2 * SETTLE_S)
    catalogue = served.server.service.catalogue
    listed = []
    real = FolderSource.open

    def opened(self: FolderSource, path: bytes) -> tuple[int, Seen]:
        if path == b"large":
            listed.append({row.path for row in served.server.service.state.page(None, 10)[0]})
        return real(self, path)

    monkeypatch.setattr(FolderSource, "open", opened)
    assert catalogue.scan().new == 1
    assert listed == [{b"small", b"large", b"news"}] * 2, "its bytes, and its facts"


def test_the_seal_needs_the_master_key_and_covers_each_part() -> None:
    parts = (b"path", b"nonce", b"origin", b"identity", b"sha256")
    made = {MasterKey(KEY).vouch(*parts), MasterKey(bytes(32)).vouch(*parts)}
    for number in range(len(parts)):
        made.add(MasterKey(KEY).vouch(*(b"other" if n == number else part for n, part in enumerate(parts))))
    assert len(made) == len(parts) + 2
