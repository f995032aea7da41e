"""A keeper over a small replica of the test's own, and whoever asks it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import requests

from kropot.keeper.server import KeeperOptions, KeeperServer
from kropot.keeper.tokens import open_tokens
from kropot.keeper.visitor import Role
from kropot.objects.directory import DirectoryObjects
from kropot.objects.opening import open_store as open_storage
from ledger.log import Ledger
from ledger.sql.opening import open_store
from tests.kropot.sealed_world import SealedWorld

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from kropot.keeper.tokens import KeeperTokens


@dataclass
class Visiting:
    """Asks one keeper with one token, or with none."""

    url: str
    token: str | None = None

    def get(self, path: str, **options: Any) -> requests.Response:
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        headers |= options.pop("headers", {})
        with requests.Session() as session:
            session.trust_env = False
            return session.get(f"{self.url}{path}", headers=headers, timeout=20, **options)

    def json(self, path: str, **query: Any) -> dict[str, Any]:
        answer = self.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = json.loads(answer.content)
        return found


class Kept:
    """A replica in a folder of the test: `world` fills it, and while the block runs a keeper serves it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = KeeperOptions(**options)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            store = open_store(f"sqlite:///{self.folder / 'ledger.db'}", create=True)
            stack.callback(store.close)
            objects = DirectoryObjects(self.folder / "storage", "writer")
            stack.callback(objects.close)
            self.world = SealedWorld(store, objects=objects)  # type: ignore[arg-type]  # both are object stores
            self.world.ledger.begin()
            self.tokens: KeeperTokens = open_tokens(self.folder / "keeper.db", create=True)
            reading = open_store(f"sqlite:///{self.folder / 'ledger.db'}", read_only=True)
            stack.callback(reading.close)
            storage = open_storage(self.folder / "storage", "keeper")
            self.server = stack.enter_context(KeeperServer(Ledger(reading), storage, self.tokens, self.options))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def url(self) -> str:
        return self.server.url

    def visitor(self, role: str = "owner", *sources: bytes) -> Visiting:
        return Visiting(self.url, self.tokens.make(Role(role), sources=sources or None).text)

    def token_file(self, folder: Path, *sources: bytes, role: str = "owner") -> str:
        path = folder / f"token-{role}"
        path.write_text(f"{self.visitor(role, *sources).token}\n")
        path.chmod(0o600)
        return str(path)
