"""A server on loopback that serves sealed objects of `sc2`, as our gateway does, or lies about them as a test wants."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit

from kropot.sc2.layout import MEDIA_TYPE
from kropot.sc2.seal import Sealing, seal_list_form
from kropot.securecopy.wire import LIST_TYPE, Listed, encode_entry, encode_page, wall_clock
from tests.kropot.sc2_world import SOURCE, VAULT, form_of
from tests.kropot.scripted import ScriptedServer, measured

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from kropot.sc2.form import Form
    from kropot.sc2.vault import Vault
    from tests.kropot.scripted import Asked

TOKENS = ("first-token", "second-token")
_CONTENT = re.compile(r"/secure-copy/file/([^/]+)/(content|submitdata)")


@dataclass
class SealedFile:
    """One version of a file: its form at birth, which its object holds, and its form now, which the list shows."""

    birth: Form
    plain: bytes
    version: bytes
    date: int
    now: Form


@dataclass
class SealedServer:
    """Serves files by path. `row`, `body` and `vault_named` are where a test lies; `tokens` are those it accepts.

    `is_cut` and `is_deaf` let every content end early once, or be refused with 406 as if `Accept` had been removed.
    """

    vault: Vault = VAULT
    source: bytes = SOURCE
    files: dict[bytes, SealedFile] = field(default_factory=dict)
    tokens: tuple[str, ...] = TOKENS
    token: str = TOKENS[0]
    kit: None = None
    row: Callable[[Listed], Listed] = lambda row: row
    body: Callable[[bytes, Asked], bytes] = lambda data, _: data
    answer: Callable[[bytes, str], dict[str, str | None]] = lambda _data, _etag: {}
    vault_named: bytes | None = None
    names_vault: bool = True
    status: int = 200
    list_status: int = 200
    _births: int = 0

    def __enter__(self) -> Self:
        self.http = ScriptedServer(lambda asked: [self._answer(asked)])
        self.http.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.http.__exit__(kind, error, at)

    @property
    def url(self) -> str:
        return self.http.url

    def put(self, path: bytes, plain: bytes) -> str:
        """Add a file, or give it another content: a new version. Return its id."""
        self._births += 1
        form = form_of(plain, path)
        version = self.vault.version(f"{self._births}".encode())
        self.files[path] = SealedFile(birth=form, plain=plain, version=version, date=self._now(), now=form)
        return self.id_of(path)

    def touch(self, path: bytes, mode: int) -> None:
        """Change the metadata of a file alone."""
        file = self.files[path]
        file.now, file.date = replace(file.now, mode=mode), self._now()

    def id_of(self, path: bytes) -> str:
        return self.vault.element(path).hex()

    def sealing(self, path: bytes) -> Sealing:
        file = self.files[path]
        return Sealing(self.vault, file.birth, source=self.source, version=file.version)

    def object(self, path: bytes) -> bytes:
        return self.sealing(path).whole(self.files[path].plain)

    def listed(self, path: bytes) -> Listed:
        """Return the row of a file as an honest server lists it."""
        file, sealing = self.files[path], self.sealing(path)
        text = seal_list_form(self.vault, file.now, source=self.source, version=file.version)
        return Listed(
            type="file",
            id=self.id_of(path),
            date=file.date,
            tz="UTC",
            form=b'{"encrypted":"' + text.encode() + b'"}',
            size=sealing.length,
            etag=sealing.header.etag,
        )

    @property
    def fetched(self) -> list[str]:
        """The ids whose contents were asked for, in order."""
        found = [_CONTENT.fullmatch(asked.path) for asked in self.http.requests]
        return [each[1] for each in found if each is not None and each[2] == "content"]

    def _now(self) -> int:
        """A second of the server's clock that no row has had; they begin in the past, so none is ahead of a clock."""
        return max([file.date for file in self.files.values()], default=int(time.time()) - 10_000) + 1

    def _answer(self, asked: Asked) -> bytes:
        if asked.headers.get("token") not in self.tokens:
            return self._plain(b"{}", 403, "application/json")
        where = urlsplit(asked.path)
        if where.path.endswith("/list"):
            return self._list(parse_qs(where.query))
        found = _CONTENT.fullmatch(where.path)
        path = None if found is None else next((each for each in self.files if self.id_of(each) == found[1]), None)
        if found is None or path is None:
            return self._plain(b'{"error":"gone"}', 404, "application/json")
        if found[2] == "submitdata":
            return self._plain(b'{"object":' + encode_entry(self.listed(path)).strip() + b"}", 200, "application/json")
        return self._content(path, asked)

    def _list(self, query: dict[str, list[str]]) -> bytes:
        since, limit = query.get("since", [""])[0], int(query["limit"][0])
        rows = sorted((self.row(self.listed(path)) for path in self.files), key=lambda row: (row.date, row.id))
        later = [row for row in rows if wall_clock(row.date, "UTC") > since]
        page = encode_page(
            map(encode_entry, later[:limit]),
            remaining=len(later),
            metadata_url="x",
            fetch_url="x",
            closed=max((row.date for row in later[:limit]), default=self._now() - 1),
            vault=(self.vault_named or self.vault.id) if self.names_vault else None,
        )
        return self._plain(page, self.list_status, LIST_TYPE)

    def _content(self, path: bytes, asked: Asked) -> bytes:
        if MEDIA_TYPE not in asked.headers.get("accept", "") or self.status != 200:
            return self._plain(b"{}", 406 if self.status == 200 else self.status, "application/json")
        data = self.body(self.object(path), asked)
        etag = self.sealing(path).header.etag
        fields: dict[str, str | None] = {
            "Content_Type": MEDIA_TYPE,
            "Encryption_Initialization_Vector": None,
            "ETag": etag,
            **self.answer(data, etag),
        }
        wanted = re.fullmatch(r"bytes=([0-9]+)-", asked.headers.get("range", ""))
        if wanted is not None and asked.headers.get("if-range") == etag:
            start = int(wanted[1])
            fields["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return measured(data[start:], 206, **fields)
        return measured(data, **fields)

    def _plain(self, data: bytes, status: int, kind: str) -> bytes:
        return measured(data, status, Content_Type=kind, Encryption_Initialization_Vector=None)
