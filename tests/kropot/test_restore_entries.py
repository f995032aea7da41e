"""Everything comes back: folders, symlinks, hard links, sparse files, owners, attributes. Nothing follows a link."""

from __future__ import annotations

import json
import os
import pwd
import stat
from typing import TYPE_CHECKING

import pytest

from tests.kropot.entries_world import AS_ROOT, EntriesWorld, differences, make_tree
from tests.kropot.replay_cli import kept_in
from tests.kropot.sealed_world import kit_file
from tests.kropot.test_restore_faults import killed_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[EntriesWorld]:
    with kept_in(tmp_path, EntriesWorld) as made:
        yield made


@pytest.fixture
def kit(tmp_path: Path) -> str:
    return kit_file(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    make_tree(root)
    return root


@AS_ROOT
def test_rsync_finds_no_difference(world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path) -> None:
    world.take(world.source(None), tree)
    to = tmp_path / "to"
    answer = run("restore", "--key", kit, "--to", str(to))
    assert (answer.code, answer.err) == (0, "")
    assert differences(tree, to) == ""
    assert (to / "sparse").stat().st_blocks == (tree / "sparse").stat().st_blocks
    again = run("restore", "--key", kit, "--to", str(to))
    assert (again.code, again.err) == (0, "")
    assert differences(tree, to) == "", "a second run changes nothing"


@AS_ROOT
@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "docs/a.txt").chmod(0o600),
        lambda root: (root / "empty").rmdir(),
        lambda root: os.setxattr(root / "empty", "user.short", b"other"),
        lambda root: os.utime(root, (0, 0)),
        lambda root: os.chown(root / "to nowhere", 0, 0, follow_symlinks=False),
        lambda root: (root / "docs/link").unlink(),
    ],
)
def test_rsync_would_find_a_difference(tmp_path: Path, change: Callable[[Path], object]) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        make_tree(tmp_path / name)
    (tmp_path / "other/docs/deep/large.bin").write_bytes((tmp_path / "one/docs/deep/large.bin").read_bytes())
    os.utime(tmp_path / "other/docs/deep/large.bin", ns=(0, (tmp_path / "one/docs/deep/large.bin").stat().st_mtime_ns))
    assert differences(tmp_path / "one", tmp_path / "other") == ""
    change(tmp_path / "other")
    assert differences(tmp_path / "one", tmp_path / "other") != ""


