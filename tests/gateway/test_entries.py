"""A token of sc2 is told of every kind of entry, and a tree of all kinds goes round. Others see files alone."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from kropot.sc2.form import Kind
from ledger.events import StreamKey
from tests.gateway.serve import PLAIN, Served
from tests.kropot.entries_world import AS_ROOT, EntriesWorld, differences, make_tree, paths_in
from tests.kropot.replay_cli import kept_in
from tests.kropot.replicas import wait_until
from tests.kropot.sealed_world import kit_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.gateway.serve import VaultClient
    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Served(tmp_path)
    make_tree(gateway.folder)
    with gateway:
        yield gateway


@pytest.fixture
def client(served: Served) -> VaultClient:
    made = served.vault_client()
    wait_until("the first scan", lambda: made.everything().keys() == set(paths_in(served.folder)))
    return made


@AS_ROOT
def test_a_tree_with_every_kind_of_entry_goes_round(
    served: Served, client: VaultClient, run: Run, tmp_path: Path
) -> None:
    """From the gateway's folder over HTTP into a replica, and from there into another folder."""
    to = tmp_path / "to"
    with kept_in(tmp_path, EntriesWorld) as world:
        source = world.source(None)
        for entry, found in client.everything().values():
            world.keep(StreamKey(source=source, kind="file", id=entry.id), entry.form, client.object(entry.id).sealed)
            assert found.header.element_id == entry.id
        answer = run("restore", "--key", kit_file(tmp_path, client.vault), "--to", str(to))
    assert (answer.code, answer.err) == (0, "")
    assert differences(served.folder, to) == ""
    assert (to / "sparse").stat().st_blocks == (served.folder / "sparse").stat().st_blocks


def test_other_tokens_are_told_of_files_alone_and_of_those_behind_symlinks(served: Served, client: VaultClient) -> None:
    kinds = {path: found.form.kind for path, (_, found) in client.everything().items()}
    files = {path for path, kind in kinds.items() if kind is Kind.FILE}
    plain = served.client(PLAIN)
    page = plain.page(limit=8191)
    assert plain.ids().keys() == files | {b"to file"}
    assert page.remaining == len(files) + 1
    assert client.page(limit=1).remaining == len(kinds)


def test_metadata_alone_is_listed_anew_and_nothing_is_sealed_anew(served: Served, client: VaultClient) -> None:
    before = client.everything()
    (served.folder / "empty/new").touch()
    os.setxattr(served.folder / "docs/a.txt", "user.new", b"1")
    os.utime(served.folder / "to nowhere", (5, 5), follow_symlinks=False)
    (served.folder / "closed").chmod(0o501)
    changed = (b"empty", b"docs/a.txt", b"to nowhere", b"closed")
    served.rest()
    wait_until("the change", lambda: all(client.everything()[path][0].form != before[path][0].form for path in changed))
    after = client.everything()
    assert {path for path in before if after[path][0].etag != before[path][0].etag} == set(), "nothing to fetch"
    assert dict(after[b"docs/a.txt"][1].form.xattrs)[b"user.new"] == b"1"
    assert after[b"closed"][1].form.mode == 0o501
    assert after[b"empty"][1].form.mtime_ns == (served.folder / "empty").stat().st_mtime_ns


def test_what_counts_as_content_is_a_new_version(served: Served, client: VaultClient) -> None:
    """Where a symlink leads, and attributes that are too large for a form."""
    before = client.everything()
    (served.folder / "to nowhere").unlink()
    (served.folder / "to nowhere").symlink_to("elsewhere")
    os.setxattr(served.folder / "many holes", "user.new", b"1")
    changed = (b"to nowhere", b"many holes")
    served.rest()
    wait_until("the change", lambda: all(client.everything()[path][0].etag != before[path][0].etag for path in changed))
    after = client.everything()
    assert client.object(after[b"to nowhere"][0].id).form.target == b"elsewhere"
    assert dict(client.object(after[b"many holes"][0].id).form.xattrs)[b"user.new"] == b"1"


def test_what_is_gone_leaves_the_list_and_what_became_something_else_stays(served: Served, client: VaultClient) -> None:
    shutil.rmtree(served.folder / "docs")
    (served.folder / "to nowhere").unlink()
    (served.folder / "none").unlink()
    (served.folder / "none").mkdir()
    served.rest()
    wait_until("the change", lambda: client.everything().keys() == set(paths_in(served.folder)))
    assert client.everything()[b"none"][1].form.kind is Kind.FOLDER
    assert client.page(limit=1).remaining == len(set(paths_in(served.folder)))


def test_an_object_is_the_same_from_any_byte_on(client: VaultClient) -> None:
    """Holes and large attributes included: the form of the version's birth decides."""
    entry, _ = client.everything()[b"many holes"]
    whole = client.object(entry.id)
    for start in (1, 5_000, len(whole.sealed) - 10):
        part = client.get(
            f"/secure-copy/file/{entry.id}/content", headers={"Range": f"bytes={start}-", "If-Range": entry.etag}
        )
        assert (part.status_code, part.content) == (206, whole.sealed[start:])
