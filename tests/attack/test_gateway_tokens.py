"""Weak keys, an administrator who reads along, and tokens that live again: none of it holds."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from kropot.cli.main import cli
from kropot.gateway.entries import Sealings
from kropot.gateway.keys import MasterKey
from kropot.gateway.revocations import Revocations, RevocationsError
from kropot.gateway.sources import seen
from kropot.gateway.state import open_state
from kropot.gateway.tokens import TokenBook
from kropot.sc2.kits import STORED_SALT
from kropot.serving.keyfile import parse_key
from tests.gateway.serve import ADMIN, DOCUMENTED, KEY, PLAIN, STREAM, Client, Served
from tests.ledger.databases import FIRST_VERSION

if TYPE_CHECKING:
    from click.testing import Result

PASSPHRASE, ROUNDS = "secureCopyEncryptionKey", "secureCopyDigestRounds"


def own_key(passphrase: str, rounds: int = 6000) -> dict[str, Any]:
    """Return a request for a token with a passphrase of one's own."""
    spec = {name: value for name, value in copy.deepcopy(DOCUMENTED).items() if name != "id"}
    spec["data"] |= {PASSPHRASE: passphrase, ROUNDS: rounds}
    return spec


# --- passphrases ---


@pytest.mark.parametrize("passphrase", ["Ż", "pa55word", "11 letters.", "  11 letters. \t"])
def test_short_passphrase_makes_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["gateway", "token", "create", "-"], input=json.dumps(own_key(passphrase)))
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "fewer than 12 characters" in done.stderr
    assert "leave it out and the gateway makes a key" in done.stderr
    assert passphrase.strip() not in done.output
    assert CliRunner().invoke(cli, ["gateway", "token", "list", "--json"]).stdout == ""


def test_short_passphrase_is_refused_over_http_too(tmp_path: Path) -> None:
    with Served(tmp_path) as gateway:
        admin = gateway.client(ADMIN)
        answer = admin.session.post(f"{admin.url}/auth/token/generate", json=own_key("short"), timeout=20)
        assert answer.status_code == 400
        assert "fewer than 12 characters" in answer.json()["fields"][f"form.data.{PASSPHRASE}"][0]


def test_few_rounds_draw_a_warning_that_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for rounds, warned in {1: True, 999: True, 1000: False}.items():
        spec = own_key("twelve chars", rounds)
        done = CliRunner().invoke(cli, ["gateway", "token", "create", "-"], input=json.dumps(spec))
        assert done.exit_code == 0, done.stderr
        assert (f"leave out {PASSPHRASE} and the gateway makes a key" in done.stderr) == warned
        assert "twelve chars" not in done.output


def test_few_rounds_draw_a_warning_over_http_too(tmp_path: Path) -> None:
    with Served(tmp_path) as gateway:
        admin = gateway.client(ADMIN)
        for rounds, warned in {1: True, 6000: False}.items():
            spec = own_key("twelve chars", rounds)
            answer = admin.session.post(f"{admin.url}/auth/token/generate", json=spec, timeout=20)
            assert (answer.status_code, "warning" in answer.json()) == (201, warned)


def test_made_key_draws_no_warning(tmp_path: Path) -> None:
    with Served(tmp_path) as gateway:
        book = gateway.server.service.book
        made = book.create({**STREAM, "data": {"secureCopyEncryptionMethod": "aes-256-cbc"}})
        assert made.warning is None
        assert made.kit is not None
        again = book.create({**{name: value for name, value in made.kit.items() if name != STORED_SALT}, "id": None})
        assert again.warning is None, "a kit is a request itself, and its key cannot be guessed"


def test_token_of_before_keeps_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(tmp_path) as gateway:
        (gateway.folder / "file").write_bytes(b"content")
        gateway.server.rescan()
        with monkeypatch.context() as before:
            before.setattr("kropot.gateway.tokenspec.MIN_PASSPHRASE", 1)
            client = gateway.client(own_key("a", 1))
    with Served(tmp_path) as gateway:
        client.url = gateway.server.url
        assert client.content(client.ids()[b"file"]).plain == b"content"


# --- roles ---


def test_administrator_pulls_nothing(tmp_path: Path) -> None:
    with Served(tmp_path) as gateway:
        (gateway.folder / "salary.txt").write_bytes(b"top secret")
        gateway.server.rescan()
        plain, admin = gateway.client(PLAIN), gateway.client(ADMIN)
        element = plain.ids()[b"salary.txt"]
        for route in ("list", f"{element}/content", f"{element}/submitdata"):
            answer = admin.get(f"/secure-copy/file/{route}")
            assert (answer.status_code, b"salary" in answer.content, b"secret" in answer.content) == (403, False, False)
        both = gateway.client({**ADMIN, "roles": [*ADMIN["roles"], *STREAM["roles"]]})
        assert both.content(element).plain == b"top secret", "who asks for both roles gets both"


def test_plain_warning_is_for_tokens_that_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spec, warned in ((ADMIN, False), (PLAIN, True)):
        done = CliRunner().invoke(cli, ["gateway", "token", "create", "-", "--plain"], input=json.dumps(spec))
        assert (done.exit_code, "this token is plain" in done.stderr) == (0, warned)


