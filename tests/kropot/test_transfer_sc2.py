"""Both engines and objects of `sc2`: the clear header has to be the listed one, before anything of the rest counts."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.collect.decide.inputs import NotReceived, Received
from kropot.collect.transfer.curl import CurlEngine
from kropot.collect.transfer.engine import FetchJob, Server, TransferEngine
from kropot.collect.transfer.kept import KeptNote, kept_name, read_note
from kropot.collect.transfer.plain import PlainEngine
from kropot.durable.batch import Choice
from kropot.objects.directory import DirectoryObjects
from kropot.sc2.layout import HEADER_BYTES, MEDIA_TYPE, parse_header
from kropot.sc2.seal import Sealing
from kropot.securecopy.content import ACCEPT
from tests.faults.files import UnsyncedFiles
from tests.kropot.jobs import fetch_job
from tests.kropot.sc2_world import SOURCE, VAULT, form_of, made_vault, sealed, version_of
from tests.kropot.scripted import Hang, ScriptedServer, Wait, chunked, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from kropot.collect.decide.inputs import Receipt
    from kropot.sc2.vault import Vault
    from tests.kropot.scripted import Asked, Part

PLAIN = Random(1).randbytes(300_000)
OBJECT = sealed(PLAIN)
HEADER = parse_header(OBJECT)
HUGE = sealed(Random(2).randbytes(3_000_000))
MAKERS: dict[str, Callable[..., TransferEngine]] = {
    "curl": partial(CurlEngine, handles=2),
    "curl and large": partial(CurlEngine, handles=2, large=1),
    "plain": PlainEngine,
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryObjects]:
    choice = Choice(method="syncfs", why="the test says so")
    store = DirectoryObjects(tmp_path / "store", "one", files=UnsyncedFiles(), choice=choice)
    store.lock()
    yield store
    store.close()


@pytest.fixture(params=list(MAKERS))
def make(request: pytest.FixtureRequest, store: DirectoryObjects) -> Iterator[Callable[[str], TransferEngine]]:
    made: list[TransferEngine] = []

    def engine(url: str) -> TransferEngine:
        headers = {"token": "secret", "User-Agent": "test", "Accept": ACCEPT, "Accept-Encoding": "identity"}
        made.append(MAKERS[request.param](Server(base_url=url, headers=headers, silence_s=10), store))
        return made[-1]

    yield engine
    for one in made:
        one.close()


def job(data: bytes = OBJECT, **claims: object) -> FetchJob:
    return replace(fetch_job(0, "id"), sealed=parse_header(data), **claims)  # type: ignore[arg-type]


def run(engine: TransferEngine, wanted: FetchJob) -> Receipt:
    engine.submit([wanted])
    for _ in range(20):
        for receipt in engine.poll(1.0):
            return receipt
    raise AssertionError("the engine never answered")


def answer(body: bytes, status: int = 200, **fields: str | None) -> bytes:
    known = {"Content_Type": MEDIA_TYPE, "Encryption_Initialization_Vector": None, **fields}
    return measured(body, status, **known)


def fetch(make: Callable[[str], TransferEngine], *parts: Part, wanted: FetchJob | None = None) -> Receipt:
    with ScriptedServer(lambda _: parts) as server:
        receipt = run(make(server.url), job() if wanted is None else wanted)
        assert {asked.headers["accept"] for asked in server.requests} == {ACCEPT}
    return receipt


def got(receipt: Receipt, store: DirectoryObjects) -> bytes:
    assert isinstance(receipt, Received), receipt
    assert receipt.iv is None
    store.publish([receipt.staged])
    with store.open(receipt.staged.sha256) as file:
        return file.read()


@pytest.mark.parametrize("plain", [b"", b"x", b"x" * 65_536, PLAIN])
def test_an_object_is_received_whole_however_it_is_framed(
    make: Callable[[str], TransferEngine], store: DirectoryObjects, plain: bytes
) -> None:
    data = sealed(plain)
    cut = [data[:1], data[1:100], data[100:144], data[144:]]
    assert got(fetch(make, answer(data), wanted=job(data, size=len(data))), store) == data
    fields: dict[str, str | None] = {"Content_Type": MEDIA_TYPE, "Encryption_Initialization_Vector": None}
    assert got(fetch(make, chunked(*cut, **fields), wanted=job(data)), store) == data


def object_of(vault: Vault = VAULT, *, path: bytes = b"a/b", source: bytes = SOURCE, version: str = "1") -> bytes:
    form = form_of(PLAIN, path)
    return Sealing(vault, form, source=source, version=version_of(version)).whole(PLAIN)


def flipped(at: int) -> bytes:
    return OBJECT[:at] + bytes([OBJECT[at] ^ 1]) + OBJECT[at + 1 :]


OTHERS = {
    "another vault": (object_of(made_vault("other")), "other_object"),
    "another source": (object_of(source=b"t" * 16), "other_object"),
    "another element": (object_of(path=b"a/c"), "other_object"),
    "another version": (object_of(version="2"), "other_version"),
    "another key": (
        Sealing(VAULT, form_of(PLAIN), source=SOURCE, version=version_of("1"), key_id=VAULT.key_ids[0]).whole(PLAIN),
        "other_version",
    ),
    "the end of the commitment": (flipped(143), "other_object"),
    "the id of the key": (flipped(75), "other_object"),
    "the suite": (flipped(6), "not_sc2"),
    "the compression": (flipped(7), "not_sc2"),
    "no object": (bytes(len(OBJECT)), "not_sc2"),
    "a page": (b"<html>".ljust(400, b" ") + b"</html>", "not_sc2"),
    "a header that ends": (OBJECT[: HEADER_BYTES - 1], "not_sc2"),
    "nothing": (b"", "empty"),
    "an appended page": (OBJECT + b"<html>sorry</html>", "error_page"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_the_listed_object_is_refused_and_nothing_of_it_stays(
    make: Callable[[str], TransferEngine], store: DirectoryObjects, case: str
) -> None:
    data, reason = OTHERS[case]
    receipt = fetch(make, answer(data))
    assert isinstance(receipt, NotReceived)
    assert (receipt.reason, list(store.walk()), list(store.leftovers())) == (reason, [], [])


ANSWERS = {
    "406": (answer(b"{}", 406, Content_Type="application/json"), "not_sc2"),
    "500": (answer(b"{}", 500, Content_Type="application/json"), "http_500"),
    "404": (answer(b"{}", 404, Content_Type="application/json"), "http_404"),
    "AES-CBC": (measured(OBJECT[: len(OBJECT) // 16 * 16]), "not_sc2"),
    "an IV": (answer(OBJECT, Encryption_Initialization_Vector="00" * 16), "not_sc2"),
    "plain": (answer(OBJECT, Content_Type="application/octet-stream"), "not_sc2"),
    "no type": (answer(OBJECT, Content_Type=None), "not_sc2"),
    "encoded": (answer(OBJECT, Content_Encoding="gzip"), "encoded"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_not_of_sc2_is_refused(
    make: Callable[[str], TransferEngine], store: DirectoryObjects, case: str
) -> None:
    data, reason = ANSWERS[case]
    receipt = fetch(make, data)
    assert isinstance(receipt, NotReceived)
    assert (receipt.reason, list(store.walk()), list(store.leftovers())) == (reason, [], [])


def test_an_object_of_sc2_is_not_taken_for_another_token(
    make: Callable[[str], TransferEngine], store: DirectoryObjects
) -> None:
    for opaque in (True, False, None):
        receipt = fetch(make, answer(OBJECT), wanted=fetch_job(0, "id", opaque=opaque))
        assert isinstance(receipt, NotReceived)
        assert receipt.reason == "not_octet_stream"
    assert list(store.walk()) == []


def ranged(asked: Asked, body: bytes) -> bytes:
    etag = parse_header(body).etag
    if "range" not in asked.headers or asked.headers.get("if-range") != etag:
        return answer(body, ETag=etag)
    start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
    return answer(body[start:], 206, ETag=etag, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")


def broken(asked: Asked, body: bytes, sent: int) -> Iterable[Part]:
    data = ranged(asked, body)
    return [data[: data.index(b"\r\n\r\n") + 4 + sent], Wait(0.05), Hang()]


def test_an_object_goes_on_where_it_broke_off(make: Callable[[str], TransferEngine], store: DirectoryObjects) -> None:
    def script(asked: Asked) -> Iterable[Part]:
        return broken(asked, OBJECT, 100_000) if "range" not in asked.headers else [ranged(asked, OBJECT)]

    with ScriptedServer(script) as server:
        assert got(run(make(server.url), job()), store) == OBJECT
        assert any("range" in asked.headers for asked in server.requests)


def test_what_an_earlier_process_kept_is_gone_on_with_only_for_the_same_header(
    make: Callable[[str], TransferEngine], store: DirectoryObjects
) -> None:
    with ScriptedServer(lambda asked: broken(asked, HUGE, 2_000_000 if "range" not in asked.headers else 0)) as server:
        assert isinstance(run(make(server.url), job(HUGE)), NotReceived)
    with ScriptedServer(lambda asked: [ranged(asked, HUGE)]) as server:
        assert got(run(make(server.url), job(HUGE)), store) == HUGE
        assert "range" in server.requests[0].headers

    upload = store.stage(kept_name(job().stream))
    other = parse_header(sealed(b"", version="2")).encode()
    etag = parse_header(HUGE).etag
    upload.keep(KeptNote(stream=job().stream, etag=etag, iv=None, length=len(HUGE), sealed=other).pack())
    upload.write(bytes(2_000_000))
    upload.suspend()
    with ScriptedServer(lambda asked: [ranged(asked, HUGE)]) as server:
        assert got(run(make(server.url), job(HUGE)), store) == HUGE
        assert "range" not in server.requests[0].headers


def test_a_note_of_before_is_read_as_one_without_a_header() -> None:
    note = KeptNote(stream=job().stream, etag='"e"', iv=bytes(16), length=5)
    before = b"\x94" + note.pack()[1:-1]
    assert read_note(before) == note
    assert read_note(replace(note, sealed=HEADER.encode()).pack()) == replace(note, sealed=HEADER.encode())
