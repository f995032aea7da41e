"""`restore`, `decrypt` and `recipe` on the command line, with what the real server sealed and with our own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from kropot.cli import restore_stdout
from kropot.securecopy.sealing import Kit, seal_form, seal_stream
from kropot.securecopy.wire import canonical_json
from kropot.wording import as_written
from tests.kropot.replay_world import KIT, OTHER_KIT
from tests.vectors.load import content_bytes, contents, exchange, forms

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.events import StreamKey
    from tests.kropot.replay_cli import Run
    from tests.kropot.replay_world import World

pytest_plugins = ["tests.kropot.replay_cli"]

SHA256_FORM = next(form for form in forms() if form["digest"] == "sha256")
SHA256_KIT = Kit(SHA256_FORM["passphrase"], digest="sha256", rounds=SHA256_FORM["rounds"])


@pytest.fixture
def kit(tmp_path: Path) -> str:
    """A kit of KIT, as the gateway writes it: the request's JSON with everything under `data`."""
    path = tmp_path / "kit.json"
    path.write_text(json.dumps({"roles": ["securecopy.stream"], "data": kit_fields(KIT)}))
    path.chmod(0o600)
    return str(path)


def kit_fields(kit: Kit) -> dict[str, Any]:
    return {
        "secureCopyEncryptionKey": kit.passphrase,
        "secureCopyEncryptionMethod": kit.method,
        "secureCopyDigestMethod": kit.digest,
        "secureCopyDigestRounds": kit.rounds,
        "secureCopyDigestSalt": "pepper",
    }


def files(to: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(to)): path for path in to.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "kropot-manifest.jsonl"}


def spoil(world: World, folder: Path, key: StreamKey) -> None:
    """Write zeros over the stored object of an element."""
    copy = world.elements[key].copy
    assert copy is not None
    stored = folder / "storage/objects" / copy.sha256.hex()[:2] / copy.sha256.hex()
    stored.chmod(0o600)
    stored.write_bytes(bytes(copy.size))


# --- what the real server sealed -------------------------------------------------------------------------------------


def real_replica(world: World) -> dict[str, bytes]:
    """Fill a replica with everything captured from the real server, under two tokens; return names and contents.

    Contents were captured under the sha512 token. Where a form was captured under that token only the real one is
    used; the other token's forms are real, and their contents are sealed here.
    """
    first, second = world.source(), world.source(OTHER_KIT)
    real_forms = {(form["digest"], form["file_name"]): form for form in forms()}
    expected: dict[str, bytes] = {}
    for vector in contents():
        plain, sealed = content_bytes(vector["name"])
        name = vector["file"]
        form = real_forms.get(("sha512", name))
        kit = Kit(vector["passphrase"], digest=vector["digest"], rounds=vector["rounds"])
        text = seal_form(canonical_json({"fileName": name}), kit, os.urandom(16)) if form is None else form["sealed"]
        made = hashlib.sha512(name.encode()).hexdigest() if form is None else form["id"]
        world.put_sealed(first, made, canonical_json({"encrypted": text}), sealed, bytes.fromhex(vector["iv"]))
        expected[name] = plain
        other = real_forms.get(("sha256", name))
        if other is not None:
            iv = os.urandom(16)
            sealed = b"".join(seal_stream([plain], SHA256_KIT.key(iv), iv))
            world.put_sealed(second, other["id"], canonical_json({"encrypted": other["sealed"]}), sealed, iv)
    return expected


def test_everything_that_the_real_server_sealed_comes_back(world: World, run: Run, tmp_path: Path) -> None:
    expected = real_replica(world)
    kits = []
    for name in ("create-encrypted", "create-encrypted-sha256"):
        # The very request that made the token is the kit.
        (tmp_path / f"{name}.json").write_text(exchange("tokens", name).request_body)
        kits += ["--key", str(tmp_path / f"{name}.json")]
    answer = run("restore", *kits, "--to", str(tmp_path / "to"), "--both", "--json")
    assert answer.code == 0, answer.err
    restored = files(tmp_path / "to")
    assert {name: restored[name] for name in expected} == expected
    # The second token knows eight of the files under other ids; they have the same names and are kept apart.
    twins = {name: content for name, content in restored.items() if name not in expected}
    assert len(twins) == 8
    assert set(twins.values()) <= set(expected.values())
    lines = [json.loads(line) for line in (tmp_path / "to/kropot-manifest.jsonl").read_text().splitlines()]
    secret = next(line for line in lines if line["name"].endswith("secret.txt"))
    assert len(secret["form"]["password"]) == 64


