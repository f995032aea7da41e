"""What a gateway leaves out, counts and tells: by patterns, by marks, and because it cannot be served."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import asdict

from kropot.gateway.selection import named, selection_from
from kropot.gateway.sources import FolderSource, NotServedError, ScannedFile, Skipped, Unreadable
from ledger.events import Unserved
from tests.gateway.serve import Served

if TYPE_CHECKING:
    from pathlib import Path

CACHE = b"Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n"
NOTHING = dict.fromkeys(Unserved.__struct_fields__, 0)


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def tree(root: Path, **chosen: Any) -> FolderSource:
    place = selection_from(environ={}, **chosen).at(named(root))
    return FolderSource(os.fsencode(root), place=place)


def walked(source: FolderSource) -> tuple[set[bytes], set[bytes]]:
    """Return the paths that a walk serves, and those that it says are excluded."""
    items = list(source.walk())
    assert not [item for item in items if isinstance(item, Unreadable)]
    served = {item.path for item in items if isinstance(item, ScannedFile)}
    return served, {item.path for item in items if isinstance(item, Skipped) and item.kind == "excluded"}


def test_an_excluded_folder_is_one_entry_and_nothing_below_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a", "b.o", "node_modules/x/y", "src/node_modules/z", "src/c")
    source = tree(tmp_path, excludes=["node_modules", "*.o"])
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *args, **more: (opened.append(path), real(path, *args, **more))[1])
    assert walked(source) == ({b"a", b"src/c"}, {b"b.o", b"node_modules", b"src/node_modules"})
    assert "node_modules" not in opened


def test_includes_are_kept_to_and_only_folders_that_may_hold_them_are_entered(tmp_path: Path) -> None:
    write(tmp_path, "a", "docs/a.md", "docs/b.txt", "docs/deep/c.md", "other/x/d.md", "e.md")
    source = tree(tmp_path, includes=[f"{tmp_path}/docs/**/*.md", f"{tmp_path}/e.md"], excludes=["c.md"])
    assert walked(source) == (
        {b"docs/a.md", b"e.md"},
        {b"a", b"docs/b.txt", b"docs/deep/c.md", b"other"},
    )
    assert source.look(b"other/x/d.md") is None
    assert source.look(b"docs/a.md") is not None


def test_deep_folders_are_excluded_as_others(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 40)
    write(tmp_path, f"{deep}/keep", f"{deep}/skip/x", f"{deep}/e.o")
    (tmp_path / deep / ".nobackup").touch()
    below = os.fsencode(deep)
    assert walked(tree(tmp_path, excludes=[f"{tmp_path}/**/skip", "*.o"])) == (
        {below + b"/keep", below + b"/.nobackup"},
        {below + b"/skip", below + b"/e.o"},
    )
    assert walked(tree(tmp_path, marks=[".nobackup"]))[0] == {below + b"/.nobackup"}


def test_marks_exclude_the_rest_of_their_folder(tmp_path: Path) -> None:
    write(tmp_path, "cache/x", "cache/sub/y", "fake/z", "link/z", "named/w", "headed/v", "other/u")
    (tmp_path / "cache/CACHEDIR.TAG").write_bytes(CACHE)
    (tmp_path / "fake/CACHEDIR.TAG").write_bytes(CACHE[1:])
    (tmp_path / "link/CACHEDIR.TAG").symlink_to("../cache/CACHEDIR.TAG")
    (tmp_path / "named/.nobackup").mkdir()
    (tmp_path / "headed/TAG").write_text("keep out: yes")
    (tmp_path / "other/TAG").write_text("keep out")
    source = tree(tmp_path, caches=True, marks=[".nobackup", "TAG:keep out:"])
    served, excluded = walked(source)
    assert served == {b"cache/CACHEDIR.TAG", b"fake/CACHEDIR.TAG", b"fake/z", b"link/z", b"headed/TAG"} | {
        b"link/CACHEDIR.TAG",
        b"other/TAG",
        b"other/u",
    }
    assert excluded == {b"cache/x", b"cache/sub", b"named/w", b"headed/v"}
    for path in (b"cache/x", b"cache/sub/y", b"named/w", b"headed/v"):
        assert source.look(path) is None
    assert source.look(b"cache/CACHEDIR.TAG") is not None


@pytest.mark.parametrize("target", ["secret/key", "secret", "cache/x", "deep/../secret/key", "alias"])
def test_no_symlink_leads_to_what_is_excluded(tmp_path: Path, target: str) -> None:
    write(tmp_path, "secret/key", "cache/x", "deep/y", "open")
    (tmp_path / "cache/CACHEDIR.TAG").write_bytes(CACHE)
    (tmp_path / "alias").symlink_to(tmp_path / "secret" / "key")
    (tmp_path / "way").symlink_to(target)
    source = tree(tmp_path, excludes=["secret"], caches=True)
    assert b"way" not in walked(source)[0]
    with pytest.raises(NotServedError):
        source.open(b"way")
    (tmp_path / "fine").symlink_to("open")
    assert source.look(b"fine") == source.look(b"open")


def test_everything_that_is_not_served_is_counted_and_told_in_every_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "source"
    write(root, "a", "b.o", "c.o", "junk/x", "junk/y", "locked")
    (root / "locked").chmod(0o600)
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as heard:
        monkeypatch.chdir(root)
        heard.bind("socket")
        (root / "link").symlink_to("/etc/hostname")
        (root / "loop").symlink_to("loop")
        real = os.access
        monkeypatch.setattr(os, "access", lambda path, *args, **more: path != "locked" and real(path, *args, **more))
        with Served(tmp_path, selection=selection_from(excludes=["*.o", "junk"], environ={})) as served:
            client = served.client()
            assert set(client.ids()) == {b"a", b"locked"}, "a file that cannot be read is listed: somebody notices"
            told = client.page().unserved
            assert told is not None
            expected = {"sockets": 1, "pipes": 1, "links": 2, "excluded": 3, "unreadable": 1}
            assert asdict(told) == {**NOTHING, **expected}
            assert client.page().unscanned_since is None
    with Served(tmp_path, moved=True) as again:
        told = again.client().page().unserved
        assert told is not None
        assert told.excluded == 0


def test_devices_are_counted(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "null", 0o020666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device")
    assert Skipped(path=b"null", kind="devices") in list(tree(tmp_path).walk())


def test_unsettled_files_are_counted_until_they_settle(tmp_path: Path) -> None:
    write(tmp_path / "source", "a")
    clock = [(tmp_path / "source" / "a").stat().st_ctime_ns]
    with Served(tmp_path, clock_ns=lambda: clock[0]) as served:
        assert served.client().page().unserved == Unserved(**{**NOTHING, "unsettled": 1})
        clock[0] += 10 * 10**9
        served.server.rescan()
        assert served.client().page().unserved == Unserved(**NOTHING)


def test_what_is_newly_excluded_leaves_the_list_and_can_no_longer_be_fetched(tmp_path: Path) -> None:
    write(tmp_path / "source", "keep", "drop/a", "drop/b")
    with Served(tmp_path) as served:
        client = served.client()
        ids = client.ids()
        token = client.token
    assert len(ids) == 3
    with Served(tmp_path, selection=selection_from(excludes=["drop"], environ={})) as served:
        client.url = served.server.url
        assert client.token == token
        assert set(client.ids()) == {b"keep"}
        assert client.get(f"/secure-copy/file/{ids[b'drop/a']}/content").status_code == 404
        assert client.get(f"/secure-copy/file/{ids[b'drop/a']}/submitdata").status_code == 404
        assert client.content(ids[b"keep"]).plain == b"keep"


def test_what_was_told_is_still_told_after_a_restart_and_an_exchanged_folder_is_an_alarm(tmp_path: Path) -> None:
    root = tmp_path / "source"
    write(root, "a")
    (root / "link").symlink_to("/")
    with Served(tmp_path) as served:
        assert served.client().page().unserved is not None
        service = served.server.service
        root.rename(tmp_path / "away")
        root.mkdir()
        report = served.server.rescan()
        assert report.misplaced
        page = served.client().page()
        assert page.unscanned_since is not None, "an unmounted disk is told"
        assert [each.path for each in service.tree.walk()] == [b""], "the bare mount point"
        root.rmdir()
        (tmp_path / "away").rename(root)
        served.rest()
        page = served.client().page()
        assert (page.unscanned_since, page.unserved) == (None, Unserved(**{**NOTHING, "links": 1}))
        kept = service.state.unserved()
    assert kept is not None
    assert b'"links": 1' in kept
