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
from tests.oldserver import OldServer
from tests.oldserver.php import error_page
from tests.oldserver.repository import Answer, Repository, page_answer

if TYPE_CHECKING:
    from tests.oldserver.repository import Row, Token

SOURCE = b"simulated source"


class SealedRepository(Repository):
    """Lists forms of `sc2` and serves its objects. A row's tags are its metadata, and its content makes its version."""

    vault: Vault

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
        return json.dumps({**head, "vault": self.vault.id.hex()}).encode() + b"\n\n"

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

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        before, rng = self.repository, Random(f"vault {options['seed']}")
        self.repository = SealedRepository(clock=self.now, zone=before.zone, quirks=self.quirks, rng=before.rng)
        self.repository.vault = Vault.make(entropy=rng.randbytes)
        self.repository.tokens = before.tokens

    def touch(self, name: str, *, at: int) -> None:
        """Change the metadata of a file, and its date with it."""
        content = self.content(name)
        before = self.repository.by_name[name]
        number, tags = before.number, before.tags
        self.replace(name, content, at=at)
        row = self.repository.by_name[name]
        row.number, row.tags, row.eio_at = number, (*tags, "touched"), before.eio_at
        self.repository.touch()
