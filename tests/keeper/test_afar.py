"""Restoring from a keeper: the files come back, only what is wanted is fetched, and no key leaves the machine."""

from __future__ import annotations

import base64
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from kropot.cli.main import cli
from kropot.securecopy.sealing import element_id
from ledger.events import StreamKey
from tests.keeper.owner import FILES, restored
from tests.kropot.sc2_world import VAULT
from tests.kropot.sealed_world import OTHER_VAULT, kit_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.keeper.serve import Kept
    from tests.keeper.wire import Wire
    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.keeper.owner"]


# --- what comes back -------------------------------------------------------------------------------------------------


def test_files_come_back_as_from_a_ledger(afar: Run, kept: Kept, owner: Path) -> None:
    answer = afar("restore", "--key", "vault.json", "--to", "out", "--json")
    assert answer.code == 0, answer.err
    assert restored(owner / "out") == FILES
    place = ("--db-string", f"sqlite:///{kept.folder / 'ledger.db'}", "--storage-path", str(kept.folder / "storage"))
    with pytest.raises(SystemExit):
        cli.main([*place, "restore", "--key", "vault.json", "--to", "local"], prog_name="kropotcli")
    assert restored(owner / "local") == restored(owner / "out")
    again = afar("restore", "--key", "vault.json", "--to", "out")
    assert "4 files" in again.err + again.out
    names = afar("restore", "--key", "vault.json", "--list-names", "--json").lines
    assert [row["name"] for row in names if "name" in row] == sorted(FILES)


def test_an_exact_name_needs_one_look_up(afar: Run, wire: Wire, owner: Path) -> None:
    answer = afar("restore", "--key", "vault.json", "--to", "out", "docs/a.txt")
    assert answer.code == 0, answer.err
    assert restored(owner / "out") == {"docs/a.txt": FILES["docs/a.txt"]}
    id_ = VAULT.element(b"docs/a.txt").hex()
    assert sum(f"/file/{id_}" in line for line in wire.requests) == 1
    assert not any("/headers" in line or "/elements?" in line for line in wire.requests)
    assert sum("/objects/" in line for line in wire.requests) == 1
    assert "only the keeper says" in answer.err + answer.out
    assert not (owner / "cache").exists()


def test_patterns_fetch_the_forms_once_and_only_wanted_contents(afar: Run, kept: Kept, wire: Wire, owner: Path) -> None:
    assert afar("restore", "--key", "vault.json", "--to", "out", "*.txt").code == 0
    assert restored(owner / "out") == {name: FILES[name] for name in ("docs/a.txt", "docs/b.txt")}
    assert sum("/objects/" in line for line in wire.requests) == 2
    assert any("/headers" in line for line in wire.requests)
    wire.sent.clear()
    assert afar("restore", "--key", "vault.json", "--to", "out", "docs").code == 0
    assert "docs/deep/c.bin" in restored(owner / "out")
    assert not any("/headers" in line or "/elements?" in line for line in wire.requests), "all of it was kept"
    source = next(iter(kept.world.ledger.sources()))
    kept.world.seal(source, b"docs/new", b"new")
    kept.world.seal(source, b"top", b"on top again")
    wire.sent.clear()
    assert afar("restore", "--key", "vault.json", "--to", "out2").code == 0
    assert restored(owner / "out2") == FILES | {"docs/new": b"new", "top": b"on top again"}
    assert any("since=" in line for line in wire.requests), "only what is new was fetched"


def test_a_moment_and_a_source_are_chosen_as_in_a_ledger(afar: Run, kept: Kept, owner: Path) -> None:
    source = next(iter(kept.world.ledger.sources()))
    before = kept.world.ledger.head().position
    kept.world.tick()
    kept.world.seal(source, b"top", b"changed")
    other = kept.world.source(None, url="https://other.example")
    kept.world.seal(other, b"elsewhere", b"of another source")
    assert afar("restore", "--key", "vault.json", "--to", "then", "--until", f"@{before}").code == 0
    assert restored(owner / "then") == FILES
    assert afar("restore", "--key", "vault.json", "--to", "top", "--until", f"@{before}", "top").code == 0
    assert restored(owner / "top") == {"top": b"on top"}
    chosen = afar("restore", "--key", "vault.json", "--to", "one", "--source", other.hex()[:8])
    assert (chosen.code, restored(owner / "one")) == (0, {"elsewhere": b"of another source"})
    assert afar("restore", "--key", "vault.json", "--to", "x", "--source", "nobody").code == 2


