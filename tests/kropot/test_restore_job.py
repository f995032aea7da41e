"""What was stored comes back under its own name, whole or not at all, and nothing else is touched."""

from __future__ import annotations

import base64
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kropot.durable.target import WORK, NameRules, TargetFolder
from kropot.errors import LockedError, UsageError, WrongKeyError
from kropot.replay.copies import StoredCopies, held_at
from kropot.replay.fold import walk
from kropot.replay.snapshots import pointers_at
from kropot.restore.claims import read_claim
from kropot.restore.export import JOURNAL, Exported, Links, Unexported, export, place_of
from kropot.restore.export import MANIFEST as EXPORT_MANIFEST
from kropot.restore.fingerprints import Fingerprints
from kropot.restore.job import Restored, restore
from kropot.restore.journal import Journal
from kropot.restore.names import NameGiver
from kropot.restore.patterns import Patterns
from kropot.restore.plan import Planned, RestoreCounts, RestoreProblem, Selection, plan
from kropot.restore.read_export import ExportedCopies
from kropot.sc2.kit import CbcKey
from tests.kropot.replay_world import KIT, OTHER_KIT, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kropot.replay.copies import Copies, HeldCopy
    from kropot.securecopy.sealing import Kit
    from ledger.events import StreamKey

MANIFEST = b"kropot-manifest.jsonl"


@contextmanager
def held_in(world: World, until: int | None = None) -> Iterator[Iterator[HeldCopy]]:
    position = world.ledger.head().position if until is None else until
    with pointers_at(world.ledger, position) as pointers:
        yield held_at(world.ledger, walk(world.ledger, pointers, position))


def give_back(
    helds: Iterator[HeldCopy],
    copies: Copies,
    to: Path,
    kits: list[Kit],
    *,
    patterns: tuple[str, ...] = (),
    vanished: bool = False,
    tally: RestoreCounts | None = None,
    moved: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, Restored], list[RestoreProblem]]:
    """Restore, and return what became of it by name."""
    done: dict[str, Restored] = {}
    findings: list[RestoreProblem] = []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(3))
        opened: list[tuple[TargetFolder, Journal]] = []

        def giver() -> NameGiver:
            tree = stack.enter_context(TargetFolder(to))
            opened.append((tree, stack.enter_context(Journal(tree, MANIFEST))))
            return NameGiver(tree.rules, Fingerprints(), (WORK, MANIFEST))

        wanted = Selection(patterns=Patterns(patterns), vanished=vanished)
        keys = [CbcKey(kit=kit) for kit in kits]
        plans = list(plan(helds, kits=keys, wanted=wanted, giver=giver, pool=pool, tally=tally or RestoreCounts()))
        if opened:
            tree, journal = opened[0]
            for outcome in restore(plans, copies=copies, tree=tree, journal=journal, pool=pool, moved=moved):
                if isinstance(outcome, Restored):
                    done[outcome.planned.shown] = outcome
                else:
                    findings.append(outcome)
        else:
            findings += [each for each in plans if isinstance(each, RestoreProblem)]
    return done, findings


def back(world: World, to: Path, kits: list[Kit] | None = None, *, until: int | None = None, **how: Any) -> Any:
    with held_in(world, until) as helds:
        return give_back(helds, StoredCopies(world.objects), to, [KIT] if kits is None else kits, **how)


def files(to: Path) -> dict[str, bytes]:
    """Return every file below a folder but the manifest, by its path."""
    found = {str(path.relative_to(to)): path for path in to.rglob("*") if path.is_file() and not path.is_symlink()}
    return {name: path.read_bytes() for name, path in found.items() if name != MANIFEST.decode()}


def manifest(to: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (to / MANIFEST.decode()).read_text().splitlines()]


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claimed", "mtime_ns"),
    [
        (1_600_000_000_123_456_789, 1_600_000_000_123_456_789),
        ("1600000000123456789", 1_600_000_000_123_456_789),
        ("-1", -1),
        ("1.5", None),
        ("1_000", None),
        ("\u0661", None),
        ("9" * 21, None),
        ("9" * 5000, None),
        (True, None),
    ],
)
def test_a_time_beyond_2_to_the_53_is_read_to_the_nanosecond(claimed: object, mtime_ns: int | None) -> None:
    form = json.dumps({"fileName": "a", "mtime_ns": claimed}).encode()
    assert read_claim(form, element_id="a").mtime_ns == mtime_ns