# --- revoked tokens ---


def is_admitted(gateway: Served, token: str) -> bool:
    return Client(gateway.server.url, token, None).get("/secure-copy/file/list").status_code == 200


def copy_database(tmp_path: Path, name: str) -> Path:
    """Copy the whole of a closed database."""
    file = tmp_path / "state" / "gateway.db"
    with closing(sqlite3.connect(file)) as at:
        at.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Path(shutil.copy(file, tmp_path / name))


def put_back(tmp_path: Path, kept: Path) -> None:
    """Put a copy in the place of the database."""
    for path in (tmp_path / "state").glob("gateway.db*"):
        path.unlink()
    shutil.copy(kept, tmp_path / "state" / "gateway.db")


def test_older_database_brings_no_revoked_token_back(tmp_path: Path) -> None:
    revocations = tmp_path / "revoked"
    with Served(tmp_path, revocations=revocations) as gateway:
        revoked, other = gateway.client(PLAIN).token, gateway.client(PLAIN).token
    kept = copy_database(tmp_path, "kept.db")
    with Served(tmp_path, revocations=revocations) as gateway:
        assert is_admitted(gateway, revoked)
        gateway.server.service.book.revoke(revoked)
        assert not is_admitted(gateway, revoked)
    put_back(tmp_path, kept)
    with capture_logs() as lines, Served(tmp_path, revocations=revocations) as gateway:
        assert not is_admitted(gateway, revoked)
        assert is_admitted(gateway, other)
    [line] = [line for line in lines if line["event"] == "tokens_revoked_again"]
    assert line["count"] == 1
    with Served(tmp_path, revocations=tmp_path / "empty") as gateway:  # the database knows it again
        assert not is_admitted(gateway, revoked)


def test_whoever_writes_the_database_brings_no_revoked_token_back(tmp_path: Path) -> None:
    with Served(tmp_path, revocations=tmp_path / "revoked") as gateway:
        client = gateway.client(PLAIN)
        gateway.server.service.book.revoke(client.token)
        with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at:
            at.execute("UPDATE gateway_token SET revoked_s = NULL")
            at.commit()
        gateway.server.service.book._remembered.clear()
        assert not is_admitted(gateway, client.token), "while the gateway runs"


def test_revocation_by_another_user_is_kept_too(tmp_path: Path) -> None:
    with Served(tmp_path, revocations=tmp_path / "mine") as gateway:
        token = gateway.client(PLAIN).token
    kept = copy_database(tmp_path, "kept.db")
    with Served(tmp_path, revocations=tmp_path / "of another user") as gateway:
        gateway.server.service.book.revoke(token)
    with Served(tmp_path, revocations=tmp_path / "mine"):
        pass  # one start with the database that knows is enough
    put_back(tmp_path, kept)
    with Served(tmp_path, revocations=tmp_path / "mine") as gateway:
        assert not is_admitted(gateway, token)


def test_running_gateway_learns_of_revocations(tmp_path: Path) -> None:
    with Served(tmp_path, revocations=tmp_path / "mine") as gateway:
        token = gateway.client(PLAIN).token
        book = TokenBook(gateway.server.service.state, MasterKey(KEY))
        book.revoke(token)
        stop = threading.Event()
        scanning = threading.Thread(target=gateway.server.service.scan_forever, args=(stop,))
        scanning.start()
        deadline = time.monotonic() + 10
        while not list((tmp_path / "mine").glob("*.revoked")) and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()
        scanning.join()
        assert len(list((tmp_path / "mine").glob("*.revoked"))) == 1


def test_command_keeps_revocations_apart_and_makes_no_revoked_id_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state of the user"))

    def token(*args: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, ["gateway", "token", *args], input=stdin)

    spec = json.dumps({**PLAIN, "id": DOCUMENTED["id"]})
    assert token("create", "-", stdin=spec).exit_code == 0
    shutil.copy("gateway.db", "kept.db")
    assert token("revoke", "1").exit_code == 0
    [path] = (tmp_path / "state of the user").rglob("*.revoked")
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (0o600, b"")
    assert str(DOCUMENTED["id"]) not in path.name
    shutil.copy("kept.db", "gateway.db")
    row = json.loads(token("list", "--json").stdout)
    assert row["status"] == "revoked"
    (tmp_path / "gateway.db").unlink()
    again = token("create", "-", stdin=spec)
    assert (again.exit_code, "was revoked: choose another id" in again.stderr) == (1, True)


