"""The program against a server that does everything wrong: nothing false is stored, and nothing sound is missed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from kropot.errors import Exit
from kropot.objects.opening import open_store as open_storage
from kropot.securecopy import bulkwire
from kropot.securecopy.sealing import open_stream
from ledger.log import Ledger
from ledger.sql import open_store
from tests.oldserver import (
    BORNE_FAULTS,
    CONTENT_FAULTS,
    LIST_FAULTS,
    Body,
    Both,
    Endless,
    Fault,
    GzipBomb,
    OldServer,
    Redirect,
    Request,
    Status,
    always,
    drip,
    for_ids,
    seeded,
)
from tests.simulation.sealed import SealedServer

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.events import Element
    from tests.conftest import RunCli

TOKEN = "a-token-that-nobody-else-may-see"


def name_of(number: int) -> str:
    return f"plain-name-{number:04}.txt"


def files(count: int) -> dict[str, bytes]:
    return {name_of(number): b"bread and roses " * (number % 90) + b"%d" % number for number in range(count)}


class Replica:
    """One replica of one server, as a user sees it."""

    def __init__(self, server: OldServer, run_cli: RunCli, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._run = run_cli

    def run(self, *command: str, timeout_s: int = 1) -> tuple[int, str, str]:
        done = self._run(
            "--server-url", self.server.url, "--http-timeout", str(timeout_s), *command, env={"KROPOT_TOKEN": TOKEN}
        )
        assert "Traceback" not in done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr

    def elements(self) -> dict[str, Element]:
        """Return what the ledger says of each element, by the name that only the server knows."""
        names = {id_: name for name, id_ in self.server.ids().items()}
        store = open_store(f"sqlite:///{self.folder / 'database.db'}", read_only=True)
        try:
            entries = list(Ledger(store).scan())
        finally:
            store.close()
        return {names.get(entry.key.id, entry.key.id): entry.element for entry in entries if entry.element is not None}

    def assert_sound(self) -> set[str]:
        """Return the names of all files with a copy; each copy MUST open to what the file holds."""
        copied = set()
        for name, element in self.elements().items():
            if (copy := element.copy) is None:
                continue
            with open_storage(self.folder / "storage", "look").objects().open(copy.sha256) as file:
                sealed = file.read()
            assert copy.iv is not None
            plain = b"".join(open_stream([sealed], self.server.kit.key(copy.iv), copy.iv))
            assert plain == self.server.content(name), name
            copied.add(name)
        return copied

    def assert_tells_nothing(self) -> None:
        """Neither the ledger nor the storage holds a plain name or the token."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                held = path.read_bytes()
                assert b"plain-name" not in held, path
                assert TOKEN.encode() not in held, path
            assert "plain-name" not in path.name


def test_no_fault_of_a_content_is_taken_for_a_copy(run_cli: RunCli, tmp_path: Path) -> None:
    count = len(CONTENT_FAULTS)
    with OldServer(files(count + 3), token=TOKEN) as server:
        replica = Replica(server, run_cli, tmp_path)
        faults = {server.id_of(name_of(number)): fault for number, fault in enumerate(CONTENT_FAULTS)}
        server.plan = for_ids(faults)
        code, _, _ = replica.run("collect", "--once")
        assert code == Exit.PARTIAL
        copied = replica.assert_sound()
        sound = {name_of(number) for number in range(count, count + 3)}
        borne = {name_of(number) for number, fault in enumerate(CONTENT_FAULTS) if fault in BORNE_FAULTS}
        assert copied == sound | borne
        failures = {element.failure for name, element in replica.elements().items() if name not in copied}
        assert len({failure.reason for failure in failures if failure is not None}) > 10
        server.plan = None
        assert replica.run("collect", "--once")[0] == Exit.DONE
        assert replica.assert_sound() == set(server.names())
        assert replica.run("verify")[0] == Exit.DONE
        replica.assert_tells_nothing()


@pytest.mark.parametrize("seed", range(2))
def test_a_server_that_fails_at_random_is_copied_in_the_end(run_cli: RunCli, tmp_path: Path, seed: int) -> None:
    with OldServer(files(40), token=TOKEN, seed=seed) as server:
        replica = Replica(server, run_cli, tmp_path)
        lists = seeded(seed, 0.3, LIST_FAULTS, "list", "submitdata", visits=4)
        contents = seeded(seed, 0.5, CONTENT_FAULTS, "content", visits=3)
        server.plan = lambda request: lists(request) or contents(request)
        codes = []
        while not codes or (codes[-1] != Exit.DONE and len(codes) < 12):
            codes.append(replica.run("collect", "--once")[0])
            replica.assert_sound()
        assert set(codes) <= {Exit.DONE, Exit.PARTIAL, Exit.ERROR}
        assert codes[-1] == Exit.DONE
        assert replica.assert_sound() == set(server.names())
        assert replica.run("verify")[0] == Exit.DONE


def test_a_list_that_never_can_be_read_ends_the_run_and_changes_nothing(run_cli: RunCli, tmp_path: Path) -> None:
    endless = Both(Endless(filler=b"x" * (1 << 20)), drip(piece=1 << 20, pause_s=0.001))
    with OldServer(files(3), token=TOKEN) as server:
        replica = Replica(server, run_cli, tmp_path)
        assert replica.run("collect", "--once")[0] == Exit.DONE
        for fault in (Body(b"{}\n\n"), GzipBomb(), endless):
            server.plan = always(fault, "list")
            code, _, told = replica.run("collect", "--once", "--full")
            assert code in {Exit.ERROR, Exit.PARTIAL}
            assert "could not be listed" in told
            assert {element.state for element in replica.elements().values()} == {"current"}