def test_files_come_back_with_folders_time_mode_and_content(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    world.put_path(source, b"docs/deep/report.txt", b"hello", mtime_ns=1_600_000_000_123_456_789, mode=0o100640)
    world.put(source, "flat.bin", b"x" * 100_000, date=1_700_000_000)
    umask = os.umask(0o027)
    try:
        done, findings = back(world, tmp_path / "to")
    finally:
        os.umask(umask)
    assert findings == []
    assert files(tmp_path / "to") == {"docs/deep/report.txt": b"hello", "flat.bin": b"x" * 100_000}
    report, flat = (tmp_path / "to/docs/deep/report.txt").stat(), (tmp_path / "to/flat.bin").stat()
    assert report.st_mtime_ns == 1_600_000_000_123_456_789
    assert stat.S_IMODE(report.st_mode) == 0o640
    assert flat.st_mtime_ns == 1_700_000_000 * 10**9
    assert stat.S_IMODE(flat.st_mode) == 0o600
    for made in ("to", "to/docs", "to/docs/deep"):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o750, "the usual mode: whoever may read gets there"
    assert all(not outcome.existed for outcome in done.values())


def test_the_manifest_keeps_the_true_name_and_the_rest_of_the_form(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    world.put_path(source, b"a/../../etc/pass\xffwd", b"root", tags=["x"], public=True, password="ab")
    back(world, tmp_path / "to")
    (line,) = manifest(tmp_path / "to")
    assert base64.b64decode(line["name_base64"]) == b"a/../../etc/pass\xffwd"
    assert base64.b64decode(line["file_base64"]) == b"a/%2E%2E/%2E%2E/etc/pass\xffwd"
    assert line["form"] == {"tags": ["x"], "public": True, "password": "ab"}
    assert stat.S_IMODE((tmp_path / "to" / MANIFEST.decode()).stat().st_mode) == 0o600


def test_set_user_id_does_not_come_back(tmp_path: Path) -> None:
    world = World()
    world.put_path(world.source(), b"sh", b"#!", mode=0o104755)
    back(world, tmp_path / "to")
    assert stat.S_IMODE((tmp_path / "to/sh").stat().st_mode) == 0o755


def test_a_past_moment_gives_the_past_content(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    key = world.put(source, "a.txt", b"yesterday")
    then = world.ledger.head().position
    world.see(source, "a.txt", date=1_790_000_100)
    world.store_copy(key, b"today")
    world.vanish(key)
    back(world, tmp_path / "then", until=then)
    assert files(tmp_path / "then") == {"a.txt": b"yesterday"}
    back(world, tmp_path / "now")
    assert not (tmp_path / "now").exists() or files(tmp_path / "now") == {}
    back(world, tmp_path / "gone", vanished=True)
    assert files(tmp_path / "gone") == {"a.txt": b"today"}


def test_an_older_copy_comes_back_with_the_form_it_was_listed_with(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    world.put_path(source, b"a.txt", b"old content", mtime_ns=1)
    world.see(source, "a.txt", path=base64.b64encode(b"a.txt").decode(), sha256="00" * 32, mtime_ns=2)
    done, findings = back(world, tmp_path / "to")
    assert findings == []
    assert files(tmp_path / "to") == {"a.txt": b"old content"}
    assert (tmp_path / "to/a.txt").stat().st_mtime_ns == 1
    assert done["a.txt"].planned.held.is_older


def test_plain_replicas_come_back_without_a_kit(tmp_path: Path) -> None:
    world = World()
    source = world.source(None)
    world.put(source, "plain.txt", b"as it is")
    world.put_path(source, b"in/folder.txt", b"too")
    _, findings = back(world, tmp_path / "to", [])
    assert findings == []
    assert files(tmp_path / "to") == {"plain.txt": b"as it is", "in/folder.txt": b"too"}


def test_each_element_is_opened_with_the_kit_that_fits(tmp_path: Path) -> None:
    world = World()
    world.put(world.source(), "one.txt", b"1")
    world.put(world.source(OTHER_KIT), "two.txt", b"2")
    _, findings = back(world, tmp_path / "to", [KIT, OTHER_KIT])
    assert findings == []
    assert files(tmp_path / "to") == {"one.txt": b"1", "two.txt": b"2"}


def test_sources_that_no_kit_opens_are_counted_and_the_rest_comes_back(tmp_path: Path) -> None:
    world = World()
    world.put(world.source(), "one.txt", b"1")
    closed = world.source(OTHER_KIT)
    for number in range(5):
        world.put(closed, f"{number}.txt", b"2")
    tally = RestoreCounts()
    back(world, tmp_path / "to", tally=tally)
    assert files(tmp_path / "to") == {"one.txt": b"1"}
    assert tally.locked == {closed: 5}


def test_patterns_choose_by_the_restored_name(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    for path in (b"docs/a.txt", b"docs/sub/b.txt", b"c.txt", b"docs.md"):
        world.put_path(source, path, path)
    back(world, tmp_path / "to", patterns=("docs", "*.md"))
    assert set(files(tmp_path / "to")) == {"docs/a.txt", "docs/sub/b.txt", "docs.md"}


# --- what cannot come back -------------------------------------------------------------------------------------------


def test_a_wrong_key_is_found_before_anything_is_written(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    for number in range(100):
        world.put(source, f"{number}.txt", b"secret")
    for kits in ([OTHER_KIT], []):
        with pytest.raises(WrongKeyError, match="--key"):
            back(world, tmp_path / "to", kits)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_damaged_and_missing_objects_are_named_and_the_rest_comes_back(tmp_path: Path, size: int) -> None:
    world = World()
    source = world.source()
    good, bad, gone = (world.see(source, f"{name}.txt") for name in ("good", "bad", "gone"))
    world.store_copy(good, b"g" * size)
    world.spoil(world.store_copy(bad, b"b" * size))
    world.lose(world.store_copy(gone, b"z" * size))
    done, findings = back(world, tmp_path / "to")
    assert set(done) == {"good.txt"}
    assert {(finding.name, finding.problem) for finding in findings} == {
        ("bad.txt", "damaged"),
        ("gone.txt", "missing"),
    }
    assert files(tmp_path / "to") == {"good.txt": b"g" * size}


def test_a_content_that_is_not_the_forms_is_a_finding(tmp_path: Path) -> None:
    world = World()
    world.put(world.source(), "a.txt", b"content", sha256="11" * 32)
    _, findings = back(world, tmp_path / "to")
    assert [finding.problem for finding in findings] == ["bad_content"]
    assert files(tmp_path / "to") == {}


def test_what_was_never_stored_is_a_finding(tmp_path: Path) -> None:
    world = World()
    world.see(world.source(), "a.txt")
    _, findings = back(world, tmp_path / "to")
    assert [(finding.name, finding.problem) for finding in findings] == [("a.txt", "unstored")]


@pytest.mark.parametrize("form", [{"fileName": 5}, {"fileName": ""}, {"path": "!!"}, {"fileName": "\ud800"}])
def test_odd_forms_end_in_a_name_or_a_finding(tmp_path: Path, form: dict[str, Any]) -> None:
    world = World()
    world.put(world.source(), "a.txt", b"content", **form)
    done, findings = back(world, tmp_path / "to")
    assert len(done) + len(findings) == 1
    assert len(files(tmp_path / "to")) == len(done)


# --- a second run ----------------------------------------------------------------------------------------------------


def test_a_second_run_writes_nothing_twice(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    for number in range(10):
        world.put(source, f"{number}.txt", b"%d" % number)
    back(world, tmp_path / "to")
    before = {path: path.stat().st_ino for path in (tmp_path / "to").iterdir()}
    done, findings = back(world, tmp_path / "to")
    assert findings == []
    assert all(outcome.existed for outcome in done.values())
    assert {path: path.stat().st_ino for path in (tmp_path / "to").iterdir()} == before
    assert len(manifest(tmp_path / "to")) == 10


def test_a_second_run_goes_on_where_the_first_was_cut_short(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    for number in range(10):
        world.put(source, f"{number}.txt", b"%d" % number)
    back(world, tmp_path / "to")
    whole = files(tmp_path / "to")
    journal = tmp_path / "to" / MANIFEST.decode()
    journal.write_bytes(journal.read_bytes()[:-700])
    (tmp_path / "to/3.txt").unlink()
    (tmp_path / "to" / WORK.decode()).mkdir()
    (tmp_path / "to" / WORK.decode() / "17.part").write_bytes(b"half")
    done, findings = back(world, tmp_path / "to")
    assert findings == []
    assert not done["3.txt"].existed
    assert files(tmp_path / "to") == whole
    assert {line["file"] for line in manifest(tmp_path / "to")} == set(whole)


def test_another_moment_replaces_our_own_files_only(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    one, two = world.put(source, "one.txt", b"old"), world.put(source, "two.txt", b"old")
    then = world.ledger.head().position
    for key, name in ((one, "one.txt"), (two, "two.txt")):
        world.see(source, name, date=1_790_000_100)
        world.store_copy(key, b"newer")
    back(world, tmp_path / "to", until=then)
    (tmp_path / "to/two.txt").write_bytes(b"edited by hand")
    _, findings = back(world, tmp_path / "to")
    assert files(tmp_path / "to") == {"one.txt": b"newer", "two.txt": b"edited by hand"}
    assert [(finding.name, finding.problem) for finding in findings] == [("two.txt", "in_the_way")]


def test_every_byte_is_told_while_it_moves(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    for name in ("one", "two"):
        world.put(source, name, name.encode() * 100_000)
    for _ in range(2):  # what an earlier run wrote counts too: it is done
        moved: list[int] = []
        back(world, tmp_path / "to", moved=moved.append)
        assert sum(moved) == 600_000


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with TargetFolder(tmp_path / "to"), pytest.raises(LockedError):
        TargetFolder(tmp_path / "to")


def test_a_manifest_that_is_not_ours_is_refused_and_kept(tmp_path: Path) -> None:
    world = World()
    world.put(world.source(), "a.txt", b"1")
    (tmp_path / MANIFEST.decode()).write_text("my own notes\n")
    with pytest.raises(UsageError, match="move the file away"):
        back(world, tmp_path)
    assert (tmp_path / MANIFEST.decode()).read_text() == "my own notes\n"


# --- what is never touched -------------------------------------------------------------------------------------------


def test_foreign_files_links_and_folders_are_left_alone(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    for path in (b"file", b"link", b"folder", b"linked/inside", b"fifo", b"file.txt/x"):
        world.put_path(source, path, b"restored")
    to, outside = tmp_path / "to", tmp_path / "outside"
    to.mkdir()
    outside.mkdir()
    (to / "file").write_bytes(b"mine")
    (to / "link").symlink_to(outside / "target")
    (to / "folder").mkdir()
    (to / "linked").symlink_to(outside)
    (to / "file.txt").write_bytes(b"mine too")
    os.mkfifo(to / "fifo")
    done, findings = back(world, to)
    assert done == {}
    assert {finding.problem for finding in findings} == {"in_the_way"}
    assert len(findings) == 6
    assert list(outside.iterdir()) == []
    assert files(to) == {"file": b"mine", "file.txt": b"mine too"}


def test_a_foreign_file_with_the_very_content_is_taken_for_done(tmp_path: Path) -> None:
    world = World()
    world.put(world.source(), "a.txt", b"same")
    (tmp_path / "a.txt").write_bytes(b"same")
    inode = (tmp_path / "a.txt").stat().st_ino
    done, findings = back(world, tmp_path)
    assert findings == []
    assert done["a.txt"].existed
    assert (tmp_path / "a.txt").stat().st_ino == inode


def test_a_foreign_workroom_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / WORK.decode()).mkdir()
    (tmp_path / WORK.decode() / "precious").write_bytes(b"mine")
    with TargetFolder(tmp_path):
        pass
    assert (tmp_path / WORK.decode() / "precious").read_bytes() == b"mine"


NAMES = st.one_of(
    st.sampled_from(["..", ".", "", "/etc/passwd", "a/b", "a", "A", "a/../../b", "con", "x" * 300, MANIFEST.decode()]),
    st.sampled_from([f"{WORK.decode()}/1.part", "é", "e\u0301", "a\x00b", "\ud800", "a\nb", "-rf", "~"]),
    st.text(max_size=20),
)


@given(names=st.lists(NAMES, min_size=1, max_size=12), as_path=st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_names_nothing_leaves_the_folder_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], *, as_path: bool
) -> None:
    root = tmp_path_factory.mktemp("names")
    world = World()
    source = world.source(None)
    wanted = []
    for number, name in enumerate(names):
        content = b"%d" % number
        wanted.append(content)
        claim = {"path": base64.b64encode(name.encode(errors="surrogatepass")).decode()} if as_path else {}
        world.put(source, f"id {number}", content, **(claim or {"fileName": name}))
    done, findings = back(world, root / "to", [])
    assert findings == []
    assert len(done) == len(names)
    assert sorted(files(root / "to").values()) == sorted(wanted)
    assert [path.name for path in root.iterdir()] == ["to"]


# --- export ----------------------------------------------------------------------------------------------------------


def send_out(
    world: World, to: Path, *, until: int | None = None, links: Links = "reflink"
) -> tuple[list[Exported], list[Unexported]]:
    done, findings = [], []
    with (
        held_in(world, until) as helds,
        TargetFolder(to) as tree,
        Journal(tree, JOURNAL) as journal,
        ThreadPoolExecutor(3) as pool,
    ):
        names = NameGiver(tree.rules, Fingerprints(), (WORK, JOURNAL, EXPORT_MANIFEST))
        stored = (held for held in helds if held.sha256 is not None)
        for outcome in export(
            stored,
            copies=StoredCopies(world.objects),
            tree=tree,
            journal=journal,
            names=names,
            pool=pool,
            links=links,
        ):
            (done if isinstance(outcome, Exported) else findings).append(outcome)  # type: ignore[attr-defined]
    return done, findings


def test_an_export_has_the_first_clients_layout_and_what_decrypting_needs(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    key = world.put(source, "a.txt", b"content")
    send_out(world, tmp_path)
    path = tmp_path / key.id[:2] / key.id[2:4] / "v1" / key.id
    element = world.elements[key]
    assert element.copy is not None
    assert path.read_bytes() == world.objects.disk.objects[element.copy.sha256]
    (line,) = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert line["file"] == str(path.relative_to(tmp_path))
    assert line["escaped"] is None
    assert (line["id"], line["date"], line["tz"], line["size"]) == (key.id, element.date, "UTC", element.copy.size)
    assert bytes.fromhex(line["sha256"]) == element.copy.sha256
    assert element.copy.iv is not None
    assert bytes.fromhex(line["iv"]) == element.copy.iv
    assert json.dumps(line["form"], separators=(",", ":")).encode() == element.form
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ids_that_are_no_file_names_are_escaped_and_the_manifest_says_how(tmp_path: Path) -> None:
    world = World()
    source = world.source(None)
    for name in ("../../../etc/passwd", "a", "x" * 400):
        world.put(source, name, name.encode())
    done, findings = send_out(world, tmp_path)
    assert findings == []
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert {line["escaped"] for line in lines} == {"percent", None, "renamed"}
    assert {line["id"]: (tmp_path / line["file"]).read_bytes() for line in lines} == {
        outcome.held.key.id: outcome.held.key.id.encode() for outcome in done
    }


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_export_then_restore_is_restore(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    root = tmp_path_factory.mktemp("export")
    world = World(seed=seed)
    sources = [world.source(), world.source(OTHER_KIT), world.source(None)]
    for number in range(12):
        name = world.random.choice(["a", "b/c", "b", "../d", "e.txt"]).encode() + b"%d" % (number % 5)
        key = world.put_path(world.random.choice(sources), name, world.random.randbytes(20), mtime_ns=number)
        if world.random.random() < 0.3:
            world.vanish(key)
    until = world.random.randrange(4, world.ledger.head().position + 1)
    kits = [KIT, OTHER_KIT]
    straight, missing = back(world, root / "straight", kits, until=until)
    send_out(world, root / "export", until=until)
    copies = ExportedCopies(root / "export")
    around, findings = give_back(copies.helds(), copies, root / "around", kits)
    copies.close()
    # What has no copy is in no export; whatever else cannot be given back cannot be given back either way.
    assert told(findings) == told(missing) - {each for each in told(missing) if each[1] == "unstored"}
    assert set(around) == set(straight)
    assert (files(root / "around") if around else {}) == (files(root / "straight") if straight else {})


def told(findings: list[RestoreProblem]) -> set[tuple[StreamKey, str]]:
    return {(finding.key, finding.problem) for finding in findings}


def test_an_export_goes_on_and_replaces_only_its_own(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    one, two = world.put(source, "one", b"1"), world.put(source, "two", b"2")
    send_out(world, tmp_path)
    before = (tmp_path.joinpath(*map(os.fsdecode, place_of(one.id)))).stat().st_ino
    world.see(source, "two", date=1_790_000_100)
    world.store_copy(two, b"two again")
    done, findings = send_out(world, tmp_path)
    assert findings == []
    assert [outcome.existed for outcome in done if outcome.held.key == one] == [True]
    assert (tmp_path.joinpath(*map(os.fsdecode, place_of(one.id)))).stat().st_ino == before
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 2
    foreign = tmp_path.joinpath(*map(os.fsdecode, place_of(two.id)))
    foreign.write_bytes(b"mine now")
    _, findings = send_out(world, tmp_path)
    assert [finding.flaw for finding in findings] == ["in_the_way"]
    assert foreign.read_bytes() == b"mine now"


@pytest.mark.parametrize("links", ["never", "reflink", "hard"])
def test_damaged_objects_are_not_exported(tmp_path: Path, links: Links) -> None:
    world = World()
    source = world.source()
    good, bad, gone = (world.see(source, name) for name in ("good", "bad", "gone"))
    world.store_copy(good, b"1")
    world.spoil(world.store_copy(bad, b"2"))
    world.lose(world.store_copy(gone, b"3"))
    done, findings = send_out(world, tmp_path, links=links)
    assert [outcome.held.key for outcome in done] == [good]
    assert {(finding.key, finding.flaw) for finding in findings} == {(bad, "damaged"), (gone, "missing")}
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert {line["id"]: line.get("problem") for line in lines} == {good.id: None, bad.id: "damaged", gone.id: "missing"}
    assert [line["id"] for line in lines if line["file"] is not None] == [good.id]


def test_a_restore_from_an_export_tells_what_the_export_lacks(tmp_path: Path) -> None:
    world = World()
    source = world.source()
    world.put(source, "good", b"1")
    world.spoil(world.store_copy(world.see(source, "bad"), b"2"))
    send_out(world, tmp_path / "export")
    copies = ExportedCopies(tmp_path / "export")
    done, findings = give_back(copies.helds(), copies, tmp_path / "to", [KIT])
    copies.close()
    assert set(done) == {"good"}
    assert [(finding.name, finding.problem) for finding in findings] == [("bad", "missing")]


def test_rules_of_the_file_system_are_found_out_by_trying(tmp_path: Path) -> None:
    with TargetFolder(tmp_path) as tree:
        found = tree.rules
    (tmp_path / "Case").touch()
    assert found.fold_case == (tmp_path / "cASE").exists()
    assert found == NameRules(fold_case=found.fold_case, fold_unicode=found.fold_unicode, utf8_only=found.utf8_only)
    assert [path.name for path in tmp_path.iterdir()] == ["Case"]


def planned(world: World, kits: list[Kit]) -> list[Planned | RestoreProblem]:
    with held_in(world) as helds, ThreadPoolExecutor(2) as pool:
        return list(
            plan(
                helds,
                kits=[CbcKey(kit=kit) for kit in kits],
                wanted=Selection(patterns=Patterns(())),
                giver=lambda: NameGiver(NameRules(), Fingerprints()),
                pool=pool,
                tally=RestoreCounts(),
            )
        )


@pytest.mark.parametrize("seed", range(6))
def test_one_form_that_no_kit_opens_is_a_finding_of_its_own(seed: int) -> None:
    world = World(seed=seed)
    source = world.source()
    for number in range(4):
        world.put(source, f"{number} {seed}", b"")
    world.kits[source] = OTHER_KIT
    odd = world.put(source, f"odd {seed}", b"")
    findings = [each for each in planned(world, [KIT]) if isinstance(each, RestoreProblem)]
    assert [(finding.key, finding.problem) for finding in findings] == [(odd, "unopened")]
