"""Transfers: resumed at any byte, whole or broken, never a mixture of two versions."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from kropot.gateway import serving
from kropot.gateway.ranges import Span, wanted_span
from kropot.gateway.serving import (
    STEP,
    Blocks,
    ChangedError,
    ContentReading,
    can_begin,
    plain_chunks,
    sealed_chunks,
    sealed_whole,
)
from kropot.gateway.serving import whole as all_bytes
from kropot.gateway.sources import FolderSource
from kropot.sc2.layout import MEDIA_TYPE
from kropot.securecopy.sealing import Kit, open_stream, seal_stream, sealed_size
from tests.gateway.serve import DOCUMENTED, PLAIN, Client, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BIG = os.urandom(2 * STEP + 12_345)
TAG = '"tag"'


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as gateway:
        (gateway.folder / "big").write_bytes(BIG)
        (gateway.folder / "small").write_bytes(b"small content")
        gateway.server.rescan()
        yield gateway


def ask(client: Client, element: str, span: str | None, if_range: str | None) -> requests.Response:
    headers = {} if span is None else {"Range": span}
    return client.get(
        f"/secure-copy/file/{element}/content", headers=headers | ({} if if_range is None else {"If-Range": if_range})
    )


def test_encrypted_transfer_resumes_where_a_block_is_remembered(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"big"]
    whole = client.content(element)
    tag = whole.response.headers["etag"]
    size = len(whole.sealed)
    for start in (1, STEP - 1, STEP, STEP + 1, 2 * STEP, 2 * STEP + 12_345, size - 1):
        answer = ask(client, element, f"bytes={start}-", tag)
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {start}-{size - 1}/{size}"
        assert answer.headers["etag"] == tag
        assert answer.headers["encryption-initialization-vector"] == whole.iv
        assert answer.content == whole.sealed[start:], start
    answer = ask(client, element, f"bytes={STEP + 5}-{STEP + 9}", tag)
    assert answer.content == whole.sealed[STEP + 5 : STEP + 10]


def test_without_a_remembered_block_the_whole_comes(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"big"]
    tag = ask(client, element, "bytes=0-0", None).headers["etag"]
    served.server.service.app._contents._blocks._contents.clear()
    far = ask(client, element, f"bytes={STEP + 1}-", tag)
    assert (far.status_code, len(far.content)) == (200, sealed_size(len(BIG)))
    served.server.service.app._contents._blocks._contents.clear()
    near = ask(client, element, f"bytes={STEP - 10}-{STEP - 1}", tag)
    assert (near.status_code, near.content) == (206, far.content[STEP - 10 : STEP])


def test_plain_transfer_resumes_anywhere(served: Served) -> None:
    client = served.client(PLAIN)
    element = client.ids()[b"big"]
    tag = client.content(element).response.headers["etag"]
    for start in (0, 1, STEP + 7, len(BIG) - 1):
        answer = ask(client, element, f"bytes={start}-", tag)
        assert (answer.status_code, answer.content) == (206, BIG[start:])
    assert ask(client, element, "bytes=-5", tag).content == BIG[-5:]


@pytest.mark.parametrize("if_range", [None, '"another"', "W/TAG", "Mon, 23 Nov 2026 08:00:00 GMT", ""])
def test_range_counts_only_beside_its_own_tag(served: Served, if_range: str | None) -> None:
    client = served.client()
    element = client.ids()[b"small"]
    whole = client.content(element)
    if_range = None if if_range is None else if_range.replace("TAG", whole.response.headers["etag"])
    answer = ask(client, element, "bytes=3-", if_range)
    assert (answer.status_code, answer.content) == (200, whole.sealed)


def test_range_behind_the_end_is_not_satisfiable(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"small"]
    tag = client.content(element).response.headers["etag"]
    answer = ask(client, element, "bytes=16-", tag)
    assert (answer.status_code, answer.headers["content-range"], answer.content) == (416, "bytes */16", b"")


def test_tag_changes_with_the_file_so_nothing_is_glued_together(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"big"]
    old = client.content(element).response.headers["etag"]
    os.utime(served.folder / "big")
    answer = ask(client, element, f"bytes={STEP}-", old)
    assert answer.status_code == 200
    assert answer.headers["etag"] != old
    assert len(answer.content) == sealed_size(len(BIG))


@given(
    size=st.integers(0, 10_000),
    header=st.from_regex(r"\Abytes[ ]?=[ ]?[0-9]{0,5}-[0-9]{0,5}(,[0-9]-)?\Z") | st.text(max_size=20),
    if_range=st.sampled_from([TAG, None, '"x"', f"W/{TAG}"]),
)
def test_any_range_header_is_a_part_or_the_whole(size: int, header: str, if_range: str | None) -> None:
    span = wanted_span(header, if_range, etag=TAG, size=size)
    assert span is None or if_range == TAG
    assert span is None or 0 <= span.start <= span.stop <= size


def test_ranges_mean_what_they_say() -> None:
    cases = {
        "bytes=0-": Span(start=0, stop=100),
        "bytes=5-9": Span(start=5, stop=10),
        "bytes=5-1000": Span(start=5, stop=100),
        "bytes=-10": Span(start=90, stop=100),
        "bytes=-1000": Span(start=0, stop=100),
        "bytes=100-": Span(start=100, stop=100),
        "bytes=-0": Span(start=100, stop=100),
        "bytes=9-5": None,
        "bytes=-": None,
        "bytes=1-2,4-5": None,
        "lines=1-2": None,
    }
    assert {text: wanted_span(text, TAG, etag=TAG, size=100) for text in cases} == cases


@given(size=st.integers(0, 300), start=st.integers(0, 320), length=st.integers(1, 320))
@settings(max_examples=150)
def test_any_part_of_a_ciphertext_is_that_part(
    tmp_path_factory: pytest.TempPathFactory, size: int, start: int, length: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "part").write_bytes(bytes(index % 251 for index in range(size)))
    key, iv = bytes(range(16)), bytes(range(16, 32))
    whole = b"".join(seal_stream([(folder / "part").read_bytes()], key, iv))
    span = Span(start=min(start, len(whole)), stop=min(start + length, len(whole)))
    with pytest.MonkeyPatch.context() as patch:
        # The same arithmetic with steps and chunks that a small file has many of.
        patch.setattr(serving, "STEP", 64)
        patch.setattr(serving, "CHUNK", 32)
        descriptor, looks = FolderSource(os.fsencode(folder)).open(b"part")
        blocks = Blocks()
        everything = Span(start=0, stop=len(whole))
        assert (
            b"".join(
                sealed_chunks(descriptor, looks, everything, iv=iv, key=key, blocks=blocks, reading=ContentReading())
            )
            == whole
        )
        assert sealed_whole(all_bytes(descriptor, looks), iv=iv, key=key) == whole
        if span.start < span.stop:
            assert can_begin(blocks, iv, span.start)
            part = b"".join(
                sealed_chunks(descriptor, looks, span, iv=iv, key=key, blocks=blocks, reading=ContentReading())
            )
            assert part == whole[span.start : span.stop]
        os.close(descriptor)


def test_blocks_are_bounded_and_forget_the_oldest_content_first() -> None:
    blocks = Blocks(most=10)
    for content in range(5):
        for step in range(1, 5):
            blocks.keep(bytes([content]) * 16, step, b"block")
    kept = [content for content in range(5) if blocks.find(bytes([content]) * 16, 1)]
    assert kept == [3, 4]
    assert blocks.find(bytes(16), 0) == bytes(16), "every content can begin at its IV"


# --- files that change while they are served ---


def begun(client: Client, element: str) -> tuple[socket.socket, bytes]:
    """Ask for a content, read its head and a first piece of its body, and leave the rest in the pipe."""
    parts = urlsplit(client.url)
    conversation = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)
    conversation.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    conversation.sendall(
        f"GET /secure-copy/file/{element}/content HTTP/1.1\r\nHost: x\r\ntoken: {client.token}\r\n"
        f"Accept: {MEDIA_TYPE}\r\n\r\n".encode()
    )
    return conversation, conversation.recv(4096)


def rest(conversation: socket.socket, head: bytes) -> tuple[int, bytes]:
    """Return the announced length and the body that came until the connection ended."""
    received = [head]
    with conversation:
        try:
            while data := conversation.recv(1 << 20):
                received.append(data)
        except ConnectionResetError:
            pass
    whole = b"".join(received)
    start, _, body = whole.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in start.split(b"\r\n")[1:])
    return int(fields[b"content-length"]), body


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(len(BIG) - 100)
        file.write(b"other bytes of the same length")


def truncate(path: Path) -> None:
    os.truncate(path, STEP)


def touch(path: Path) -> None:
    os.utime(path)


@pytest.mark.parametrize("change", [append, overwrite, truncate, touch])
@pytest.mark.parametrize("kind", ["sealed", "plain", "sc2"])
def test_file_that_changes_while_served_ends_the_transfer_broken(served: Served, change: object, kind: str) -> None:
    client = served.vault_client() if kind == "sc2" else served.client(PLAIN if kind == "plain" else None)
    element = client.ids()[b"big"]
    conversation, head = begun(client, element)
    change(served.folder / "big")  # type: ignore[operator]
    length, body = rest(conversation, head)
    assert len(body) < length
    assert BIG.startswith(body) if kind == "plain" else True, "what came is of one version"


def test_file_that_vanishes_while_served_is_served_to_its_end(served: Served) -> None:
    """An unlinked file is still the same file for whoever has it open; its ctime moves, so the transfer breaks."""
    client = served.client()
    element = client.ids()[b"big"]
    conversation, head = begun(client, element)
    (served.folder / "big").unlink()
    length, body = rest(conversation, head)
    assert len(body) < length
    assert client.get(f"/secure-copy/file/{element}/content").status_code == 404


def test_replaced_file_does_not_disturb_the_transfer_of_the_old_one(served: Served, tmp_path: Path) -> None:
    client = served.client(PLAIN)
    element = client.ids()[b"big"]
    os.link(served.folder / "big", tmp_path / "kept")
    served.server.rescan()
    conversation, head = begun(client, element)
    (tmp_path / "new").write_bytes(b"new")
    length, body = 0, b""
    os.rename(tmp_path / "new", served.folder / "big")  # noqa: PTH104 - the system call is the point
    length, body = rest(conversation, head)
    assert len(body) < length or body == BIG
    served.server.rescan()
    assert client.content(element).plain == b"new"


def test_changed_file_is_served_as_what_it_is_now(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"small"]
    before = client.content(element)
    (served.folder / "small").write_bytes(b"changed since the scan")
    after = client.content(element)
    assert after.plain == b"changed since the scan"
    assert after.iv != before.iv
    assert client.content(element).iv == after.iv, "its nonce was committed"
    served.server.rescan()
    entry = next(each for each in client.page().entries if each.id == element)
    assert entry.etag == after.response.headers["etag"]


def test_file_that_never_settles_is_asked_for_again_later(tmp_path: Path) -> None:
    with Served(tmp_path, settle_s=0.3) as gateway:
        (gateway.folder / "log").write_bytes(b"0")
        gateway.server.rescan()
        client = gateway.client()
        element = client.ids()[b"log"]
        from threading import Event, Thread

        stop = Event()

        def keep_writing() -> None:
            while not stop.wait(0.01):
                append(gateway.folder / "log")

        writer = Thread(target=keep_writing)
        writer.start()
        try:
            while (gateway.folder / "log").stat().st_size == 1:
                pass
            answer = client.get(f"/secure-copy/file/{element}/content")
        finally:
            stop.set()
            writer.join()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert client.content(element).plain.startswith(b"0more")


def test_same_pair_of_key_and_iv_never_seals_two_contents(served: Served) -> None:
    """A writer changes a file in place, at the same length, as fast as it can; whatever comes whole is one content."""
    client = served.client()
    element = client.ids()[b"small"]
    path = served.folder / "small"
    seen: dict[str, bytes] = {}
    for number in range(12):
        path.write_bytes(b"%05d" % number * 10)
        for _ in range(2):
            pulled = client.content(element)
            assert pulled.iv is not None
            assert seen.setdefault(pulled.iv, pulled.plain) == pulled.plain
            assert len({pulled.plain[at : at + 5] for at in range(0, 50, 5)}) == 1
    assert len(seen) >= 12


def test_many_transfers_at_once_are_all_right(served: Served) -> None:
    client = served.client(DOCUMENTED)
    content = BIG[: (2 << 20) + 3]
    (served.folder / "medium").write_bytes(content)
    served.server.rescan()
    element = client.ids()[b"medium"]

    def pull(_: int) -> bool:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(
                f"{client.url}/secure-copy/file/{element}/content", headers={"token": client.token}, timeout=60
            )
        assert client.kit is not None
        iv = bytes.fromhex(answer.headers["encryption-initialization-vector"])
        return b"".join(open_stream([answer.content], client.kit.key(iv), iv)) == content

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(pull, range(16)))


def test_key_is_derived_once_a_version(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.client(DOCUMENTED)
    elements = client.ids()
    derived: list[bytes] = []
    real = Kit.key

    def key(kit: Kit, iv: bytes) -> bytes:
        derived.append(iv)
        return real(kit, iv)

    monkeypatch.setattr(Kit, "key", key)
    for _ in range(5):
        answer = client.get(f"/secure-copy/file/{elements[b'small']}/content")
        assert answer.status_code == 200
        client.page()
    assert len(derived) == 1


def test_file_that_shrinks_or_fails_is_an_error_and_not_a_short_body(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    descriptor, looks = FolderSource(os.fsencode(tmp_path)).open(b"file")
    os.truncate(tmp_path / "file", 50)
    with pytest.raises(ChangedError):
        list(plain_chunks(descriptor, looks, Span(start=0, stop=100), ContentReading()))
    with pytest.raises(ChangedError):
        list(
            sealed_chunks(
                descriptor,
                looks,
                Span(start=0, stop=112),
                iv=bytes(16),
                key=bytes(16),
                blocks=Blocks(),
                reading=ContentReading(),
            )
        )
    os.close(descriptor)