def test_the_sum_names_folders_and_symlinks(
    world: EntriesWorld, run: Run, kit: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    world.take(world.source(None), tree)
    answer = run("restore", "--key", kit, "--to", "to")
    assert "restored 8 files, 6 folders, 3 symlinks to to" in answer.out
    listed = run("restore", "--key", kit, "--list-names").out
    assert "docs/to folder -> ../empty\n" in listed
    assert "docs/deep/\n" in listed
    assert run("restore", "--key", kit, "--to", "to", "--dry-run").out.count("already restored") == 17
    sums = json.loads(run("restore", "--key", kit, "--to", "to", "--json").out)
    assert (sums["restored"], sums["existed"], sums["findings"]) == (0, 17, 0)


# --- only a part -----------------------------------------------------------------------------------------------------


def names(to: Path) -> set[str]:
    return {str(path.relative_to(to)) for path in to.rglob("*")} - {"kropot-manifest.jsonl"}


def test_a_part_comes_with_the_folders_that_it_lies_in(
    world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path
) -> None:
    (tree / "docs").chmod(0o710)
    (tree / "docs-2").mkdir()
    (tree / "docs0").mkdir()
    world.take(world.source(None), tree)
    to = tmp_path / "to"
    assert run("restore", "--key", kit, "--to", str(to), "docs/deep/*.bin", "docs/to folder").code == 0
    assert names(to) == {"docs", "docs/deep", "docs/deep/large.bin", "docs/to folder"}
    for path in ("docs", "docs/deep"):
        assert stat.S_IMODE((to / path).stat().st_mode) == stat.S_IMODE((tree / path).stat().st_mode)
        assert (to / path).stat().st_mtime_ns == (tree / path).stat().st_mtime_ns


def test_a_folders_name_means_all_that_is_in_it(
    world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path
) -> None:
    world.take(world.source(None), tree)
    assert run("restore", "--key", kit, "--to", str(tmp_path / "to"), "docs", "empty").code == 0
    inside = {"docs/a.txt", "docs/link", "docs/to folder", "docs/deep", "docs/deep/large.bin"}
    assert names(tmp_path / "to") == {"docs", "empty"} | inside


def test_stdout_writes_files_alone(world: EntriesWorld, run: Run, kit: str, tree: Path) -> None:
    world.take(world.source(None), tree)
    assert run("restore", "--key", kit, "--stdout", "docs/a*").out == "hello"
    answer = run("restore", "--key", kit, "--stdout", "docs")
    assert (answer.code, answer.out) == (2, "")
    assert "docs is a folder" in answer.err


# --- what is there already -------------------------------------------------------------------------------------------


def test_nothing_is_written_through_a_symlink(
    world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path
) -> None:
    """One that was planted where a folder comes, and one of the source's own that leads outside."""
    outside, to = tmp_path / "outside", tmp_path / "to"
    outside.mkdir()
    to.mkdir()
    (to / "docs").symlink_to(outside)
    (tree / "out").symlink_to(outside)
    source = world.source(None)
    world.take(source, tree)
    world.seal(source, b"out/planted", b"data")
    answer = run("restore", "--key", kit, "--to", str(to))
    assert answer.code == 3
    assert "docs: something that is not a folder" in answer.err
    assert list(outside.iterdir()) == []
    assert (to / "docs").is_symlink()
    assert (to / "out").is_symlink()


def test_a_folder_of_somebody_else_keeps_its_mode(
    world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    to.mkdir()
    to.chmod(0o755)
    (to / "mine").write_bytes(b"mine")
    tree.chmod(0o700)
    world.take(world.source(None), tree)
    for _ in range(2):
        assert run("restore", "--key", kit, "--to", str(to)).code == 0
        assert stat.S_IMODE(to.stat().st_mode) == 0o755, "its owner did not give it up by restoring into it"


def test_a_changed_symlink_is_replaced_only_if_it_is_ours(
    world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    to.mkdir()
    (to / "to nowhere").symlink_to("mine")
    keys = world.take(world.source(None), tree)
    answer = run("restore", "--key", kit, "--to", str(to))
    assert answer.code == 3
    assert "to nowhere: a symlink with a different target has this name" in answer.err
    assert str((to / "to nowhere").readlink()) == "mine"
    assert run("restore", "--key", kit, "--to", str(to), "--overwrite", "always").code == 0
    assert str((to / "to nowhere").readlink()) == "/there is/nothing"
    (tree / "to nowhere").unlink()
    (tree / "to nowhere").symlink_to("elsewhere")
    world.take_again(keys[b"to nowhere"], tree, b"to nowhere")
    assert run("restore", "--key", kit, "--to", str(to)).code == 0
    assert str((to / "to nowhere").readlink()) == "elsewhere", "restore had written it"


def test_verify_only_compares_kinds_and_where_symlinks_lead(
    world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path
) -> None:
    world.take(world.source(None), tree)
    to = tmp_path / "to"
    assert run("restore", "--key", kit, "--to", str(to)).code == 0
    answer = run("restore", "--key", kit, "--to", str(to), "--verify-only")
    assert (answer.code, answer.err) == (0, "")
    (to / "empty").rmdir()
    (to / "docs/to folder").unlink()
    (to / "docs/to folder").symlink_to("elsewhere")
    (to / "to file").unlink()
    (to / "to file").write_bytes(b"hello")
    answer = run("restore", "--key", kit, "--to", str(to), "--verify-only")
    assert answer.code == 4
    told = {line.split(": ")[1]: line.split(": ")[2] for line in answer.err.splitlines()}
    assert told == {
        "empty": "the folder does not have it",
        "docs/to folder": "the symlink in the folder has a different target than in the backup",
        "to file": "the entry of this name in the folder is not a symlink",
    }


# --- what the target cannot hold -------------------------------------------------------------------------------------


def test_what_the_target_refuses_is_counted(
    world: EntriesWorld, run: Run, kit: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    world.take(world.source(None), tree)
    monkeypatch.setattr(os, "setxattr", refused)
    answer = run("restore", "--key", kit, "--to", str(tree.parent / "to"))
    assert (answer.code, answer.err) == (0, "")
    assert "without some of their extended attributes or ACLs: the target refused to set them" in answer.out


def test_another_user_than_root_is_told_that_owners_do_not_come_back(
    world: EntriesWorld, run: Run, kit: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.take(world.source(None), tree)
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    answer = run("restore", "--key", kit, "--to", str(tree.parent / "to"))
    assert (answer.code, answer.err) == (0, "")
    assert "15  now owned by you: only root can restore their owners" in answer.out
    assert stat.S_IMODE((tree.parent / "to/none").stat().st_mode) == 0o755, "who runs it is not who owned it"
    assert stat.S_IMODE((tree.parent / "to/shared").stat().st_mode) == 0o1777


@AS_ROOT
def test_owners_come_by_name_and_on_request_by_number(world: EntriesWorld, run: Run, kit: str, tmp_path: Path) -> None:
    world.seal(world.source(None), b"a", b"data", uid=12_345, gid=12_346, user=b"nobody", group=b"no such group")
    nobody = pwd.getpwnam("nobody").pw_uid
    for options, owner in (((), (nobody, 12_346)), (("--numeric-owner",), (12_345, 12_346))):
        to = tmp_path / f"to{len(options)}"
        assert run("restore", "--key", kit, "--to", str(to), *options).code == 0
        assert ((to / "a").stat().st_uid, (to / "a").stat().st_gid) == owner


# --- hard links ------------------------------------------------------------------------------------------------------


def test_names_of_one_file_with_other_contents_become_files_of_their_own(
    world: EntriesWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    """The collector had only one of them when the file changed."""
    source, group = world.source(None), b"g" * 16
    for name, content in ((b"a", b"old"), (b"b", b"new"), (b"c", b"old")):
        world.seal(source, name, content, link_group=group)
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert (answer.code, answer.err) == (0, "")
    assert "written as separate files: they were hard links to one file" in answer.out
    assert {name: (tmp_path / "to" / name).read_bytes() for name in "abc"} == {"a": b"old", "b": b"new", "c": b"old"}


def test_a_target_without_hard_links_gets_files(
    world: EntriesWorld, run: Run, kit: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    world.take(world.source(None), tree)
    monkeypatch.setattr(os, "link", refused)
    answer = run("restore", "--key", kit, "--to", str(tree.parent / "to"))
    assert (answer.code, answer.err) == (0, "")
    assert "2  written as separate files: they were hard links to one file" in answer.out
    assert (tree.parent / "to/closed/other link").read_bytes() == b"hello"


def test_a_name_that_was_lost_becomes_a_link_again(
    world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path
) -> None:
    world.take(world.source(None), tree)
    to = tmp_path / "to"
    linked = ("docs/a.txt", "docs/link", "closed/other link")
    for lost in linked:
        assert run("restore", "--key", kit, "--to", str(to)).code == 0
        assert len({(to / name).stat().st_ino for name in linked}) == 1
        (to / lost).unlink()


# --- a run that is stopped -------------------------------------------------------------------------------------------


def test_a_second_run_goes_on_wherever_the_first_was_killed(
    world: EntriesWorld, run: Run, kit: str, tree: Path, tmp_path: Path
) -> None:
    """Every 17th step, and at its end everything is as after a run that nothing disturbed."""
    for path in ("docs/deep/large.bin", "many holes", "sparse"):
        (tree / path).unlink()
    world.take(world.source(None), tree)
    for call in range(1, 10_000, 17):
        to = tmp_path / f"to {call}"
        was_killed = killed_at(call, lambda to=to: run("restore", "--key", kit, "--to", str(to)))  # type: ignore[misc]
        answer = run("restore", "--key", kit, "--to", str(to))
        assert (answer.code, answer.err) == (0, "")
        assert differences(tree, to) == ""
        if not was_killed:
            break
    else:
        raise AssertionError("the first run never came to its end")
