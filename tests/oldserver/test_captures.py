"""The simulator gives the real server's answers to the real requests: status, head and body."""

from __future__ import annotations

import gzip
import json
from random import Random
from typing import Any

import pytest

from kropot.securecopy.sealing import Kit, open_form, open_stream
from tests.oldserver.repository import Answer, Quirks, Repository, Request, Token
from tests.vectors.load import Exchange, content_bytes, contents, exchange, exchanges, forms

BASE = "http://127.0.0.1:8077"
NOW = 1795414237
ENCRYPTED = "6e2d1b2a-7a0f-4c5e-9d43-0f0d5a6b7c81"
SAME_SECRETS = "6e1f3a54-7b8c-4d9e-8fa0-b1c2d3e4f5a6"
SHA256 = "1f0a3c52-9b7e-4a6d-8c15-2b3c4d5e6f70"
PLAIN = "2a7b9c10-3d4e-4f5a-8b6c-7d8e9fa0b1c2"
ADMIN = "ca6a2635-d2cb-4682-ba81-3879dd0e8a77"
NO_ROLE = "3b8c0d21-4e5f-4a6b-9c7d-8e9fa0b1c2d3"
EXPIRED = "4c9d1e32-5f6a-4b7c-8d8e-9fa0b1c2d3e4"

LATER_STATES = {"no-base-url", "plain-before-restore", "list-after", "accept-encoding-gzip"}
"""Captures of other moments, when more files were there; `accept-encoding-gzip` has no request parameter to replay."""

FRAMING = {"server", "transfer-encoding", "connection", "date", "expires", "set-cookie"}
"""Headers that the transport writes; test_simulator looks at them."""


def stored_salt(token: str) -> str:
    """Return the salt that a capture's ids were made with."""
    lists = {ENCRYPTED: "encrypted-all", SHA256: "encrypted-sha256-all", SAME_SECRETS: "encrypted-same-secrets-all"}
    body = exchange("list", lists[token]).body or b""
    known = {json.loads(line)["id"] for line in body.partition(b"\n\n")[2].splitlines()}
    return next(form["stored_salt"] for form in forms() if form["id"] in known)


def as_it_was(quirks: Quirks | None = None) -> Repository:
    """Return the real server's rows and tokens as they were when the lists were captured."""
    repository = Repository(clock=lambda: NOW, zone="UTC", quirks=quirks or Quirks(), rng=Random(7))
    repository.base_url = BASE
    kits = {
        ENCRYPTED: Kit(forms()[0]["passphrase"]),
        SAME_SECRETS: Kit(forms()[0]["passphrase"]),
        SHA256: Kit("zażółć gęślą jaźń 0", digest="sha256", rounds=1000),
    }
    for name, kit in kits.items():
        repository.tokens[name] = Token(id=name, kit=kit, stored_salt=stored_salt(name))
    repository.tokens[PLAIN] = Token(id=PLAIN, kit=None, stored_salt="")
    repository.tokens[ADMIN] = Token(id=ADMIN, kit=None, stored_salt="", roles=frozenset({"security.administrator"}))
    repository.tokens[NO_ROLE] = Token(id=NO_ROLE, kit=None, stored_salt="", roles=frozenset({"upload.all"}))
    repository.tokens[EXPIRED] = Token(id=EXPIRED, kit=None, stored_salt="", expires=978307200)
    plain = {vector["file"]: content_bytes(vector["name"])[0] for vector in contents()}
    body = exchange("list", "plain-all").body or b""
    for line in body.partition(b"\n\n")[2].splitlines():
        entry = json.loads(line)
        form = entry["form"]
        repository.add(
            entry["id"],
            plain[entry["id"]],
            at=entry["date"],
            tags=tuple(form["tags"]),
            password=form["password"],
            public=form["public"],
        )
    # every token that encrypts had listed everything once, and only that makes ids known
    for name in kits:
        token = repository.tokens[name]
        repository.crypto_map.update({repository.id_for(token, row): row.name for row in repository.by_name.values()})
    return repository


def request(path: str, headers: dict[str, str], method: str = "GET") -> Request:
    bare, _, query = path.partition("?")
    return Request(number=1, visit=1, method=method, path=bare, query=query, headers=tuple(headers.items()))


def replayed(found: Exchange, repository: Repository | None = None) -> Answer:
    return (repository or as_it_was()).answer(request(found.path, found.request_headers, found.method))


def own_headers(found: Exchange) -> dict[str, str]:
    """Return the headers that the application set, and not its transport; a cache header is told by `session`."""
    return {
        name: value for name, value in found.headers if name.lower() not in FRAMING | {"cache-control", "content-type"}
    }


def assert_same_head(answer: Answer, found: Exchange) -> None:
    assert answer.status == found.status
    assert answer.content_type == found.content_type
    expected = own_headers(found)
    given = dict(answer.headers)
    if "Encryption-Initialization-Vector" in expected:
        assert len(given.pop("Encryption-Initialization-Vector")) == len(
            expected.pop("Encryption-Initialization-Vector")
        )
    assert given == expected
    cached = [value for name, value in found.headers if name == "Cache-Control"]
    assert answer.session == (cached[0] == "max-age=0, must-revalidate, private")


