"""A gateway over a folder of the test's own, and a client that asks it as the protocol says."""

from __future__ import annotations

import io
import json
import time
from base64 import b64decode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

import requests

from kropot.gateway.server import GatewayServer
from kropot.sc2.form import Kind
from kropot.sc2.layout import MEDIA_TYPE
from kropot.sc2.opening import OpenedForm, open_list_form, open_object
from kropot.sc2.vault import keyring
from kropot.securecopy.content import CONTENT_TYPE, IV_HEADER
from kropot.securecopy.sealing import Kit, open_form, open_stream
from kropot.securecopy.wire import Page, parse_page

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from kropot.sc2.form import Form
    from kropot.sc2.kit import OwnerKit
    from kropot.sc2.layout import ObjectHeader

SETTLE_S = 0.03
"""Long beside this machine's time stamps, short beside a test."""

KEY = sha256(b"a master key for tests").digest()
STREAM = {"roles": ["securecopy.stream"], "expires": "never"}
SEALED = {**STREAM, "data": {"secureCopyEncryptionMethod": "aes-256-cbc"}}
VAULTED = {**STREAM, "data": {"secureCopyEncryptionMethod": "sc2"}}
PADDED = {**STREAM, "data": {"secureCopyEncryptionMethod": "sc2", "padding": "padme"}}
PLAIN = {**STREAM, "data": {}}
ADMIN = {"roles": ["security.administrator"], "expires": "never", "data": {}}
DOCUMENTED = {
    "id": "6e2d1b2a-7a0f-4c5e-9d43-0f0d5a6b7c81",
    "roles": ["securecopy.stream"],
    "expires": "2130-05-01 01:06:01",
    "data": {
        "tags": [],
        "allowedMimeTypes": [],
        "maxAllowedFileSize": "0",
        "allowedIpAddresses": [],
        "allowedUserAgents": [],
        "secureCopyEncryptionKey": "golden passphrase: bread and roses",
        "secureCopyEncryptionMethod": "aes-256-cbc",
        "secureCopyDigestMethod": "sha512",
        "secureCopyDigestRounds": 6000,
        "secureCopyDigestSalt": "golden-salt-1912",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """A content as it came, and as the kit opens it (for plain tokens the same)."""

    response: requests.Response
    sealed: bytes
    plain: bytes

    @property
    def iv(self) -> str | None:
        return self.response.headers.get(IV_HEADER)


class Client:
    """Asks one gateway with one token."""

    def __init__(self, url: str, token: str, kit: Kit | None) -> None:
        self.url, self.token, self.kit = url, token, kit
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update({"token": token, "User-Agent": "test"})

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(f"{self.url}{path}", timeout=20, **options)

    def page(self, **query: Any) -> Page:
        answer = self.get("/secure-copy/file/list", params=query)
        return parse_page(answer.status_code, answer.headers.get("content-type"), answer.content)

    def form(self, entry: Any) -> dict[str, Any]:
        form = json.loads(entry.form)
        return dict(form) if self.kit is None else dict(json.loads(open_form(form["encrypted"], self.kit)))

    def ids(self) -> dict[bytes, str]:
        """Return the ids of all files by their paths, as the forms tell them."""
        return {b64decode(self.form(entry)["path"]): entry.id for entry in self.page(limit=8191).entries}

    def content(self, element: str, **options: Any) -> Pulled:
        answer = self.get(f"/secure-copy/file/{element}/content", **options)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == CONTENT_TYPE
        plain = answer.content
        if self.kit is not None:
            iv = bytes.fromhex(answer.headers[IV_HEADER])
            plain = b"".join(open_stream([answer.content], self.kit.key(iv), iv))
        return Pulled(response=answer, sealed=answer.content, plain=plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledObject:
    """An object of sc2 as it came, and as its kit opens it."""

    response: requests.Response
    sealed: bytes
    header: ObjectHeader
    form: Form
    plain: bytes


class VaultClient(Client):
    """Asks one gateway with a token of sc2, and opens what comes with a kit of its vault."""

    def __init__(self, url: str, token: str, kit: OwnerKit) -> None:
        super().__init__(url, token, None)
        assert kit.vault is not None
        self.vault = kit.vault
        self.ring = keyring([kit.vault])
        self.session.headers["Accept"] = MEDIA_TYPE

    def opened(self, entry: Any) -> OpenedForm:
        return open_list_form(json.loads(entry.form)["encrypted"], self.ring)

    def listed(self) -> dict[bytes, tuple[Any, OpenedForm]]:
        """Return the entries of all files, and their opened forms, by path."""
        return {path: each for path, each in self.everything().items() if each[1].form.kind is Kind.FILE}

    def everything(self) -> dict[bytes, tuple[Any, OpenedForm]]:
        """Return all entries and their opened forms by path: folders and symlinks, too."""
        found = [(entry, self.opened(entry)) for entry in self.page(limit=8191).entries]
        return {form.form.path: (entry, form) for entry, form in found}

    def ids(self) -> dict[bytes, str]:
        return {path: entry.id for path, (entry, _) in self.listed().items()}

    def object(self, element: str, **options: Any) -> PulledObject:
        answer = self.get(f"/secure-copy/file/{element}/content", **options)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert IV_HEADER not in answer.headers
        found = open_object(io.BytesIO(answer.content), self.ring)
        return PulledObject(
            response=answer,
            sealed=answer.content,
            header=found.header,
            form=found.form,
            plain=b"".join(found.chunks),
        )


class Served:
    """A gateway over `folder`, with the short settling time of tests."""

    def __init__(self, tmp_path: Path, **options: Any) -> None:
        self.folder = tmp_path / "source"
        self.folder.mkdir(exist_ok=True)
        self.state_url = f"sqlite:///{tmp_path / 'state' / 'gateway.db'}"
        options = {"settle_s": SETTLE_S, **options}
        self.server = GatewayServer(self.folder, self.state_url, KEY, **options)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.__exit__(kind, error, trace)

    def rest(self) -> None:
        """Let the files settle, and scan."""
        time.sleep(2 * SETTLE_S)
        self.server.rescan()

    def client(self, spec: dict[str, Any] | None = None) -> Client:
        token, kit = self.server.create_token(SEALED if spec is None else spec)
        data = spec["data"] if spec is not None and spec["data"].get("secureCopyEncryptionKey") else None
        data = kit["data"] if kit is not None else data
        opener = None
        if data is not None:
            opener = Kit(
                data["secureCopyEncryptionKey"],
                digest=data["secureCopyDigestMethod"],
                rounds=data["secureCopyDigestRounds"],
            )
        return Client(self.server.url, token, opener)

    def vault_client(self, spec: dict[str, Any] | None = None, vault: str | None = None) -> VaultClient:
        token, kit = self.server.create_vault_token(VAULTED if spec is None else spec, vault)
        return VaultClient(self.server.url, token, kit)
