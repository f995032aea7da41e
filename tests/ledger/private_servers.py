"""A PostgreSQL or MariaDB of a test's own, which it may stop like a machine that fails, and start again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pymysql
import pytest
from sqlalchemy import make_url

from tests.ledger.databases import run_mariadb, run_postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SERVERS = ("postgresql", "mariadb")
PATIENCE_S = 60
_USERS = {"postgresql": "postgres", "mariadb": "mysql"}
_PROGRAMS = {"postgresql": ("initdb", "postgres"), "mariadb": ("mariadb-install-db", "mariadbd")}


@dataclass
class PrivateServer:
    """A server on loopback below `folder`, without the syncs that only a power cut would miss.

    `user` is whose process it is where the tests run as root, which neither server will.
    """

    kind: str
    folder: Path
    programs: Mapping[str, str]
    user: str | None
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _log: Path = field(init=False)

    def __post_init__(self) -> None:
        self._log = self.folder / "log"

    @property
    def url(self) -> str:
        """The ledger's URL here."""
        name = "postgres" if self.kind == "postgresql" else "kropot"
        return f"{self.kind}://kropot@127.0.0.1:{self.port}/{name}"

    @property
    def pid(self) -> int:
        """The number of its first process; 0 where it does not run."""
        return 0 if self._process is None else self._process.pid

    def make(self) -> None:
        """Make its files."""
        data = self.folder / "data"
        if self.kind == "postgresql":
            command = ["initdb", "-D", str(data), "-U", "kropot", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        else:
            command = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
            command += ["--auth-root-authentication-method=normal"]
        with self._log.open("ab") as log:
            made = subprocess.run(
                [self.programs[command[0]], *command[1:]],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self.user,
                group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
                check=False,
            )
        assert made.returncode == 0, self.log()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.start()
        if self.kind == "mariadb":
            root = make_url(self.url).set(username="root", database=None)
            run_mariadb(
                root,
                "CREATE DATABASE kropot",
                "CREATE USER kropot@'%' IDENTIFIED BY ''",
                "GRANT ALL ON *.* TO kropot@'%'",
            )

    def start(self) -> None:
        """Start it, and return once it answers."""
        data = self.folder / "data"
        if self.kind == "postgresql":
            settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
            command = ["postgres", "-D", str(data), "-p", str(self.port)]
            command += [word for setting in settings for word in ("-c", setting)]
        else:
            command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={self.folder / 'socket'}"]
            command += [f"--port={self.port}", "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=2"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs[command[0]], *command[1:]],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self.user,
                group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def empty(self) -> None:
        """Make the ledger's database anew, as no test has used it yet."""
        if self.kind == "postgresql":
            run_postgresql(make_url(self.url), "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        else:
            run_mariadb(make_url(self.url).set(database=None), "DROP DATABASE kropot", "CREATE DATABASE kropot")

    def stop_at_once(self) -> None:
        """End it without a farewell to anybody: every session is cut, what was not committed is gone."""
        process, self._process = self._process, None
        if process is not None:
            # On SIGQUIT PostgreSQL stops "immediate" and takes its children with it; MariaDB has none.
            process.send_signal(signal.SIGQUIT if self.kind == "postgresql" else signal.SIGKILL)
            process.wait(PATIENCE_S)

    def log(self) -> str:
        """What it wrote last."""
        return self._log.read_text(errors="replace")[-3000:]

    def _answers(self) -> bool:
        try:
            if self.kind == "postgresql":
                run_postgresql(make_url(self.url), "SELECT 1")
            else:
                run_mariadb(make_url(self.url).set(username="root", database=None), "SELECT 1")
        except (psycopg.Error, pymysql.Error):
            return False
        return True


@contextmanager
def private_server(kind: str) -> Iterator[PrivateServer]:
    """Yield a running server of this kind, removed in the end; skip where its programs are not installed.

    Not below pytest's own folder, which other users may not enter.
    """
    programs, user = _needs(kind)
    folder = Path(tempfile.mkdtemp(prefix=f"kropot-{kind}-"))
    server = PrivateServer(kind=kind, folder=folder, programs=programs, user=user)
    try:
        if user is not None:
            shutil.chown(folder, user)
        server.make()
        yield server
    finally:
        server.stop_at_once()
        shutil.rmtree(folder)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _needs(kind: str) -> tuple[dict[str, str], str | None]:
    """Return the programs by name, and the user to run them as; skip, or fail where a server is demanded."""
    found = {name: _find(name) for name in _PROGRAMS[kind]}
    programs = {name: path for name, path in found.items() if path is not None}
    missing = [name for name, path in found.items() if path is None]
    user = None
    if os.geteuid() == 0:
        user = _USERS[kind]
        try:
            pwd.getpwnam(user)
        except KeyError:
            missing.append(f"the user {user}")
    if missing:
        reason = f"no {kind} of its own: {', '.join(missing)} not found"
        if os.environ.get("KROPOT_TEST_REQUIRE_DB"):
            pytest.fail(f"{reason}, and KROPOT_TEST_REQUIRE_DB says that it must be there")
        pytest.skip(reason)
    return programs, user


def _find(name: str) -> str | None:
    """Return a program's path; Debian keeps PostgreSQL's off the PATH, and MariaDB's where only root looks."""
    found = shutil.which(name)
    if found is None:
        places = [*Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr/sbin")]
        kept = [place / name for place in places if (place / name).exists()]
        found = str(max(kept, key=_version)) if kept else None
    return found


def _version(path: Path) -> int:
    word = path.parents[1].name
    return int(word) if word.isdigit() else 0
