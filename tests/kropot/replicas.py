"""A replica for tests of `collect`: the program as a user runs it, and a look at what it left behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kropot.cli.main import cli
from kropot.objects.opening import open_store as open_storage
from kropot.securecopy.sealing import open_stream
from ledger.log import Ledger
from ledger.sql import open_store
from tests.json_schema import hold_to_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.events import Element
    from ledger.replica import Event
    from tests.oldserver import OldServer

PROGRAM = Path(sys.executable).with_name("kropotcli")


@dataclass
class Ran:
    """How a run ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.out.splitlines()[-1]))


@dataclass
class Folder:
    """A folder with a ledger, a storage and a token file; `server` is where it collects from."""

    path: Path
    server: OldServer
    options: tuple[str, ...] = ("--min-free", "1MiB", "--no-segments")

    def __post_init__(self) -> None:
        self.use_token(self.server.token)

    def use_token(self, token: str) -> None:
        file = self.path / "token"
        file.write_text(token)
        file.chmod(0o600)

    def line(self, *args: str) -> list[str]:
        """Return the command line of the program with the shared options in front."""
        return [
            str(PROGRAM),
            *("--token-file", str(self.path / "token")),
            *("--server-url", self.server.url),
            *("--storage-path", str(self.path / "storage")),
            *("--db-string", f"sqlite:///{self.path / 'ledger.db'}"),
            *args,
        ]

    def run(self, *args: str) -> Ran:
        """Run a command to its end, in this process: what a process of its own adds is shown by `collecting`."""
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                cli.main(args=self.line(*args)[1:], prog_name="kropotcli")
            except SystemExit as end:
                code = int(end.code or 0)
        hold_to_schema(args, out.getvalue())
        return Ran(code=code, out=out.getvalue(), err=err.getvalue())

    def collect(self, *args: str) -> Ran:
        """Collect once, with a summary as JSON."""
        return self.run("collect", "--once", "--json", *self.options, *args)

    @contextmanager
    def collecting(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """Collect continuously beside the test; whatever is left of it is killed at the end."""
        process = subprocess.Popen(
            self.line("collect", *self.options, *args),
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)

    # --- what is there ---

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        store = open_store(f"sqlite:///{self.path / 'ledger.db'}", read_only=True)
        try:
            yield Ledger(store)
        finally:
            store.close()

    def elements(self) -> dict[str, Element]:
        """Return every element by its id."""
        with self.ledger() as ledger:
            return {entry.key.id: entry.element for entry in ledger.scan() if entry.element is not None}

    def facts(self, *kinds: type) -> list[Event]:
        with self.ledger() as ledger:
            return [record for record in ledger.events() if isinstance(record.fact, kinds)]

    def object(self, sha256: bytes) -> bytes:
        """Return an object's bytes, from its own file or a pack; they are what their name says."""
        with open_storage(self.path / "storage", "look").objects().open(sha256) as file:
            data = file.read()
        assert hashlib.sha256(data).digest() == sha256
        return data

    def contents(self) -> dict[str, bytes]:
        """Return the opened content of every current element by its id."""
        found = {}
        for id_, element in self.elements().items():
            if element.is_current:
                assert element.copy is not None
                data, iv = self.object(element.copy.sha256), element.copy.iv
                if iv is not None:
                    data = b"".join(open_stream([data], self.server.kit.key(iv), iv))
                found[id_] = data
        return found

    def expected(self) -> dict[str, bytes]:
        """Return what `contents` must be: the server's files by their ids."""
        return {id_: self.server.content(name) for name, id_ in self.server.ids().items()}

    def temporary(self) -> list[Path]:
        return [path for path in (self.path / "storage" / "tmp").rglob("*") if path.is_file() and path.name != "lock"]


def wait_until(what: str, condition: Any, timeout: float = 30) -> None:
    """Wait until a condition holds. Raises: AssertionError saying what did not come."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