def test_the_token_follows_no_redirect(run_cli: RunCli, tmp_path: Path) -> None:
    with OldServer(files(2), token=TOKEN) as elsewhere, OldServer(files(2), token=TOKEN) as server:
        replica = Replica(server, run_cli, tmp_path)

        def away(request: Request) -> Fault | None:
            return Redirect(f"{elsewhere.url}{request.path}") if request.kind == "content" else None

        server.plan = away
        assert replica.run("collect", "--once")[0] == Exit.PARTIAL
        server.plan = always(Redirect(f"{elsewhere.url}/secure-copy/file/list"))
        assert replica.run("collect", "--once")[0] in {Exit.ERROR, Exit.PARTIAL}
        assert replica.assert_sound() == set()
        assert elsewhere.asked() == []


def test_a_token_that_expires_in_mid_run_stops_it(run_cli: RunCli, tmp_path: Path) -> None:
    with OldServer(files(2000), token=TOKEN) as server:
        replica = Replica(server, run_cli, tmp_path)
        server.before(100, server.expire_token)
        code, _, told = replica.run("collect", "--once")
        assert code == Exit.REFUSED
        assert "token" in told
        assert len(server.asked()) < 1000
        assert 0 < len(replica.assert_sound()) < 2000
        server.change_token(expires=None)
        assert replica.run("collect", "--once")[0] == Exit.DONE
        assert replica.assert_sound() == set(server.names())


def test_hostile_rows_harm_no_other(run_cli: RunCli, tmp_path: Path) -> None:
    hostile: list[dict[str, Any]] = [
        {"id": "../../../../escaped"},
        {"id": "/etc/passwd"},
        {"id": "a\0b"},
        {"id": "x" * 10_000},
        {"id": ".."},
        {"id": "\u202egnp.exe"},
        {"id": "\uff41\uff42"},
        {"id": "two\nlines"},
        {"id": 7},
        {"type": "@source"},
        {"type": "unheard-of"},
        {"type": None},
        {"date": "yesterday"},
        {"date": 1 << 70},
        {"date": -1},
        {"date": 4_102_444_800},
        {"tz": "Mars/Olympus"},
        {"tz": 5},
        {"form": None},
        {"form": []},
        {"form": {"encrypted": 5}},
        {"form": {"encrypted": "A" * 100_000}},
    ]
    with OldServer(files(40), token=TOKEN) as server:
        for number, fields in enumerate(hostile):
            server.list_as(name_of(number), **fields)
        replica = Replica(server, run_cli, tmp_path)
        replica.run("collect", "--once")
        copied = replica.assert_sound()
        assert copied >= {name_of(number) for number in range(len(hostile), 40)}
        assert {path.name for path in tmp_path.iterdir()} <= {
            "storage", "database.db", "database.db-wal", "database.db-shm",
        }  # fmt: skip
        objects = [path for path in (tmp_path / "storage" / "objects").rglob("*") if path.is_file()]
        assert all(len(path.name) == 64 and set(path.name) <= set("0123456789abcdef") for path in objects)
        assert replica.run("verify")[0] == Exit.DONE
        assert replica.run("ls")[0] == Exit.DONE
        assert replica.run("status")[0] == Exit.DONE


def test_a_poison_row_hides_no_other_and_is_reported(run_cli: RunCli, tmp_path: Path) -> None:
    with OldServer(files(30), token=TOKEN) as server:
        server.poison(name_of(11))
        replica = Replica(server, run_cli, tmp_path)
        replica.run("collect", "--once")
        assert replica.assert_sound() == set(server.names()) - {name_of(11)}
        assert json.loads(replica.run("status", "--json")[1])["sources"][0]["unlistable"] != []
        server.cure(name_of(11))
        replica.run("collect", "--once", "--full")
        assert replica.assert_sound() == set(server.names())


@pytest.mark.parametrize("seed", range(2))
def test_whatever_befalls_bulk_answers_everything_is_copied_in_one_run(
    run_cli: RunCli, tmp_path: Path, seed: int
) -> None:
    """Each answer is another fault: contents that did not come in bulk are fetched by themselves."""
    with SealedServer(files(60), token=TOKEN, seed=seed, is_bulk=True) as server:
        replica = Replica(server, run_cli, tmp_path)
        faults = seeded(seed, 1.0, CONTENT_FAULTS, "other", visits=99)
        server.plan = faults
        assert replica.run("collect", "--once")[0] == Exit.DONE
        asked = [request for request in server.asked() if request.path == bulkwire.PATH]
        assert any(faults(request) is not None for request in asked)
        elements = replica.elements()
        for name in server.names():
            copy = elements[name].copy
            assert copy is not None
            content = server.content(name)
            assert copy.sha256 == hashlib.sha256(server.repository.sealing(server._row(name)).whole(content)).digest()
        assert replica.run("verify")[0] == Exit.DONE
        replica.assert_tells_nothing()


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_only_says_that_it_sends_in_bulk_is_copied(run_cli: RunCli, tmp_path: Path, status: int) -> None:
    with SealedServer(files(30), token=TOKEN, is_bulk=True) as server:
        replica = Replica(server, run_cli, tmp_path)
        server.plan = always(Status(status), "other")
        assert replica.run("collect", "--once")[0] == Exit.DONE
        assert {element.state for element in replica.elements().values()} == {"current"}
        asked = [request for request in server.asked() if request.path == bulkwire.PATH]
        assert len(asked) == 1 if status != 500 else len(asked) <= 3