@pytest.mark.parametrize("number", range(len(contents())))
@pytest.mark.parametrize("step", [1, 2])
def test_the_recipes_open_the_real_servers_contents_with_openssl(number: int, step: int, tmp_path: Path) -> None:
    from kropot.restore.recipe import ByteRange, recipes

    vector = contents()[number]
    plain, sealed = content_bytes(vector["name"])
    path = tmp_path / "sealed file"
    path.write_bytes(sealed)
    steps = list(
        recipes(
            iv=bytes.fromhex(vector["iv"]),
            sealed=str(path),
            sha256=hashlib.sha256(sealed).digest(),
            envelope=None,
            stretch=ByteRange(digest=vector["digest"], rounds=vector["rounds"]),
        )
    )
    assert shell(steps[0][1], tmp_path).endswith(b"OK\n")
    # The server drops white space at the ends of a passphrase when it makes the token.
    for key in (vector["passphrase"], f" \t{vector['passphrase']}\r\n "):
        shell(steps[step][1], tmp_path, key=key)
        assert (tmp_path / "plain.bin").read_bytes() == plain
        (tmp_path / "plain.bin").unlink()
    assert vector["passphrase"] not in "".join(line for _, line in steps)


@pytest.mark.parametrize("form", forms(), ids=lambda form: f"{form['digest']}-{form['file_name']}")
def test_the_recipes_open_the_real_servers_forms_with_openssl(form: dict[str, Any], tmp_path: Path) -> None:
    from kropot.restore.recipe import ByteRange, form_recipe

    line = form_recipe(form["sealed"], ByteRange(digest=form["digest"], rounds=form["rounds"]))
    opened = json.loads(shell(line, tmp_path, key=form["passphrase"]))
    assert opened["fileName"] == form["file_name"]


def shell(line: str, folder: Path, *, key: str = "") -> bytes:
    assert shutil.which("openssl"), "these tests need the real openssl"
    ran = subprocess.run(["sh", "-c", line], cwd=folder, env=os.environ | {"KEY": key}, capture_output=True, check=True)
    return ran.stdout


# --- restore ---------------------------------------------------------------------------------------------------------