def test_folder_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    for name in ("files", "served"):
        (tmp_path / name).mkdir()

    def gateway(*args: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, ["gateway", *args], input=stdin)

    assert gateway("token", "create", "-", "--plain", stdin=json.dumps(PLAIN)).exit_code == 0
    for args in (["token", "list"], ["serve", "--source", "files", "--port", "0"]):
        done = gateway(*args, "--revocations", "file/here")
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
        assert "cannot read the folder of revoked tokens" in done.stderr
        assert "--revocations" in done.stderr

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as no_room:
        no_room.setattr("kropot.gateway.revocations.write_new", full)
        done = gateway("token", "revoke", "1")
        assert (done.exit_code, "cannot write to the folder of revoked tokens" in done.stderr) == (1, True)
        assert json.loads(gateway("token", "list", "--json").stdout)["status"] == "revoked"
        # A gateway that cannot write there goes on, and says so.
        with capture_logs() as lines, Served(tmp_path / "served", revocations=tmp_path / "r") as served:
            client = served.client(PLAIN)
            with pytest.raises(RevocationsError):
                served.server.service.book.revoke(client.token)
            assert not is_admitted(served, client.token)
            served.server.service.book.agree_on_revocations()
        assert "revocations_not_kept" in {line["event"] for line in lines}
        assert client.token not in repr(lines)


def test_a_folder_that_cannot_be_written_to_still_revokes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Served(tmp_path, revocations=tmp_path / "r") as served:
        book = served.server.service.book
        first, second = served.client(PLAIN), served.client(PLAIN)
        book.revoke(second.token)
        monkeypatch.setattr("kropot.gateway.revocations.write_new", full)
        with pytest.raises(RevocationsError):
            book.revoke(first.token)
        with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at:  # an older copy comes back
            at.execute("UPDATE gateway_token SET revoked_s = NULL WHERE number = 2")
            at.commit()
        book.agree_on_revocations()
        with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at:
            assert at.execute("SELECT count(*) FROM gateway_token WHERE revoked_s IS NULL").fetchall() == [(0,)]
        assert [is_admitted(served, client.token) for client in (first, second)] == [False, False]


# --- IVs ---


def test_whoever_writes_the_database_gets_no_iv_twice(tmp_path: Path) -> None:
    with Served(tmp_path) as gateway:
        file = gateway.folder / "file"
        file.write_bytes(b"A" * 64 + b"version one: 1000 EUR to Alice.." * 4)
        gateway.server.rescan()
        client = gateway.client()
        element = client.ids()[b"file"]
        one = client.content(element)
        with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at:
            [(nonce,)] = at.execute("SELECT nonce FROM gateway_file WHERE path = ?", (b"file",))
            file.write_bytes(b"A" * 64 + b"version one: 1000 EUR to Alice.." + b"version two: 9999 EUR to Mallory" * 3)
            gateway.server.rescan()
            at.execute("UPDATE gateway_file SET nonce = ? WHERE path = ?", (nonce, b"file"))
            at.commit()
            assert at.execute("SELECT nonce FROM gateway_file WHERE path = ?", (b"file",)).fetchall() == [(nonce,)]
    with Served(tmp_path) as gateway:
        client.url = gateway.server.url
        two = client.content(element)
    assert (one.plain[:96], one.plain == two.plain) == (two.plain[:96], False)
    assert one.iv != two.iv
    assert one.sealed[:16] != two.sealed[:16], "no block shows that the contents begin alike"


def test_row_that_claims_an_unsettled_version_is_not_believed(tmp_path: Path) -> None:
    with Served(tmp_path) as gateway:
        file = gateway.folder / "file"
        file.write_bytes(b"one")
        gateway.server.rescan()
        client = gateway.client()
        element = client.ids()[b"file"]
    settle_s = 1.5
    with Served(tmp_path, settle_s=settle_s) as gateway:
        client.url = gateway.server.url
        file.write_bytes(b"two")
        now = seen(file.stat())
        with closing(sqlite3.connect(tmp_path / "state" / "gateway.db")) as at:
            at.execute("UPDATE gateway_file SET identity = ?", (now.identity,))
            at.commit()
        assert client.content(element).plain == b"two"
        assert time.time_ns() - now.ctime_ns >= settle_s * 1e9, "a later write could still have looked the same"


# --- before ---


def test_database_of_the_first_version_opens(tmp_path: Path) -> None:
    """Its tokens are admitted, and its versions keep their tags, so that collectors fetch nothing again."""
    file = tmp_path / "state" / "gateway.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as at:
        at.executescript((FIRST_VERSION / "gateway.sqlite.sql").read_text())
    state = open_state(f"sqlite:///{file}", create=False)
    key = parse_key((FIRST_VERSION / "gateway.key").read_bytes(), "the key")
    book = TokenBook(state, MasterKey(key), revocations=Revocations(tmp_path / "revoked"))
    book.agree_on_revocations()
    token = book.find((FIRST_VERSION / "token").read_text().strip())
    assert token is not None
    assert token.refusal(now_s=1_800_000_000, ip=None, user_agent="") is None
    assert token.may("securecopy.stream")
    sealings = Sealings(state.source().uid)
    entries = [sealings.entry(token, row) for row in state.page(None, 100)[0]]
    state.close()
    collected = (FIRST_VERSION / "ledger.sqlite.sql").read_text()
    assert len(entries) == 6
    for entry in entries:
        assert entry.etag is not None
        for claim in (entry.id, entry.etag):
            assert claim.encode().hex().upper() in collected