def test_erased_elements_do_not_come_back_from_the_cache(afar: Run, kept: Kept, owner: Path) -> None:
    assert afar("restore", "--key", "vault.json", "--list-names").code == 0
    source = next(iter(kept.world.ledger.sources()))
    before = list((owner / "cache").rglob("*.jsonl"))
    kept.world.erase(StreamKey(source=source, kind="file", id=VAULT.element(b"top").hex()))
    answer = afar("restore", "--key", "vault.json", "--to", "out")
    assert answer.code == 0, answer.err
    assert restored(owner / "out") == {name: content for name, content in FILES.items() if name != "top"}
    assert len(before) == 1
    assert not before[0].exists(), "it holds the form of what was erased"


def test_what_is_cut_goes_on_where_it_was_cut(afar: Run, wire: Wire, owner: Path) -> None:
    assert afar("restore", "--key", "vault.json", "--list-names").code == 0
    wire.cut_after = [100_000 + 50_000 * number for number in range(8)]
    assert afar("restore", "--key", "vault.json", "--to", "out").code == 0
    assert restored(owner / "out") == FILES
    assert b"\r\nRange: bytes=" in wire.sent


def test_each_content_is_fetched_once_however_many_batches_are_under_way(
    afar: Run, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kropot.restore.batches.BATCH", 1)
    assert afar("restore", "--key", "vault.json", "--to", "out").code == 0
    asked = [line for line in wire.requests if "/objects/" in line]
    assert len(asked) == len(set(asked)) == len(FILES)


def test_a_fetch_of_forms_that_was_killed_goes_on(afar: Run, owner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kropot.afar import replica

    monkeypatch.setattr(replica, "ROWS", 2)
    monkeypatch.setattr(replica.AfarReplica.rows, "__kwdefaults__", {"since": 0, "after": None, "limit": 2})
    assert afar("restore", "--key", "vault.json", "--list-names").code == 0
    [place] = (owner / "cache").rglob("*.jsonl")
    lines = place.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    place.with_name(f"{place.stem}.0.part").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    place.unlink()
    assert afar("restore", "--key", "vault.json", "--to", "out").code == 0
    assert restored(owner / "out") == FILES
    assert place.read_bytes() == b"".join(lines)
    [headers] = (owner / "cache").rglob("headers")
    whole = headers.read_bytes()
    headers.write_bytes(whole[:-20])
    assert afar("restore", "--key", "vault.json", "--list-names").code == 0
    assert headers.read_bytes() == whole


# --- the other commands ----------------------------------------------------------------------------------------------


def test_history_difference_and_drill_ask_the_keeper(afar: Run, kept: Kept) -> None:
    source = next(iter(kept.world.ledger.sources()))
    before = kept.world.ledger.head().position
    kept.world.seal(source, b"top", b"changed")
    rows = afar("history", "top", "--key", "vault.json", "--json").lines
    assert [row["event"] for row in rows] == ["RemoteObserved", "CopyStored", "RemoteChanged", "CopyStored"]
    assert afar("history", VAULT.element(b"top").hex(), "--json").lines == rows
    assert afar("history", "nothing", "--key", "vault.json").code == 2
    assert afar("history", f"{source.hex()[:6]}:top", "--key", "vault.json", "--json").lines == rows
    changed = afar("replay", "--until", f"@{before}", "--diff", "2100-01-01", "--json").lines
    assert [(row["change"], row["id"]) for row in changed] == [("changed", VAULT.element(b"top").hex())]
    assert afar("replay", "--until", f"@{before}").code == 2
    drill = afar("kit", "check", "vault.json", "--json")
    assert (drill.code, drill.json["opened"], drill.json["failed"], drill.json["recorded"]) == (0, 5, 0, False)


def test_the_end_of_a_name_is_found_among_the_names_of_a_keeper(afar: Run, kept: Kept, wire: Wire) -> None:
    source = next(iter(kept.world.ledger.sources()))
    kept.world.seal(source, b"old/a.txt", b"another")
    [row] = afar("history", "deep/c.bin", "--key", "vault.json", "--json").lines[:1]
    assert row["event"] == "RemoteObserved"
    several = afar("history", "a.txt", "--key", "vault.json")
    assert (several.code, several.out) == (2, "")
    assert ":docs/a.txt, " in several.err
    assert ":old/a.txt" in several.err
    assert b"a.txt" not in bytes(wire.sent)


def test_differences_at_a_keeper_have_names_where_the_key_is(afar: Run, kept: Kept, wire: Wire, owner: Path) -> None:
    source = next(iter(kept.world.ledger.sources()))
    other = kept.world.source(None, url="https://other.example")
    before = kept.world.ledger.head().position
    kept.world.seal(source, b"top", b"changed")
    kept.world.vanish(kept.world.seal(other, b"came and went", b""))
    kept.world.seal(other, b"alpha", b"new")
    asked = ("replay", "--until", f"@{before}", "--diff", "2100-01-01")
    plain = afar(*asked, "--json").lines
    named = afar(*asked, "--key", "vault.json", "--json").lines
    told = [(row["change"], row["name"]) for row in named]
    assert told == [("added", "alpha"), ("vanished", "came and went"), ("changed", "top")]
    without = [{name: value for name, value in row.items() if name != "name"} for row in named]
    assert sorted(without, key=str) == sorted(plain, key=str)
    text = afar(*asked, "--key", "vault.json")
    assert f"{other.hex()[:8]}:alpha  current" in text.out
    assert not any(name in bytes(wire.sent) for name in (b"alpha", b"went"))
    foreign = afar(*asked, "--key", kit_file(owner, OTHER_VAULT, "other.json"))
    assert (foreign.code, "3 elements without a name" in foreign.err) == (0, True)
    assert foreign.out.splitlines() == afar(*asked).out.splitlines()


def test_the_same_commands_read_an_export(
    afar: Run, kept: Kept, owner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--db-string", f"sqlite:///{kept.folder / 'ledger.db'}", "--storage-path", str(kept.folder / "storage"))
    with pytest.raises(SystemExit):
        cli.main([*place, "replay", "--export", "export"], prog_name="kropotcli")
    capsys.readouterr()
    assert afar("kit", "check", "vault.json", "--from", "export", "--json").lines[-1]["opened"] == 5
    for name in ("top", "c.bin", f"laptop:{VAULT.element(b'top').hex()}"):
        [row] = afar("history", name, "--key", "vault.json", "--from", "export", "--json").lines
        assert row["event"] == "CopyStored"
    assert afar("history", "bin", "--key", "vault.json", "--from", "export").code == 2
    assert afar("restore", "--key", "vault.json", "--to", "out", "--from", "export").code == 0
    assert restored(owner / "out") == FILES
    assert afar("replay", "--diff", "1d", "--from", "export").code == 2
    assert afar("restore", "--list-names", "--from", "export", "--access-token-file", "token-owner").code == 2


# --- keys and tokens -------------------------------------------------------------------------------------------------


def spellings(secret: bytes) -> list[bytes]:
    return [secret, secret.hex().encode(), base64.b64encode(secret)[:-2], base64.urlsafe_b64encode(secret)[:-2]]


def test_no_key_leaves_the_machine(afar: Run, wire: Wire, owner: Path) -> None:
    for command in (
        ("restore", "--key", "vault.json", "--to", "out"),
        ("restore", "--key", "vault.json", "--to", "out2", "docs/a.txt"),
        ("restore", "--key", "vault.json", "--list-names", "*.txt"),
        ("restore", "--key", "vault.json", "--stdout", "top"),
        ("restore", "--key", "vault.json", "--verify-only"),
        ("history", "top", "--key", "vault.json"),
        ("history", "b.txt", "--key", "vault.json"),
        ("replay", "--until", "@3", "--diff", "@9", "--key", "vault.json"),
        ("kit", "check", "vault.json"),
    ):
        answer = afar(*command)
        assert answer.code == 0, (command, answer.err)
    sent = bytes(wire.sent)
    assert len(wire.requests) > 20
    assert {line.split()[0] for line in wire.requests} == {"GET"}
    for key in (VAULT.id_key, VAULT.etag_key, *VAULT.masters):
        assert not any(each in sent for each in spellings(key))
    for name in (*FILES, "a.txt", "alpha"):
        assert name.encode() not in sent, name
    token = (owner / "token-owner").read_text().strip()
    for path in owner.rglob("*"):
        if path.is_file() and path.name != "token-owner":
            assert token.encode() not in path.read_bytes(), path


def test_other_kits_and_smaller_tokens_are_told_apart(afar: Run, kept: Kept, wire: Wire, owner: Path) -> None:
    other = kit_file(owner, OTHER_VAULT, "other.json")
    wrong = afar("restore", "--key", other, "--to", "out")
    assert wrong.code == 13
    assert not (owner / "out").exists()
    drill = afar("kit", "check", other)
    assert (drill.code, "--from" in drill.err) == (13, True)
    auditor = kept.token_file(owner, role="auditor")
    refused = afar("restore", "--key", "vault.json", "--to", "out", "--from", wire.url, "--access-token-file", auditor)
    assert (refused.code, "is not an owner's" in refused.err) == (12, True)
    nobody = afar("restore", "--key", "vault.json", "--to", "out", "--from", wire.url)
    assert (nobody.code, "--access-token-file" in nobody.err) == (2, True)


def test_a_kit_in_place_of_the_token_is_never_sent(afar: Run, wire: Wire) -> None:
    swapped = ("--key", "vault.json", "--from", wire.url, "--access-token-file", "vault.json")
    for command in (("restore", "--list-names"), ("history", "top"), ("browse",)):
        refused = afar(*command, *swapped)
        assert (refused.code, "never send a kit to anybody" in refused.err) == (2, True), command
    assert not wire.sent


def test_browse_refuses_a_token_that_sees_no_screen(afar: Run, kept: Kept, wire: Wire, owner: Path) -> None:
    monitor = kept.token_file(owner, role="monitor")
    refused = afar("browse", "--key", "vault.json", "--from", wire.url, "--access-token-file", monitor)
    assert (refused.code, "the role auditor" in refused.err) == (12, True)


class Elsewhere(BaseHTTPRequestHandler):
    """Redirects everything to another origin."""

    to = ""
    seen: list[str] = []  # noqa: RUF012 - of one test

    def do_GET(self) -> None:
        type(self).seen.append(str(self.headers.get("Authorization")))
        self.send_response(307)
        self.send_header("Location", f"{self.to}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_the_token_follows_no_redirect_to_another_origin(afar: Run, wire: Wire) -> None:
    Elsewhere.to = wire.url
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    serving = Thread(target=server.serve_forever, daemon=True)
    serving.start()
    url = f"http://127.0.0.1:{server.server_port}"
    answer = afar("restore", "--key", "vault.json", "--list-names", "--from", url, "--access-token-file", "token-owner")
    server.shutdown()
    server.server_close()
    serving.join(10)
    assert answer.code == 1
    assert "which was not followed, because the token is not meant for it" in answer.err
    assert not wire.sent


def test_a_keeper_without_tls_on_another_machine_is_warned_of(afar: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from kropot.afar import client

    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(client.KeeperClient, "_send", refuse)
    answer = afar("restore", "--list-names", "--from", "http://192.0.2.1:8081", "--access-token-file", "token-owner")
    assert answer.code == 1
    assert "is not encrypted, so others on the network can read the token" in answer.err


def test_ids_of_aes_cbc_follow_from_the_stored_salt() -> None:
    from kropot.restore.naming import ids_of
    from kropot.sc2.kit import CbcKey
    from kropot.securecopy.sealing import Kit

    kit = Kit("correct horse battery staple", rounds=1)
    key = CbcKey(kit=kit, stored_salt="salt")
    assert ids_of(b"docs/a", [key]) == [element_id("salt", b"docs/a", kit.digest)]
    assert ids_of(b"docs/a", [CbcKey(kit=kit, stored_salt=None)]) == []
    assert len(ids_of(b"\xff", [key, VAULT])) == 2
    assert json.dumps(ids_of(os.fsencode("a"), [VAULT, VAULT])).count('"') == 2
