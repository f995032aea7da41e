"""The server's rows and contents as a gateway seals them by `sc2`, with all the faults of the server around them."""

from __future__ import annotations

import hashlib
import json
from random import Random
from typing import TYPE_CHECKING, Any

from kropot.sc2.form import Form, Kind
from kropot.sc2.layout import MEDIA_TYPE
from kropot.sc2.seal import Sealing, seal_list_form
from kropot.sc2.vault import Vault
from kropot.securecopy import bulkwire
from tests.oldserver import OldServer
from tests.oldserver.php import error_page
from tests.oldserver.repository import Answer, Repository, page_answer

if TYPE_CHECKING:
    from tests.oldserver.repository import Request, Row, Token

SOURCE = b"simulated source"


class SealedRepository(Repository):
    """Lists forms of `sc2` and serves its objects. A row's tags are its metadata, and its content makes its version."""

    vault: Vault
    is_bulk: bool = False

    def id_for(self, token: Token, row: Row) -> str:  # noqa: ARG002
        return self.vault.element(row.name.encode()).hex()

    def sealing(self, row: Row) -> Sealing:
        return Sealing(self.vault, self._form(row, mode=0o644), source=SOURCE, version=self._version(row))

    def _version(self, row: Row) -> bytes:
        assert isinstance(row.content, bytes)
        return self.vault.version(b"%d" % row.number + hashlib.sha256(row.content).digest())

    def _form(self, row: Row, *, mode: int) -> Form:
        assert isinstance(row.content, bytes)
        return Form(path=row.name.encode(), kind=Kind.FILE, sealed_us=7, size=len(row.content), mode=mode)

    def _header(self, remaining: int) -> bytes:
        head = json.loads(super()._header(remaining))
        told = {"vault": self.vault.id.hex(), **({"bulk": bulkwire.VERSION} if self.is_bulk else {})}
        return json.dumps({**head, **told}).encode() + b"\n\n"

    def _route(self, request: Request) -> Answer:
        if not self.is_bulk or request.path != bulkwire.PATH:
            return super()._route(request)
        token = self._token(request, {})
        if isinstance(token, Answer):
            return token
        asked = bulkwire.parse_request(request.body)
        frames = b"".join(self._frame(token, at, *one) for at, one in enumerate(asked))
        return Answer(status=200, content_type=bulkwire.MEDIA_TYPE, body=frames + bulkwire.end_frame(len(asked)))

    def _frame(self, token: Token, at: int, id_: str, etag: str) -> bytes:
        row, _ = self._find(id_, token)
        if row is None or not isinstance(row.content, bytes):
            return bulkwire.refusal_frame(at, id_, bulkwire.Refusal.GONE)
        if row.eio_at is not None:
            return bulkwire.refusal_frame(at, id_, bulkwire.Refusal.UNREADABLE)
        sealing = self.sealing(row)
        if sealing.header.etag != etag:
            return bulkwire.refusal_frame(at, id_, bulkwire.Refusal.CHANGED)
        body = sealing.whole(row.content)
        return (
            bulkwire.content_head(at, id_, etag, iv=None, size=len(body), sha256=hashlib.sha256(body).digest()) + body
        )

    def _entry(self, token: Token, row: Row) -> dict[str, Any]:
        sealing, form = self.sealing(row), self._form(row, mode=len(row.tags))
        text = seal_list_form(self.vault, form, source=SOURCE, version=self._version(row))
        claims = {"etag": sealing.header.etag, "size": sealing.length}
        return {**super()._entry(token, row), "form": {"encrypted": text}, **claims}

    def _content(self, id_: str, token: Token) -> Answer:
        row, _ = self._find(id_, token)
        if row is None or not isinstance(row.content, bytes) or row.eio_at == 0:
            return page_answer(500)
        sealing = self.sealing(row)
        body = sealing.whole(row.content)
        if row.eio_at is not None:
            body = body[: row.eio_at] + error_page(500)
        return Answer(status=200, content_type=MEDIA_TYPE, body=body, headers=(("ETag", sealing.header.etag),))


class SealedServer(OldServer):
    """The server with such rows; `touch` changes the metadata of one."""

    repository: SealedRepository

    def __init__(self, *args: Any, is_bulk: bool = False, **options: Any) -> None:
        super().__init__(**options)
        before, rng = self.repository, Random(f"vault {options.get('seed', 0)}")
        self.repository = SealedRepository(clock=self.now, zone=before.zone, quirks=self.quirks, rng=before.rng)
        self.repository.is_bulk = is_bulk
        self.repository.vault = Vault.make(entropy=rng.randbytes)
        self.repository.tokens = before.tokens
        for each in args:
            for name, content in each.items():
                self.add(name, content, at=self.now())

    def touch(self, name: str, *, at: int) -> None:
        """Change the metadata of a file, and its date with it."""
        content = self.content(name)
        before = self.repository.by_name[name]
        number, tags = before.number, before.tags
        self.replace(name, content, at=at)
        row = self.repository.by_name[name]
        row.number, row.tags, row.eio_at = number, (*tags, "touched"), before.eio_at
        self.repository.touch()
