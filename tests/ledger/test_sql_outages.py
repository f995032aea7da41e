"""What happens when the database goes away in mid-run, or its connections do: nothing is lost, nothing stands twice."""

from __future__ import annotations

import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pymysql
import pytest
from sqlalchemy import make_url

from ledger.errors import LedgerUnavailableError
from ledger.log import Ledger
from ledger.sql import open_store
from tests.ledger.databases import fresh_url, run_mariadb, run_postgresql, server_url
from tests.ledger.world import began, observed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.stores import LedgerStore

SERVERS = ("postgresql", "mariadb")


class Proxy:
    """A door to a server on loopback; while it is shut, its connections are broken and new ones refused."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._ended = threading.Event()
        self.port = 0
        self.let_in()

    def let_in(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for one in self._open:
            with closing(one):
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the other side was faster
        self._open.clear()

    def end(self) -> None:
        self._ended.set()
        self.shut()

    def _accept(self, listener: socket.socket) -> None:
        while not self._ended.is_set():
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [client, server]
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()


def _pump(client: socket.socket, server: socket.socket) -> None:
    pairs = {client.fileno(): (client, server), server.fileno(): (server, client)}
    waiting = select.poll()
    for descriptor in pairs:
        waiting.register(descriptor, select.POLLIN)
    try:
        while True:
            for descriptor, _ in waiting.poll():
                ready, other = pairs[descriptor]
                data = ready.recv(65536)
                if not data:
                    return
                other.sendall(data)
    except (OSError, ValueError):
        return
    finally:
        client.close()
        server.close()


@contextmanager
def through_proxy(kind: str, folder: Path) -> Iterator[tuple[str, Proxy]]:
    with fresh_url(kind, folder) as url:
        parsed = make_url(url)
        proxy = Proxy(parsed.port or {"postgresql": 5432, "mariadb": 3306}[kind])
        try:
            yield parsed.set(port=proxy.port).render_as_string(hide_password=False), proxy
        finally:
            proxy.end()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_connection_that_was_cut_is_made_anew(kind: str, tmp_path: Path) -> None:
    with through_proxy(kind, tmp_path) as (url, proxy):
        store = open_store(url, create=True)
        ledger = Ledger(store)
        ledger.append([began()])
        for number in range(5):
            ledger.append([observed(number)])
            proxy.shut()
            proxy.let_in()
            assert ledger.head().position == number + 3
            proxy.shut()
            proxy.let_in()
        assert ledger.append([observed("last")]).first == 8
        store.close()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_database_that_is_away_is_said_to_be_and_used_again_when_it_is_back(kind: str, tmp_path: Path) -> None:
    with through_proxy(kind, tmp_path) as (url, proxy):
        store = open_store(url, create=True)
        ledger = Ledger(store)
        ledger.append([began()])
        proxy.shut()
        for _ in range(2):
            with pytest.raises(LedgerUnavailableError):
                ledger.append([observed("x")], batch_key=b"one")
            with pytest.raises(LedgerUnavailableError):
                ledger.head()
            with pytest.raises(LedgerUnavailableError):
                ledger.work.take(instance="main", lease_us=1, now_us=1)
        proxy.let_in()
        assert ledger.append([observed("x")], batch_key=b"one").last == 3
        assert ledger.append([observed("x")], batch_key=b"one").last == 3
        assert len(list(ledger.events())) == 3
        store.close()


def kill_sessions(kind: str, url: str) -> None:
    """End every session of this database, as a restart of the server would."""
    if kind == "postgresql":
        schema = make_url(url).query["options"]
        assert isinstance(schema, str)
        name = schema.partition("=")[2]
        run_postgresql(
            server_url(kind),
            f"SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
            f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '{name}' AND l.pid <> pg_backend_pid()",
        )
    else:
        database = make_url(url).database
        server = server_url(kind)
        sessions = f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
        for (number,) in run_mariadb(server, sessions):
            with suppress(pymysql.err.OperationalError):  # it has ended by itself
                run_mariadb(server, f"KILL {number}")


def write_patiently(store: LedgerStore, writer: str, count: int) -> None:
    """Append one element after another, each as often as it takes."""
    ledger = Ledger(store, writer=writer)
    for number in range(count):
        name = f"{writer} {number}"
        while True:
            try:
                ledger.append([observed(name)], batch_key=name.encode())
                break
            except LedgerUnavailableError:
                continue


@pytest.mark.parametrize("kind", SERVERS)
def test_sessions_killed_in_mid_write_lose_and_double_nothing(kind: str, tmp_path: Path) -> None:
    with fresh_url(kind, tmp_path) as url, ThreadPoolExecutor(2) as pool:
        stores = [open_store(url, create=True) for _ in range(3)]
        Ledger(stores[0]).append([began()])
        running = [pool.submit(write_patiently, stores[n], str(n), 25) for n in range(2)]
        while not all(one.done() for one in running):
            time.sleep(0.05)
            kill_sessions(kind, url)
        for one in running:
            one.result()
        records = list(Ledger(stores[2]).events(after=2))
        assert [record.position for record in records] == list(range(3, 53))
        assert {record.key.id for record in records if record.key} == {f"{n} {i}" for n in range(2) for i in range(25)}
        for store in stores:
            store.close()
