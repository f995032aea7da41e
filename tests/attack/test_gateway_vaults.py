"""A token of sc2 in wrong hands, and what leaves its gateway: nobody gets at keys, names or other vaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from kropot.sc2.layout import CHUNK, MEDIA_TYPE, parse_header
from tests.gateway.serve import ADMIN, PADDED, VAULTED, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "the-name-of-a-file"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Served(tmp_path)
    (gateway.folder / NAME).write_bytes(b"content" * 20_000)
    with gateway:
        gateway.rest()
        yield gateway


def test_a_token_reaches_nothing_of_another_vault(served: Served) -> None:
    ours, theirs = served.vault_client(), served.vault_client()
    ours.listed()
    for element in theirs.ids().values():
        for what in ("content", "submitdata"):
            answer = ours.get(f"/secure-copy/file/{element}/{what}")
            assert (answer.status_code, MEDIA_TYPE in answer.headers["content-type"]) == (404, False)


def test_an_administrator_opens_no_vault_over_http(served: Served) -> None:
    """He would get the copies' names and contents of whoever has the vault, under keys that he may know."""
    ours = served.vault_client()
    admin = served.client(ADMIN)
    for spec in (
        {**VAULTED, "vault": ours.vault.id.hex()},
        {**VAULTED, "data": {**VAULTED["data"], "vault": ours.vault.id.hex()}},  # type: ignore[dict-item]
    ):
        answer = admin.session.post(f"{admin.url}/auth/token/generate", json=spec, timeout=20)
        assert answer.status_code == 400
        assert list(answer.json()["fields"].values()) == [["This form should not contain extra fields."]]
    made = admin.session.post(f"{admin.url}/auth/token/generate", json=PADDED, timeout=20).json()
    kit = json.loads(Path(made["kit"]).read_text())
    assert kit["vault"] != ours.vault.id.hex()


def test_neither_keys_nor_names_leave_the_gateway(served: Served) -> None:
    with capture_logs() as logs:
        client = served.vault_client(PADDED)
        page = client.get("/secure-copy/file/list")
        element = client.ids()[NAME.encode()]
        pulled = client.object(element)
        client.session.headers["Accept"] = "*/*"
        refused = client.get(f"/secure-copy/file/{element}/content")
        (served.folder / NAME).write_bytes(b"other")
        served.rest()
    assert refused.status_code == 406
    said = [page.content, pulled.sealed, refused.content, repr(logs).encode()]
    said += [repr(answer.headers).encode() for answer in (page, pulled.response, refused)]
    keys = (client.vault.id_key, client.vault.etag_key, *client.vault.masters)
    for text in said:
        assert NAME.encode() not in text
        assert b"content" * 3 not in text
        for key in keys:
            assert key not in text
            assert key.hex().encode() not in text
    token = served.server.service.book.find(client.token)
    shown = repr(token) + repr(served.server.service.book.vaults.all())
    assert not [key for key in keys if key.hex() in shown or repr(key)[2:-1] in shown]


@pytest.mark.parametrize("change", [{}, {"padding": "padme"}])
def test_a_header_that_asks_for_much_costs_little(served: Served, change: dict[str, Any]) -> None:
    client = served.vault_client({**VAULTED, "data": {**VAULTED["data"], **change}})  # type: ignore[dict-item]
    element = client.ids()[NAME.encode()]
    whole = client.object(element)
    tag, size = whole.response.headers["etag"], len(whole.sealed)
    for span, part in (
        (f"bytes=0-{10**18}", slice(0, size)),
        (f"bytes={size - 1}-", slice(size - 1, size)),
        (f"bytes=-{10**18}", slice(0, size)),
        ("bytes=0-143", slice(0, 144)),
        (f"bytes={CHUNK + 400}-{CHUNK + 401}", slice(CHUNK + 400, CHUNK + 402)),
    ):
        answer = client.get(f"/secure-copy/file/{element}/content", headers={"Range": span, "If-Range": tag})
        assert (answer.status_code, answer.content) == (206, whole.sealed[part]), span
    behind = client.get(f"/secure-copy/file/{element}/content", headers={"Range": f"bytes={size}-", "If-Range": tag})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{size}")
    client.session.headers["Accept"] = ", ".join(["a/b;q=0"] * 5_000) + f", {MEDIA_TYPE}"
    answer = client.get(f"/secure-copy/file/{element}/content")
    assert answer.status_code == 200
    assert parse_header(answer.content).etag == tag