def listing(body: Any, kit: Kit | None) -> tuple[bytes, list[dict[str, Any]]]:
    """Return a list's header and its entries, with the sealed forms opened."""
    assert isinstance(body, bytes)
    header, _, rest = body.partition(b"\n\n")
    entries = [json.loads(line) for line in rest.splitlines()]
    for entry in entries:
        if kit is not None:
            entry["form"] = json.loads(open_form(entry["form"]["encrypted"], kit))
    return header, entries


replayable = [found for found in exchanges("list") if found.name not in LATER_STATES and found.path]


@pytest.mark.parametrize("found", replayable, ids=lambda found: found.name)
def test_lists_are_the_real_ones(found: Exchange) -> None:
    repository = as_it_was()
    answer = replayed(found, repository)
    assert_same_head(answer, found)
    token = repository.tokens.get(found.request_headers.get("token", ""))
    if found.status == 200 and token is not None and token.kit is not None:
        assert listing(answer.body, token.kit) == listing(found.body, token.kit)
    else:
        assert answer.body == found.body


@pytest.mark.parametrize("found", exchanges("errors"), ids=lambda found: found.name)
def test_errors_are_the_real_ones(found: Exchange) -> None:
    answer = replayed(found)
    assert_same_head(answer, found)
    assert isinstance(answer.body, bytes)
    packed = ("Content-Encoding", "gzip") in answer.headers
    assert (gzip.decompress(answer.body) if packed else answer.body) == (
        gzip.decompress(found.body or b"") if packed else found.body
    )


@pytest.mark.parametrize("found", exchanges("submitdata"), ids=lambda found: found.name)
def test_elements_are_the_real_ones(found: Exchange) -> None:
    repository = as_it_was()
    answer = replayed(found, repository)
    assert_same_head(answer, found)
    kit = repository.tokens[found.request_headers["token"]].kit
    if kit is None or found.status != 200:
        assert answer.body == found.body
        return
    assert isinstance(answer.body, bytes)
    ours, theirs = json.loads(answer.body), json.loads(found.body or b"")
    for side in (ours, theirs):
        side["object"]["form"] = json.loads(open_form(side["object"]["form"]["encrypted"], kit))
    assert ours == theirs


@pytest.mark.parametrize("found", exchanges("content"), ids=lambda found: found.name)
def test_contents_are_the_real_ones(found: Exchange) -> None:
    repository = as_it_was()
    answer = replayed(found, repository)
    assert_same_head(answer, found)
    if found.status != 200:
        assert answer.body == found.body
    elif found.name.startswith("sha512-"):
        assert isinstance(answer.body, bytes)
        kit = repository.tokens[ENCRYPTED].kit
        assert kit is not None
        iv = bytes.fromhex(dict(answer.headers)["Encryption-Initialization-Vector"])
        plain, sealed = content_bytes(found.name)
        assert len(answer.body) == len(sealed)
        assert b"".join(open_stream([answer.body], kit.key(iv), iv)) == plain


def test_a_server_without_its_address_gives_relative_templates() -> None:
    found = exchange("list", "no-base-url")
    answer = replayed(found, as_it_was(Quirks(base_url_known=False)))
    assert isinstance(answer.body, bytes)
    # it had 91 files by then
    assert answer.body.replace(b'"remainingSince":17', b'"remainingSince":91') == found.body


def test_a_deleted_file_is_not_found_and_its_content_is_a_500() -> None:
    repository = as_it_was()
    token = repository.tokens[ENCRYPTED]
    name = "db8219a85asize8191.bin"
    id_ = repository.id_for(token, repository.by_name[name])
    repository.delete(name)
    for action in ("submitdata", "content"):
        found = exchange("delete", f"{action}-after")
        answer = repository.answer(request(f"/secure-copy/file/{id_}/{action}", found.request_headers))
        assert_same_head(answer, found)
        assert answer.body == found.body


def test_failures_of_the_disk_are_the_real_ones() -> None:
    repository = as_it_was()
    name = "9564042130oneMiB.bin"
    row = repository.by_name[name]
    path = f"/secure-copy/file/{repository.id_for(repository.tokens[ENCRYPTED], row)}/content"
    headers = {"User-Agent": "x", "token": ENCRYPTED}
    row.eio_at = 0
    answer, found = repository.answer(request(path, headers)), exchange("midstream", "eio-start")
    assert (answer.status, answer.content_type, answer.body) == (500, found.content_type, found.body)
    assert [key for key, _ in answer.headers] == ["Content-Disposition", "Encryption-Initialization-Vector"]
    row.eio_at = 65536
    answer = repository.answer(request(path, headers))
    assert isinstance(answer.body, bytes)
    assert (answer.status, len(answer.body), len(answer.body) % 16) == (200, 65536 + 918, 6)
    assert answer.body.endswith(exchange("midstream", "eio-start").body or b"?")
    row.eio_at, row.content = None, None
    answer, found = repository.answer(request(path, headers)), exchange("midstream", "lost-on-disk")
    assert_same_head(answer, found)
    assert answer.body == found.body