def test_yesterdays_file_comes_back(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    key = world.put_path(source, b"docs/thesis.txt", b"all of it")
    world.put_path(source, b"docs/other.txt", b"other")
    yesterday = world.tick(3600)
    world.tick(3600)
    world.vanish(key)
    until = f"@{world.ledger.position_at(yesterday)}"
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--until", until, "docs/thesis*")
    assert answer.code == 0
    assert "restored 1 file to" in answer.out
    assert files(tmp_path / "to") == {"docs/thesis.txt": b"all of it"}
    again = run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--until", until, "--json")
    assert (again.json["restored"], again.json["existed"], again.json["findings"]) == (1, 1, 0)
    now = run("restore", "--key", kit, "--to", str(tmp_path / "now"), "--json").json
    assert (now["restored"], now["vanished"]) == (1, 1)


def test_the_wrong_key_writes_nothing_and_ends_in_13(world: World, run: Run, tmp_path: Path) -> None:
    source = world.source()
    for number in range(10):
        world.put(source, f"{number}", b"x")
    (tmp_path / "wrong.json").write_text(json.dumps(kit_fields(OTHER_KIT)))
    (tmp_path / "wrong.json").chmod(0o600)
    for how in (["--key", str(tmp_path / "wrong.json")], []):
        for what in (["--to", str(tmp_path / "to")], ["--list-names"], ["--dry-run", "--to", str(tmp_path / "to")]):
            answer = run("restore", *how, *what)
            assert answer.code == 13, answer
            assert answer.out == ""
            assert len(answer.err.splitlines()) == 1
    assert not (tmp_path / "to").exists()


def test_findings_are_named_and_end_in_3(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    world.put(source, "good", b"1")
    bad = world.put(source, "bad", b"2")
    lose(world, bad, tmp_path)
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--json")
    assert answer.code == 3
    assert (answer.lines[0]["problem"], answer.lines[0]["name"]) == ("missing", "bad")
    assert answer.lines[-1]["findings"] == 1
    assert files(tmp_path / "to") == {"good": b"1"}
    plain = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert plain.code == 3
    assert "bad: " in plain.err


def test_a_source_without_its_kit_is_told_and_ends_in_3(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    world.put(world.source(), "one", b"1")
    closed = world.source(OTHER_KIT)
    world.put(closed, "two", b"2")
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--json")
    assert answer.code == 3
    assert closed.hex()[:8] in answer.err
    assert answer.json["locked"] == 1
    chosen = run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--source", closed.hex()[:8])
    assert chosen.code == 13


def test_names_are_listed_with_dates_and_sizes_and_nothing_is_written(
    world: World, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source()
    for size in (0, 1, 15, 16, 17, 5000):
        world.put(source, f"{size}.bin", b"x" * size)
    world.put_path(source, b"dir/named", b"12345", mtime_ns=1_600_000_000 * 10**9, size=5)
    before = sorted(tmp_path.rglob("*"))
    rows = run("restore", "--key", kit, "--list-names", "--json").lines
    assert {row["name"]: row["size"] for row in rows[:-1]} == {
        **{f"{size}.bin": size for size in (0, 1, 15, 16, 17, 5000)},
        "dir/named": 5,
    }
    assert next(row["date"] for row in rows if row.get("name") == "dir/named") == "2020-09-13T12:26:40.000000Z"
    shown = run("restore", "--key", kit, "--list-names", "dir").out
    assert shown.split() == ["2020-09-13T12:26:40Z", "5", "dir/named"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("way", ["--list-names", "--dry-run"])
def test_a_name_with_line_breaks_is_one_line(world: World, run: Run, kit: str, tmp_path: Path, way: str) -> None:
    world.put(world.source(), "a\nwould restore\tb\x1b[2J", b"1")
    (line,) = run("restore", "--key", kit, "--to", str(tmp_path / "to"), way).out.splitlines()
    assert line.endswith(r"  a\nwould restore\tb\x1b[2J")


@pytest.mark.parametrize("way", [("--list-names",), ("--dry-run",), ()], ids=["list", "dry", "restore"])
def test_a_pattern_that_matches_nothing_is_named_and_the_rest_comes_back(
    world: World, run: Run, kit: str, tmp_path: Path, way: tuple[str, ...]
) -> None:
    source = world.source()
    world.put(source, "here.txt", b"1")
    place = ("--key", kit, "--to", str(tmp_path / "to"), *way)
    answer = run("restore", *place, "here.txt", "thesis.txt")
    assert answer.code == 3
    assert "no file matches thesis.txt at that moment" in answer.err
    assert "here.txt" not in answer.err
    assert (tmp_path / "to/here.txt").exists() == (way == ())
    world.vanish(world.put(source, "thesis.txt", b"2"))
    gone = run("restore", *place, "--json", "thesis.txt")
    assert gone.code == 3
    assert gone.json["unmatched"] == ["thesis.txt"]
    assert "--vanished" in gone.err
    assert run("restore", *place, "--vanished", "*.txt").code == 0


@pytest.mark.parametrize(
    "line", [("restore", "--to", ""), ("replay", "--export", ""), ("ls", "--storage-path", "")], ids=" ".join
)
def test_an_empty_name_is_not_the_working_directory(
    world: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]
) -> None:
    world.put(world.source(None), "name.txt", b"content")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    answer = run(*line)
    assert answer.code == 2
    assert "it is empty" in answer.err
    assert list((tmp_path / "here").iterdir()) == []


def test_a_dry_run_says_what_would_happen_and_writes_nothing(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    world.put(source, "here", b"1")
    world.put(source, "new", b"2")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/here").write_bytes(b"mine")
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--dry-run")
    assert sorted(answer.out.splitlines())[:2] == ["would not overwrite  here", "would restore  new"]
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["here"]


def test_a_dry_run_tells_what_is_done_from_what_would_be_replaced(
    world: World, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source()
    for name in ("done", "changed", "touched", "gone"):
        world.put(source, name, name.encode())
    line = ("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert run(*line).code == 0
    world.put(source, "changed", b"again", date=1_790_000_100)
    (tmp_path / "to/touched").write_bytes(b"by somebody")
    (tmp_path / "to/gone").unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    rows = run(*line, "--dry-run", "--json").lines
    assert {row["name"]: row["would"] for row in rows[:-1]} == {
        "done": "keep",
        "changed": "replace",
        "touched": "leave",
        "gone": "restore",
    }
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == before
    assert run(*line).code == 3
    assert (tmp_path / "to/changed").read_bytes() == b"again"
    assert (tmp_path / "to/touched").read_bytes() == b"by somebody"


def test_files_of_others_are_overwritten_only_as_asked(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    for name in ("older", "newer", "folder", "link"):
        world.put(source, name, name.encode(), date=1_600_000_000)
    to = tmp_path / "to"
    to.mkdir()
    (tmp_path / "outside").write_bytes(b"mine")

    def fill() -> None:
        for name, at in (("older", 1_500_000_000), ("newer", 1_700_000_000)):
            (to / name).write_bytes(b"mine")
            os.utime(to / name, (at, at))

    fill()
    (to / "folder").mkdir()
    (to / "link").symlink_to(tmp_path / "outside")
    line = ("restore", "--key", kit, "--to", str(to), "--json")
    leave = {"folder": b"", "link": b"mine"}
    for overwrite, wanted, would in (
        ("never", {"older": b"mine", "newer": b"mine"}, {"older": "leave", "newer": "leave"}),
        ("older", {"older": b"older", "newer": b"mine"}, {"older": "overwrite", "newer": "leave"}),
        ("always", {"older": b"older", "newer": b"newer"}, {"older": "keep", "newer": "overwrite"}),
    ):
        rows = run(*line, "--overwrite", overwrite, "--dry-run").lines[:-1]
        assert {row["name"]: row["would"] for row in rows} == would | dict.fromkeys(leave, "leave")
        answer = run(*line, "--overwrite", overwrite)
        assert answer.code == 3
        assert answer.lines[-1]["overwritten"] == list(would.values()).count("overwrite")
        assert answer.lines[-1]["problems"] == {"in_the_way": 2 + list(wanted.values()).count(b"mine")}
        assert {name: (to / name).read_bytes() for name in wanted} == wanted
        assert (to / "folder").is_dir()
        assert (to / "link").is_symlink()
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert run("restore", "--key", kit, "--to", str(to), "older", "newer").code == 0  # they are its own now


def test_several_names_and_patterns_are_taken_at_once(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    for name in ("a.txt", "b.md", "docs/c.txt", "docs/d.bin", "e"):
        world.put_path(source, name.encode(), name.encode())
    to = tmp_path / "to"
    assert run("restore", "--key", kit, "--to", str(to), "a.txt", "*.md", "docs/d.*", "e").code == 0
    assert sorted(files(to)) == ["a.txt", "b.md", "docs/d.bin", "e"]


def test_verify_only_checks_every_copy_and_writes_nothing(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    for name in ("one", "two", "three"):
        world.put_path(source, b"docs/" + name.encode(), name.encode())
    line = ("restore", "--key", kit)
    answer = run(*line, "--verify-only")
    assert (answer.code, answer.out.splitlines()) == (
        0,
        [
            "verified 3 files (11 B): the copies are sound",
            "sealing: not authenticated: AES-CBC; 3 names not bound to ids, because the kit has no stored salt",
            (
                "history: not compared: no checkpoint given; this kit sees it for the first time, so a rollback is not "
                "excluded"
            ),
        ],
    )
    to = tmp_path / "to"
    assert run(*line, "--verify-only", "--to", str(to)).code == 2
    assert not to.exists()
    assert run(*line, "--to", str(to)).code == 0
    answer = run(*line, "--verify-only", "--to", str(to))
    assert (answer.code, answer.out.splitlines()[0]) == (0, f"verified 3 files (11 B): {to} has the same")
    (to / "docs/one").write_bytes(b"ONE")
    (to / "docs/two").unlink()
    (to / "docs/two").symlink_to(to / "docs/three")
    before = {path: path.lstat().st_mtime_ns for path in to.rglob("*")}
    answer = run(*line, "--verify-only", "--to", str(to), "--json")
    assert answer.code == 4
    assert {row["name"]: row["problem"] for row in answer.lines[:-1]} == {"docs/one": "differs", "docs/two": "differs"}
    assert answer.lines[-1]["verified"] == 1
    (to / "docs/two").unlink()
    answer = run(*line, "--verify-only", "--to", str(to), "docs/two", "docs/three")
    assert answer.code == 4
    assert "docs/two: the folder does not have it" in answer.err
    assert answer.out.splitlines()[0] == "verified 1 file (5 B)"
    assert {path: before.get(path) for path in to.rglob("*")}.items() <= before.items()


def test_verify_only_names_a_damaged_copy(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    world.put(source, "sound", b"1")
    key = world.put(source, "rotten", b"2")
    spoil(world, tmp_path, key)
    answer = run("restore", "--key", kit, "--verify-only", "--json")
    assert answer.code == 4
    assert [(row["name"], row["problem"]) for row in answer.lines[:-1]] == [("rotten", "damaged")]


@pytest.mark.parametrize("at_once", [16 << 20, 500])
def test_one_file_goes_to_stdout_and_nothing_else(
    world: World, run: Run, kit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, at_once: int
) -> None:
    monkeypatch.setattr(restore_stdout, "_AT_ONCE", at_once)  # a larger file is read twice
    source = world.source()
    content = "line\r\n\x00" * 2000
    world.put_path(source, b"docs/photo.bin", content.encode())
    world.put_path(source, b"docs/photo.bin.old", b"old")
    world.put_path(source, b"photo.bin", b"another")
    rotten = world.put(source, "rotten", b"2" * 1000)
    ask = ("restore", "--key", kit, "--stdout")
    answer = run(*ask, "docs/photo.bin")
    assert (answer.code, answer.out) == (0, content)
    assert [line.split(":")[0] for line in answer.err.splitlines()] == ["sealing", "history"]
    assert run(*ask, "/photo.bin")[:2] == (0, "another")
    assert run(*ask, "*.old")[:2] == (0, "old")
    answer = run(*ask, "docs/*")
    assert (answer.code, answer.out) == (2, "")
    assert "docs/* matches 2 files (docs/photo.bin, docs/photo.bin.old): give one name" in answer.err
    answer = run(*ask, "nothing")
    assert (answer.code, answer.out) == (3, "")
    assert "no file matches nothing at that moment" in answer.err
    for more in (("--to", str(tmp_path / "to")), ("--json",), ("--dry-run",), ("another",)):
        answer = run(*ask, "photo.bin", *more)
        assert (answer.code, answer.out) == (2, "")
    spoil(world, tmp_path, rotten)
    answer = run(*ask, "rotten")
    assert (answer.code, answer.out) == (4, "")
    assert "is damaged" in answer.err


def test_portable_names_are_escaped_on_request(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    world.put_path(source, b"aux/a:b.", b"1")
    world.put_path(source, b"README", b"2")
    world.put_path(source, b"readme", b"3")
    run("restore", "--key", kit, "--to", str(tmp_path / "plain"))
    run("restore", "--key", kit, "--to", str(tmp_path / "portable"), "--portable-names")
    assert set(files(tmp_path / "plain")) == {"aux/a:b.", "README", "readme"}
    portable = files(tmp_path / "portable")
    assert "%61ux/a%3Ab%2E" in portable
    assert len({name.lower() for name in portable}) == 3
    assert sorted(portable.values()) == [b"1", b"2", b"3"]


def test_a_file_of_two_sources_in_use_is_restored_once_and_the_other_one_is_named(
    world: World, run: Run, kit: str, tmp_path: Path
) -> None:
    sources = [world.source(), world.source()]
    for source, content in zip(sources, (b"listed last", b"listed first"), strict=True):
        world.put(source, "thesis.txt", content)
        world.put(source, f"{content[-5:].decode()}.txt", b"")
    for source in reversed(sources):
        world.tick()
        world.listed(source)
    args = ("restore", "--key", kit, "--to", str(tmp_path / "to"))
    answer = run(*args)
    assert answer.code == 3
    assert files(tmp_path / "to") == {"thesis.txt": b"listed last", " last.txt": b"", "first.txt": b""}
    assert "thesis.txt: another source has a file with this name: choose one with --source, or" in answer.err
    assert run(*args, "first.txt").code == 0, "what is not asked for is no finding"
    both = run("restore", "--key", kit, "--to", str(tmp_path / "both"), "--both", "thesis.txt")
    assert both.code == 0
    assert sorted(files(tmp_path / "both").values()) == [b"listed first", b"listed last"]
    assert files(tmp_path / "both")["thesis.txt"] == b"listed last"
    assert "1  under a numbered name" in both.out
    one = run("restore", "--key", kit, "--to", str(tmp_path / "one"), "--source", sources[1].hex(), "--json")
    assert (one.code, one.json["numbered"]) == (0, 0)
    assert files(tmp_path / "one")["thesis.txt"] == b"listed first"


def test_very_many_names_of_two_sources_do_not_flood_the_terminal(
    world: World, run: Run, kit: str, tmp_path: Path
) -> None:
    for source in (world.source(), world.source()):
        for number in range(15):
            world.put(source, f"{number}.txt", b"")
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 3
    assert answer.err.count("another source has a file with this name") == 10
    assert "and 5 more names that two sources have" in answer.err
    assert len(files(tmp_path / "to")) == 15


@pytest.fixture
def rotated(world: World) -> tuple[bytes, bytes]:
    """A source whose token was replaced: it holds a deleted file, an old one and one that both have; and its heir."""
    old = world.source()
    for name in ("deleted.txt", "thesis.txt"):
        world.put(old, name, b"of the old token")
    world.listed(old)
    world.tick()
    new = world.source(OTHER_KIT)
    world.put(new, "thesis.txt", b"of the new token")
    world.listed(new)
    world.tick()
    return old, new


@pytest.fixture
def kits(tmp_path: Path, kit: str) -> tuple[str, ...]:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(kit_fields(OTHER_KIT)))
    path.chmod(0o600)
    return "--key", kit, "--key", str(path)


@pytest.mark.parametrize("way", ["ledger", "export"])
def test_the_files_of_a_replaced_token_come_back_only_if_asked_for(
    run: Run, kits: tuple[str, ...], rotated: tuple[bytes, bytes], tmp_path: Path, way: str
) -> None:
    origin: tuple[str, ...] = ()
    if way == "export":
        origin = ("--from", str(tmp_path / "export"))
        assert run("replay", "--export", origin[1]).code == 0
    answer = run("restore", *kits, *origin, "--to", str(tmp_path / "to"))
    assert answer.code == 0
    assert files(tmp_path / "to") == {"thesis.txt": b"of the new token"}
    assert f"source {rotated[0].hex()[:8]} is past" in answer.err
    assert "2 elements were left out: --past-sources" in answer.err
    assert "2  left out: of past sources" in answer.out
    asked = run("restore", *kits, *origin, "--to", str(tmp_path / "all"), "--past-sources", "--json")
    assert asked.code == 0
    assert files(tmp_path / "all") == {"thesis.txt": b"of the new token", "deleted.txt": b"of the old token"}
    assert asked.json["outdated"] == 1
    both = run("restore", *kits, *origin, "--to", str(tmp_path / "both"), "--past-sources", "--both")
    assert both.code == 0
    assert len(files(tmp_path / "both")) == 3


def test_a_past_source_is_restored_by_its_name_and_at_a_moment_before_it_was_past(
    world: World, run: Run, kits: tuple[str, ...], rotated: tuple[bytes, bytes], tmp_path: Path
) -> None:
    old, _ = rotated
    both = {"deleted.txt": b"of the old token", "thesis.txt": b"of the old token"}
    assert run("restore", *kits, "--to", str(tmp_path / "one"), "--source", old.hex()[:6]).code == 0
    assert files(tmp_path / "one") == both
    position = next(event.position for event in world.ledger.events() if event.fact.TYPE == "ListingCompleted")  # type: ignore[union-attr]
    assert run("restore", *kits, "--to", str(tmp_path / "then"), "--until", f"@{position}").code == 0
    assert files(tmp_path / "then") == both


def test_where_only_past_sources_are_left_nothing_comes_back_in_silence(
    world: World, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source()
    world.put(source, "a.txt", b"1")
    world.listed(source)
    assert run("source", "label", source.hex(), "old server").code == 0
    assert run("source", "retire", "old server").code == 0
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 3
    assert "source old server is past (retired at " in answer.err
    assert run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--past-sources").code == 0
    assert files(tmp_path / "to") == {"a.txt": b"1"}
    assert run("verify").code == 0


def test_the_kit_of_a_past_source_alone_says_what_to_add(
    run: Run, kit: str, rotated: tuple[bytes, bytes], tmp_path: Path
) -> None:
    assert rotated
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 13
    assert "add --past-sources" in answer.err


def test_every_line_of_the_list_is_sorted_and_taken_back(
    world: World, run: Run, kit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kropot.restore.spool.RUN", 2)
    source = world.source()
    names = [
        b"a[1].txt",
        b"a1.txt",
        b"docs/*",
        b"docs/b",
        b"x\\y",
        b"line\nbreak",
        b"\xff\xfe",
        b"notes",
        b"deep/notes",
    ]
    for name in names:
        world.put_path(source, name, name)
    answer = run("restore", "--key", kit, "--list-names")
    assert answer.code == 0, answer.err
    listed = answer.out.splitlines()
    shown = [line[len("2026-01-01T00:00:00Z") + 16 :] for line in listed]
    assert [as_written(text) for text in shown] == sorted(names)
    for number, text in enumerate(shown):
        answer = run("restore", "--key", kit, "--to", str(tmp_path / str(number)), text)
        assert answer.code == 0
        assert list(files(tmp_path / str(number)).values()) == [as_written(text)]
    told = run("restore", "--key", kit, "--list-names", "--json").lines[:-1]
    assert [row["name"] for row in told] == shown


def test_an_export_is_restored_without_ledger_and_storage(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    world.put_path(source, b"a/b", b"1")
    gone = world.put_path(source, b"gone", b"2")
    world.vanish(gone)
    run("replay", "--export", str(tmp_path / "export"))
    (tmp_path / "ledger.db").rename(tmp_path / "away.db")
    (tmp_path / "storage").rename(tmp_path / "away")
    answer = run("restore", "--from", str(tmp_path / "export"), "--key", kit, "--to", str(tmp_path / "to"), "--json")
    assert answer.code == 0
    assert files(tmp_path / "to") == {"a/b": b"1"}
    assert answer.json["vanished"] == 1
    assert run("restore", "--from", str(tmp_path), "--key", kit, "--to", str(tmp_path / "x")).code == 2
    assert run("restore", "--from", str(tmp_path / "export"), "--until", "@1", "--to", "x").code == 2


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "not json", '{"data": {}}', '{"secureCopyEncryptionKey": 5}', '{"secureCopyEncryptionKey": ""}'],
)
def test_a_kit_that_is_none_is_a_usage_error(world: World, run: Run, tmp_path: Path, text: str) -> None:
    world.put(world.source(), "a", b"1")
    (tmp_path / "bad.json").write_text(text)
    answer = run("restore", "--key", str(tmp_path / "bad.json"), "--to", str(tmp_path / "to"))
    assert answer.code == 2
    assert "bad.json" in answer.err


@pytest.mark.parametrize("change", [{"secureCopyDigestRounds": 0}, {"secureCopyDigestRounds": "6000"}])
@pytest.mark.parametrize("other", [{}, {"secureCopyDigestMethod": "md5"}, {"secureCopyEncryptionMethod": "rot13"}])
def test_an_impossible_kit_is_a_usage_error_that_hides_the_key(
    world: World, run: Run, tmp_path: Path, change: dict[str, Any], other: dict[str, Any]
) -> None:
    world.put(world.source(), "a", b"1")
    (tmp_path / "bad.json").write_text(json.dumps(kit_fields(KIT) | change | other))
    answer = run("restore", "--key", str(tmp_path / "bad.json"), "--to", str(tmp_path / "to"))
    assert answer.code == 2
    assert KIT.passphrase not in answer.out + answer.err


def test_a_padded_passphrase_fits_as_the_server_trimmed_it(world: World, run: Run, tmp_path: Path) -> None:
    world.put(world.source(), "a", b"1")
    (tmp_path / "kit.json").write_text(
        json.dumps(kit_fields(KIT) | {"secureCopyEncryptionKey": f" \t{KIT.passphrase}\n"})
    )
    assert run("restore", "--key", str(tmp_path / "kit.json"), "--to", str(tmp_path / "to")).code == 0


@pytest.mark.parametrize("inside", ["storage", "storage/objects/ab", "link/x"])
def test_nothing_is_given_back_into_the_storage(world: World, run: Run, kit: str, tmp_path: Path, inside: str) -> None:
    world.put(world.source(), "a", b"1")
    (tmp_path / "link").symlink_to(tmp_path / "storage")
    before = sorted(tmp_path.rglob("*"))
    for how in (("restore", "--key", kit, "--to"), ("replay", "--export")):
        answer = run(*how, str(tmp_path / inside))
        assert answer.code == 2
        assert "storage" in answer.err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_folder_or_a_ledger_it_says_what_is_missing(run: Run, kit: str, tmp_path: Path) -> None:
    assert "--to" in run("restore", "--key", kit).err
    assert run("restore", "--key", kit, "--to", str(tmp_path / "to")).code == 10
    assert not (tmp_path / "to").exists()


def lose(world: World, key: StreamKey, root: Path) -> None:
    copy = world.elements[key].copy
    assert copy is not None
    (root / "storage/objects" / copy.sha256.hex()[:2] / copy.sha256.hex()).unlink()


# --- decrypt ---------------------------------------------------------------------------------------------------------


def test_one_element_is_decrypted_as_of_any_moment(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source()
    key = world.put(source, "a", b"first")
    then = world.ledger.head().position
    world.see(source, "a", date=1_790_000_100)
    world.store_copy(key, b"second")
    assert run("decrypt", key.id, "--key", kit, "-o", str(tmp_path / "out")).code == 0
    assert (tmp_path / "out").read_bytes() == b"second"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    assert run("decrypt", key.id, "--key", kit, "-o", str(tmp_path / "old"), "--until", f"@{then}").code == 0
    assert (tmp_path / "old").read_bytes() == b"first"
    taken = run("decrypt", key.id, "--key", kit, "-o", str(tmp_path / "out"))
    assert taken.code == 2
    assert (tmp_path / "out").read_bytes() == b"second"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_stdout_gets_the_bytes_as_they_are(world: World, kropotcli: Path, kit: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 300
    key = world.put(world.source(), "a", content)
    ran = subprocess.run(
        [kropotcli, "--db-string", "sqlite:///ledger.db", "decrypt", key.id, "--key", kit],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert ran.stdout == content


def test_loose_files_are_known_by_the_ledger_the_export_or_the_iv(
    world: World, run: Run, kit: str, tmp_path: Path
) -> None:
    key = world.put(world.source(), "a", b"content")
    copy = world.elements[key].copy
    assert copy is not None
    assert copy.iv is not None
    stored = tmp_path / "storage/objects" / copy.sha256.hex()[:2] / copy.sha256.hex()
    run("replay", "--export", str(tmp_path / "export"))
    exported = tmp_path / "export" / key.id[:2] / key.id[2:4] / "v1" / key.id
    assert run("decrypt", str(stored), "--key", kit, "-o", str(tmp_path / "1")).code == 0
    (tmp_path / "ledger.db").rename(tmp_path / "away.db")
    assert run("decrypt", str(exported), "--key", kit, "-o", str(tmp_path / "2")).code == 0
    assert run("decrypt", str(stored), "--key", kit, "-o", str(tmp_path / "3")).code == 2
    assert run("decrypt", str(stored), "--key", kit, "-o", str(tmp_path / "3"), "--iv", copy.iv.hex()).code == 0
    assert [(tmp_path / name).read_bytes() for name in "123"] == [b"content"] * 3
    assert run("decrypt", str(stored), "--key", kit, "-o", str(tmp_path / "4"), "--iv", "00" * 16).code == 13
    assert run("decrypt", str(stored), "--key", kit, "-o", str(tmp_path / "4"), "--iv", "xyz").code == 2
    assert not (tmp_path / "4").exists()


def test_a_damaged_object_is_told_and_leaves_nothing(world: World, run: Run, kit: str, tmp_path: Path) -> None:
    key = world.put(world.source(), "a", b"content")
    copy = world.elements[key].copy
    assert copy is not None
    stored = tmp_path / "storage/objects" / copy.sha256.hex()[:2] / copy.sha256.hex()
    stored.chmod(0o600)
    stored.write_bytes(b"\x00" * 16)
    answer = run("decrypt", key.id, "--key", kit, "-o", str(tmp_path / "out"))
    assert answer.code == 4
    assert "recorded" in answer.err
    assert not (tmp_path / "out").exists()


def test_the_wrong_key_decrypts_nothing(world: World, run: Run, tmp_path: Path) -> None:
    key = world.put(world.source(), "a", b"content")
    (tmp_path / "wrong.json").write_text(json.dumps(kit_fields(OTHER_KIT)))
    (tmp_path / "wrong.json").chmod(0o600)
    assert run("decrypt", key.id, "--key", str(tmp_path / "wrong.json"), "-o", str(tmp_path / "out")).code == 13
    assert not (tmp_path / "out").exists()


# --- recipe ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_printed_recipe_opens_the_object(
    world: World, run: Run, kit: str, tmp_path: Path, *, is_packed: bool
) -> None:
    source = world.source()
    world.put(source, "before.txt", b"before")
    key = world.put(source, "name.txt", b"content")
    if is_packed:
        assert run("storage", "pack", "--all").code == 0
    answer = run("recipe", key.id, "--key", kit)
    assert answer.code == 0
    assert KIT.passphrase not in answer.out + answer.err
    (tmp_path / "recipe.sh").write_text("set -e\n" + answer.out)
    ran = shell("sh recipe.sh", tmp_path, key=KIT.passphrase)
    assert (tmp_path / "plain.bin").read_bytes() == b"content"
    assert json.loads(ran.splitlines()[-1])["fileName"] == "name.txt"
    steps = run("recipe", key.id, "--key", kit, "--json").json["steps"]
    assert [step["command"] for step in steps] == [line for line in answer.out.splitlines() if not line.startswith("#")]


def test_without_a_kit_the_recipe_says_what_it_assumes(world: World, run: Run) -> None:
    key = world.put(world.source(), "name.txt", b"content")
    answer = run("recipe", key.id)
    assert "iter:6000" in answer.out
    assert "6000 rounds" in answer.err
    assert "6000 rounds" in run("recipe", key.id, "--json").err


def test_a_plain_copy_needs_no_recipe_but_a_check(world: World, run: Run, tmp_path: Path) -> None:
    key = world.put(world.source(None), "name.txt", b"content")
    lines = run("recipe", key.id, "--json").json["steps"]
    for step in lines:
        shell(step["command"], tmp_path)
    assert (tmp_path / "plain.bin").read_bytes() == b"content"


def test_what_was_never_stored_has_no_recipe(world: World, run: Run) -> None:
    key = world.see(world.source(), "a")
    answer = run("recipe", key.id)
    assert answer.code == 3
    assert "kropotcli history" in answer.err
