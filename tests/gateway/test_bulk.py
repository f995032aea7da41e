"""The bulk route: many contents in one answer, each just as its own request gives it, each refused by itself."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from kropot.gateway import batch
from kropot.gateway import bulk as route
from kropot.gateway.sources import NearbyFiles
from kropot.sc2.layout import MEDIA_TYPE as SC2
from kropot.sc2.opening import open_object
from kropot.securecopy.bulkwire import MAX_CONTENT, MAX_ELEMENTS, PATH, encode_request, parse_request
from kropot.securecopy.sealing import open_stream
from kropot.serving.guard import Bounds
from tests.gateway.bulkread import bulk, frames, listed, post
from tests.gateway.serve import ADMIN, PADDED, PLAIN, SEALED, SETTLE_S, VAULTED, Client, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = {
    b"empty": b"",
    b"one": b"1",
    b"block": bytes(range(256)),
    b"deep/er/file": b"deep content",
    b"deep/er/other": os.urandom(70_000),
    b"caf\xe9": b"a name that is no text",
    b"full": os.urandom(MAX_CONTENT - 4096),
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, hash_up_to=100) as gateway:
        for path, content in FILES.items():
            place = gateway.folder / os.fsdecode(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        (gateway.folder / "link").symlink_to("one")
        (gateway.folder / "sparse").touch()
        os.truncate(gateway.folder / "sparse", 64 << 20)
        gateway.server.rescan()
        yield gateway


def entries(client: Client) -> dict[bytes, tuple[str, str]]:
    """Return (id, etag) of each file by its path."""
    etags = {entry.id: entry.etag or "" for entry in client.page(limit=8191).entries}
    return {path: (element, etags[element]) for path, element in client.ids().items()}


def test_the_list_announces_it(served: Served) -> None:
    for client in (served.client(), served.client(PLAIN), served.vault_client()):
        head = client.get("/secure-copy/file/list").content.partition(b"\n\n")[0]
        assert json.loads(head)["bulk"] == 1


@pytest.mark.parametrize("spec", [SEALED, PLAIN])
def test_contents_are_those_of_single_requests(served: Served, spec: dict[str, Any]) -> None:
    client = served.client(spec)
    there = {path: each for path, each in entries(client).items() if path != b"sparse"}
    assert there.keys() == FILES.keys() | {b"link"}
    for path, frame in zip(there, bulk(client, list(there.values())), strict=True):
        single = client.content(there[path][0])
        kind, _, etag, iv, size, _, element = frame.head
        assert (kind, element, etag) == (0, *there[path])
        assert (size, frame.content) == (len(single.sealed), single.sealed)
        assert etag == single.response.headers["etag"]
        assert (None if iv is None else iv.hex()) == single.iv
        plain = frame.content
        if client.kit is not None:
            plain = b"".join(open_stream([frame.content], client.kit.key(iv), iv))
        assert plain == FILES.get(path, b"1")


@pytest.mark.parametrize("spec", [VAULTED, PADDED])
def test_objects_of_sc2_are_those_of_single_requests(served: Served, spec: dict[str, Any]) -> None:
    client = served.vault_client(spec)
    everything = {path: (entry.id, entry.etag) for path, (entry, _) in client.everything().items()}
    assert everything.keys() >= FILES.keys() | {b"", b"deep", b"link", b"sparse"}
    for path, frame in zip(everything, bulk(client, list(everything.values())), strict=True):
        if spec is PADDED and path == b"full":
            assert frame.reason == "large"
            continue
        single = client.object(everything[path][0])
        assert (frame.head[0], frame.head[2], frame.head[3]) == (0, single.header.etag, None)
        assert frame.content == single.sealed
        opened = open_object(io.BytesIO(frame.content), client.ring)
        assert opened.form.path == path
        content = b"".join(opened.chunks)
        assert content == FILES.get(path, b"")


def test_order_and_repetition_are_the_requests(served: Served) -> None:
    client = served.client()
    there = entries(client)
    asked = [there[b"one"], there[b"empty"], there[b"one"]]
    first, second, third = bulk(client, asked)
    assert first.content == third.content
    assert len(second.content) == 16
    assert bulk(client, []) == []


def test_each_refusal_spoils_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.vault_client()
    there = entries(client)
    place = served.folder
    (place / "empty").unlink()
    time.sleep(SETTLE_S)
    (place / "one").write_bytes(b"2")
    time.sleep(2 * SETTLE_S)
    (place / "block").write_bytes(b"busy")
    os.utime(place / "block", (2e9, 2e9))
    real = NearbyFiles.open

    def unreadable(self: NearbyFiles, path: bytes) -> Any:
        if path == b"caf\xe9":
            raise PermissionError(13, "Permission denied")
        if path == b"block":
            os.utime(place / "block")
        return real(self, path)

    whole = NearbyFiles.whole

    def unlike(self: NearbyFiles, path: bytes, *known: Any) -> bytes | None:
        return None if path in {b"caf\xe9", b"block"} else whole(self, path, *known)

    monkeypatch.setattr(NearbyFiles, "open", unreadable)
    monkeypatch.setattr(NearbyFiles, "whole", unlike)
    asked = [
        there[b"deep/er/file"],
        there[b"empty"],
        there[b"one"],
        (there[b"deep/er/file"][0], '"of another version"'),
        there[b"caf\xe9"],
        there[b"block"],
        ("0" * 64, '"x"'),
        ("../../etc/passwd", ""),
        ("\N{SNOWMAN}", ""),
        there[b"deep/er/other"],
    ]
    found = bulk(client, asked)
    assert [each.reason for each in found] == [
        None, "gone", "changed", "changed", "unreadable", "busy", "gone", "gone", "gone", None
    ]  # fmt: skip
    assert found[0].head[0] == found[-1].head[0] == 0


def test_large_contents_are_refused_by_their_listed_size(served: Served) -> None:
    (served.folder / "fits").write_bytes(b"a" * (MAX_CONTENT - 1))
    (served.folder / "not").write_bytes(b"a" * MAX_CONTENT)
    served.server.rescan()
    for client, longest in ((served.client(), MAX_CONTENT), (served.client(PLAIN), MAX_CONTENT - 1)):
        there = entries(client)
        sizes = {entry.id: entry.size or 0 for entry in client.page(limit=8191).entries}
        found = bulk(client, [there[b"fits"], there[b"not"], there[b"sparse"]])
        assert len(found[0].content) == sizes[there[b"fits"][0]] == longest
        assert [each.reason == "large" for each in found] == [
            sizes[there[path][0]] > MAX_CONTENT for path in (b"fits", b"not", b"sparse")
        ]


def test_an_answer_has_a_budget(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_ANSWER", 150_000)
    client = served.client()
    there = entries(client)
    asked = [there[b"deep/er/other"], there[b"deep/er/other"], there[b"deep/er/other"], there[b"one"]]
    assert [each.reason for each in bulk(client, asked)] == [None, None, "large", None], "what is small still fits"


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("spec", [SEALED, None])
def test_a_file_that_changes_under_the_reader_is_not_sent(
    served: Served, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any] | None, *, is_direct: bool
) -> None:
    client = served.vault_client() if spec is None else served.client(spec)
    there = entries(client)

    pread = os.pread

    def changed(descriptor: int, size: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").resolve() == served.folder / "deep/er/file":
            with (served.folder / "deep/er/file").open("r+b") as file:
                file.write(b"DEEP")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", changed)
    if not is_direct:
        monkeypatch.setattr(NearbyFiles, "whole", lambda *_: None)
    found = bulk(client, [there[b"one"], there[b"deep/er/file"], there[b"block"]])
    # A file that was read directly is looked at again, and has not settled then.
    assert [each.reason for each in found] == [None, "busy" if is_direct else "changed", None]


def test_a_folder_that_is_away_loses_nothing(served: Served) -> None:
    client = served.client()
    there = entries(client)
    served.folder.rename(served.folder.with_name("elsewhere"))
    assert [each.reason for each in bulk(client, [there[b"one"], there[b"block"]])] == ["busy", "busy"]
    served.folder.mkdir()
    assert [each.reason for each in bulk(client, [there[b"one"]])] == ["busy"], "an empty folder in its place"


def test_a_symlink_in_the_way_leads_nowhere(served: Served, tmp_path: Path) -> None:
    client = served.client()
    there = entries(client)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"secret")
    (outside / "other").write_bytes(b"secret")
    (served.folder / "deep" / "er").rename(served.folder / "was")
    (served.folder / "deep" / "er").symlink_to(outside)
    found = bulk(client, [there[b"deep/er/file"], there[b"deep/er/other"]])
    assert [each.reason for each in found] == ["gone", "gone"]


def test_what_is_excluded_is_gone(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        (served.folder / "cache").mkdir()
        (served.folder / "cache" / "file").write_bytes(b"content")
        (served.folder / "file").write_bytes(b"content")
        served.server.rescan()
        client = served.client()
        there = entries(client)
        tree = served.server.service.tree
        from kropot.gateway.marks import FolderMark

        object.__setattr__(tree, "_marks", (FolderMark(name=".nobackup", header=b""),))
        (served.folder / "cache" / ".nobackup").touch()
        found = bulk(client, [there[b"cache/file"], there[b"file"]])
        assert [each.reason for each in found] == ["gone", None]


def test_new_versions_of_a_batch_are_committed_together(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.vault_client()
    asked = [each for path, each in entries(client).items() if path in FILES]
    state = served.server.service.state
    with state.write() as at:
        at.exec_driver_sql("UPDATE gateway_element SET birth = NULL")
    served.server.service.app._recent._rows.clear()
    commits = []
    real = state.keep_births

    def counted(token: int, births: Any) -> Any:
        commits.append(len(births))
        return real(token, births)

    monkeypatch.setattr(state, "keep_births", counted)
    # Versions that are born again have the same nonce, so the same name.
    assert {each.head[0] for each in bulk(client, asked)} == {0}
    assert commits == [len(asked)]


# --- the request ---


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"elements":{}}',
        b'{"elements":[["a"]]}',
        b'{"elements":[["a","b","c"]]}',
        b'{"elements":[["a",1]]}',
        b'{"elements":[[null,"b"]]}',
        b'{"elements":["ab"]}',
        b'{"elements":[["","b"]]}',
        b'{"elements":[["' + b"a" * 513 + b'","b"]]}',
        b'{"elements":[["a","' + b"a" * 257 + b'"]]}',
        b'{"elements":[["\\ud800","b"]]}',
        b"[" * 100_000,
    ],
)
def test_rubbish_is_400(served: Served, body: bytes) -> None:
    answer = post(served.client(), body)
    assert (answer.status_code, answer.headers["connection"]) == (400, "close")
    assert answer.json()["error_code"] == 400


def test_too_much_is_413(served: Served) -> None:
    client = served.client()
    assert len(bulk(client, [("0" * 128, '"' + "0" * 32 + '"')] * MAX_ELEMENTS)) == MAX_ELEMENTS
    assert post(client, encode_request([("0", "")] * (MAX_ELEMENTS + 1))).status_code == 413
    padding = b" " * (1 << 20)
    assert post(client, b'{"elements":[]}' + padding[:-15]).status_code == 200
    with suppress(ConnectionError):
        assert post(client, b'{"elements":[]}' + padding).status_code == 413
    # Other routes keep their own bound.
    with suppress(ConnectionError):
        made = client.session.post(f"{client.url}/auth/token/generate", data=padding[: 1 << 17], timeout=20)
        assert made.status_code == 413


def test_who_may_not_have_it_is_refused(served: Served) -> None:
    asked = encode_request(listed(served.client()))
    assert post(Client(served.server.url, "nobody", None), asked).status_code == 403
    assert post(served.client(ADMIN), asked).status_code == 403
    other = bulk(served.client(), parse_request(asked))
    assert {each.reason for each in other} == {"gone"}, "ids of one token are unknown to another"
    vaulted = served.vault_client()
    assert post(vaulted, encode_request([]), headers={"Accept": "*/*"}).status_code == 406
    assert post(vaulted, encode_request([]), headers={"Accept": f"{SC2}, */*"}).status_code == 200
    for method in ("GET", "PUT", "DELETE"):
        answer = vaulted.session.request(method, f"{vaulted.url}{PATH}", timeout=20)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_large_bodies_have_a_bound_together(tmp_path: Path) -> None:
    with Served(tmp_path, bounds=Bounds(bulks_bytes=300_000, body_s=5.0)) as served:
        served.server.rescan()
        client = served.client()
        body = b'{"elements":[' + b" " * 250_000
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\ntoken: {client.token}\r\nContent-Length: 500000\r\n\r\n"
        parts = urlsplit(served.server.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as slow:
            slow.sendall(head.encode() + body)
            time.sleep(0.2)
            with suppress(ConnectionError):
                assert post(client, b'{"elements":[' + b" " * 200_000 + b"]}").status_code == 503
            assert bulk(client, []) == [], "small requests are answered"
        time.sleep(0.2)
        assert post(client, b'{"elements":[' + b" " * 200_000 + b"]}").status_code == 200


# --- the answer ---


def slow_readers(served: Served, client: Client, asked: list[tuple[str, str]], count: int) -> list[socket.socket]:
    parts = urlsplit(served.server.url)
    body = encode_request(asked)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\ntoken: {client.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    made = []
    for _ in range(count):
        conversation = socket.socket()
        conversation.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        conversation.settimeout(20)
        conversation.connect((parts.hostname, parts.port))
        conversation.sendall(head + body)
        made.append(conversation)
    return made


def test_slow_readers_starve_nobody(served: Served) -> None:
    client = served.client()
    full = entries(client)[b"full"]
    slow = slow_readers(served, client, [full] * 30, 2 * route.AT_ONCE)
    try:
        time.sleep(0.3)
        began = time.monotonic()
        other = served.client()
        assert other.content(entries(other)[b"one"][0]).plain == b"1"
        assert len(bulk(other, listed(other))) == len(FILES) + 2
        assert time.monotonic() - began < 5
        working = [each for each in threading.enumerate() if each.name.startswith("open")]
        assert len(working) < 2 * route.AT_ONCE, "no thread waits for a client"
    finally:
        for each in slow:
            each.close()


def test_a_reader_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    with Served(tmp_path, bounds=Bounds(stall_s=0.3)) as served:
        (served.folder / "full").write_bytes(os.urandom(MAX_CONTENT - 16))
        served.server.rescan()
        client = served.client()
        [conversation] = slow_readers(served, client, [listed(client)[0]] * 30, 1)
        received = b""
        with conversation, suppress(ConnectionResetError):
            time.sleep(1.0)
            while data := conversation.recv(1 << 16):
                received += data
        assert b"\r\n0\r\n\r\n" not in received[-10:], "the answer has no end"
        assert len(bulk(client, listed(client))) == 1


def test_a_cut_answer_keeps_what_was_whole(served: Served) -> None:
    client = served.client()
    there = entries(client)
    body = post(client, encode_request([there[b"one"], there[b"deep/er/other"], there[b"block"]])).content
    whole_ones = {len(frames(body[:cut])[0]) for cut in range(0, len(body), 997)}
    assert whole_ones == {0, 1, 2}
    assert not any(frames(body[:cut])[1] for cut in range(0, len(body), 997))
    assert frames(body)[1]


def test_a_failure_in_the_middle_leaves_no_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.client()
    full = entries(client)[b"full"]
    served_before = iter([False, False, True])

    def failing(*_args: Any, **_options: Any) -> bytes:
        if next(served_before):
            raise RuntimeError("a bug")
        return b"x" * 10

    monkeypatch.setattr(batch, "sealed_whole", failing)
    monkeypatch.setattr(batch, "PIECE", 1)
    with pytest.raises((ConnectionError, OSError)):
        post(client, encode_request([full] * 3))
    assert served.client().page().entries, "the next one is answered"


def test_no_name_of_a_file_stands_in_an_answer(served: Served) -> None:
    client = served.client()
    body = post(client, encode_request(listed(client))).content
    assert b"deep" not in body
    assert stat.S_ISREG((served.folder / "one").stat().st_mode)
