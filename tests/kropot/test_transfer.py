"""Both engines believe the same: what came properly, and nothing else; and nothing half-written stays behind."""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kropot.collect.decide.inputs import NotReceived, Receipt, Received
from kropot.collect.transfer.choose import choose_engine
from kropot.collect.transfer.curl import CurlEngine
from kropot.collect.transfer.engine import FetchJob, Server, TransferEngine, content_path
from kropot.collect.transfer.kept import KeptNote, kept_name, read_note
from kropot.collect.transfer.plain import PlainEngine
from kropot.collect.transfer.receive import FreeSpace
from kropot.durable.batch import Choice
from kropot.durable.errors import StorageFullError
from kropot.objects.directory import DirectoryObjects
from kropot.objects.memory import MemoryDisk, MemoryObjects
from kropot.objects.store import ObjectStore, Published
from kropot.securecopy.client import SecureCopyClient
from tests.faults.files import UnsyncedFiles, WatchedFiles
from tests.kropot.jobs import fetch_job
from tests.kropot.scripted import Asked, Hang, ScriptedServer, Wait, chunked, head, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.kropot.scripted import Part

IV = bytes.fromhex("00112233445566778899aabbccddeeff")
PAGE = b"<!DOCTYPE html>\n<html>\n<title>An Error Occurred: Internal Server Error</title>\n</html>"
TAG = '"strong"'


def sealed(size: int, seed: int = 0) -> bytes:
    """Return bytes that look like a ciphertext."""
    return random.Random(seed).randbytes(size)


class MakeEngine(Protocol):
    def __call__(self, url: str, store: ObjectStore, *, keep_free: int = 0, **server: Any) -> TransferEngine: ...


MAKERS: dict[str, Callable[..., TransferEngine]] = {
    "curl": partial(CurlEngine, handles=4),
    "curl and large": partial(CurlEngine, handles=4, large=1),
    "curl and finishers": partial(CurlEngine, handles=4, middling=0),
    "plain": PlainEngine,
}


@pytest.fixture(params=list(MAKERS))
def make(request: pytest.FixtureRequest) -> Iterator[MakeEngine]:
    made: list[TransferEngine] = []

    def engine(url: str, store: ObjectStore, *, keep_free: int = 0, **server: Any) -> TransferEngine:
        headers = {"token": "secret-token", "User-Agent": "kropotcli/test", "Accept-Encoding": "identity"}
        where = Server(base_url=url, headers=headers, **({"silence_s": 10} | server))
        made.append(MAKERS[request.param](where, store, keep_free=keep_free))
        return made[-1]

    yield engine
    for one in made:
        one.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryObjects]:
    choice = Choice(method="syncfs", why="the test says so")
    store = DirectoryObjects(tmp_path / "store", "one", files=UnsyncedFiles(), choice=choice)
    store.lock()
    yield store
    store.close()


def run(engine: TransferEngine, *jobs: FetchJob, patience_s: float = 20) -> list[Receipt]:
    """Fetch all jobs and return the results in the order of their numbers."""
    engine.submit(jobs)
    results: list[Receipt] = []
    deadline = time.monotonic() + patience_s
    while engine.in_flight and time.monotonic() < deadline:
        results += engine.poll(1.0)
    assert engine.in_flight == 0
    return sorted(results, key=lambda result: result.entry.stream)


def job(number: int = 0, *, opaque: bool | None = True, size: int | None = None, etag: str | None = None) -> FetchJob:
    return fetch_job(number, f"id-{number}", opaque=opaque, size=size, etag=etag)


def fetch(make: MakeEngine, store: ObjectStore, *parts: Part, **claims: object) -> Receipt:
    """Fetch one content that is served as `parts`."""
    with ScriptedServer(lambda _: parts) as server:
        return run(make(server.url, store), job(**claims))[0]  # type: ignore[arg-type]


def assert_failed(result: Receipt, store: ObjectStore, reason: str, status: int | None = 200) -> None:
    assert isinstance(result, NotReceived)
    assert (result.reason, result.status) == (reason, status)
    assert result.refused == (status in {401, 403})
    assert not result.storage
    assert list(store.leftovers()) == []
    assert list(store.walk()) == []


def assert_got(result: Receipt, store: ObjectStore, content: bytes, iv: bytes | None = IV) -> None:
    assert isinstance(result, Received), result
    assert (result.iv, result.staged.size) == (iv, len(content))
    published = store.publish([result.staged])[0]
    assert isinstance(published, Published)
    assert published.sha256 == hashlib.sha256(content).digest()
    with store.open(published.sha256) as reader:
        assert reader.read() == content
    assert list(store.leftovers()) == []


# --- what is believed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 4096, 1 << 20, (3 << 20) + 16])
def test_whole_content_is_staged_with_its_iv(make: MakeEngine, store: DirectoryObjects, size: int) -> None:
    body = sealed(size)
    assert_got(fetch(make, store, measured(body)), store, body)


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_content_in_chunks_is_staged(make: MakeEngine, store: DirectoryObjects, pieces: int) -> None:
    body = sealed(160_000)
    step = -(-len(body) // pieces)
    answer = chunked(*(body[at : at + step] for at in range(0, len(body), step)))
    assert_got(fetch(make, store, answer), store, body)


def test_answer_that_comes_byte_by_byte_is_read(make: MakeEngine, store: DirectoryObjects) -> None:
    body = sealed(32)
    answer = chunked(body)
    assert_got(fetch(make, store, *(answer[at : at + 1] for at in range(len(answer)))), store, body)


def test_interim_answers_come_before_the_real_one(make: MakeEngine, store: DirectoryObjects) -> None:
    body = sealed(64)
    assert_got(fetch(make, store, b"HTTP/1.1 100 Continue\r\n\r\n" + measured(body)), store, body)


def test_plain_content_needs_no_iv_and_may_be_empty_or_a_web_page(make: MakeEngine, store: DirectoryObjects) -> None:
    plain = {"Encryption_Initialization_Vector": None}
    for body in (b"", b"odd", b"<!DOCTYPE html><html>my own page</html>"):
        assert_got(fetch(make, store, measured(body, **plain), opaque=False), store, body, iv=None)


def test_claims_that_agree_are_fine(make: MakeEngine, store: DirectoryObjects) -> None:
    body = sealed(64)
    assert_got(fetch(make, store, measured(body, ETag=TAG), size=64, etag="strong"), store, body)
    body = sealed(80)
    assert_got(fetch(make, store, chunked(body), size=80, etag=TAG), store, body)


def test_request_carries_token_and_user_agent_and_asks_for_no_coding(make: MakeEngine, store: DirectoryObjects) -> None:
    answer = measured(sealed(16), Set_Cookie="PHPSESSID=abc; path=/")
    with ScriptedServer(lambda _: [answer]) as server:
        engine = make(server.url, store)
        run(engine, job(1))
        run(engine, job(2))
        asked = server.requests
    assert {one.path for one in asked} == {content_path("id-1"), content_path("id-2")}
    for one in asked:
        assert one.headers["token"] == "secret-token"
        assert one.headers["user-agent"] == "kropotcli/test"
        assert one.headers["accept-encoding"] == "identity"
        assert "cookie" not in one.headers
        assert "range" not in one.headers


def test_proxy_of_the_environment_is_not_used(
    make: MakeEngine, store: DirectoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert_got(fetch(make, store, measured(sealed(16))), store, sealed(16))


@pytest.mark.parametrize(("make", "connections"), [("curl", 4), ("plain", 4)], indirect=["make"])
def test_connections_are_kept_for_many_contents(make: MakeEngine, store: DirectoryObjects, connections: int) -> None:
    bodies = {content_path(f"id-{number}"): sealed(32, number) for number in range(200)}
    with ScriptedServer(lambda asked: [measured(bodies[asked.path])]) as server:
        results = run(make(server.url, store), *(job(number) for number in range(200)))
        assert server.connections <= connections
    assert [result.staged.sha256 for result in results if isinstance(result, Received)] == [
        hashlib.sha256(bodies[content_path(f"id-{number}")]).digest() for number in range(200)
    ]


# --- what is not believed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 400, 401, 403, 404, 416, 429, 500, 503])
def test_any_other_status_is_a_failure(make: MakeEngine, store: DirectoryObjects, status: int) -> None:
    body = b"" if status == 204 else sealed(64)
    answer = measured(body, status, Location="http://127.0.0.1:9/elsewhere")
    assert_failed(fetch(make, store, answer), store, f"http_{status}", status)


def test_error_page_costs_no_connection(make: MakeEngine, store: DirectoryObjects) -> None:
    def script(asked: Asked) -> Iterable[Part]:
        return [
            measured(PAGE, 500, Content_Type="text/html")
            if asked.path.endswith("id-1/content")
            else measured(b"x" * 16)
        ]

    with ScriptedServer(script) as server:
        engine = make(server.url, store)
        for _ in range(5):
            assert_failed(run(engine, job(1))[0], store, "http_500", 500)
        assert server.connections == 1


def test_redirect_is_never_followed(make: MakeEngine, store: DirectoryObjects) -> None:
    with ScriptedServer(lambda _: [measured(sealed(16))]) as elsewhere:
        answer = measured(b"", 302, Location=f"{elsewhere.url}/caught")
        assert_failed(fetch(make, store, answer), store, "http_302", 302)
        assert elsewhere.requests == []


UNBELIEVABLE: dict[str, tuple[bytes, str]] = {
    "web page with status 200": (measured(PAGE, Content_Type="text/html; charset=UTF-8"), "not_octet_stream"),
    "no type": (measured(sealed(16), Content_Type=None), "not_octet_stream"),
    "no iv": (measured(sealed(16), Encryption_Initialization_Vector=None), "iv_missing"),
    "iv is no hex": (measured(sealed(16), Encryption_Initialization_Vector="z" * 32), "iv_not_hex"),
    "iv is short": (measured(sealed(16), Encryption_Initialization_Vector="00ff"), "iv_not_hex"),
    "compressed": (measured(sealed(16), Content_Encoding="gzip"), "encoded"),
    "empty with length": (measured(b""), "bad_length"),
    "empty in chunks": (chunked(), "empty"),
    "no whole blocks with length": (measured(sealed(17)), "bad_length"),
    "no whole blocks in chunks": (chunked(sealed(17)), "not_whole_blocks"),
    "error page appended": (chunked(sealed(65536), PAGE), "error_page"),
    "error page appended, whole blocks": (chunked(sealed(65536), PAGE + b" " * (-len(PAGE) % 16)), "error_page"),
    "negative length": (head(Content_Length="-16") + sealed(16), "bad_length"),
    "length and chunks": (chunked(sealed(16), Content_Length="16"), "ambiguous_head"),
    "two lengths": (measured(sealed(16)).replace(b"Content-Length: 16", b"Content-Length: 16\r\nContent-Length: 32"),
                    "ambiguous_head"),
    "two ivs": (measured(sealed(16)).replace(b"\r\n\r\n", b"\r\n" + b"Encryption-Initialization-Vector: " + b"f" * 32
                                             + b"\r\n\r\n", 1), "ambiguous_head"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNBELIEVABLE)
def test_unbelievable_answer_is_a_failure_with_a_stable_reason(
    make: MakeEngine, store: DirectoryObjects, case: str
) -> None:
    answer, reason = UNBELIEVABLE[case]
    result = fetch(make, store, answer, Hang())
    # Where two headers contradict each other, libcurl refuses some before we see them; it is a failure all the same.
    if reason in {"ambiguous_head", "bad_length"} and isinstance(result, NotReceived) and result.reason != reason:
        assert result.reason in {"not_http", "cut", "bad_length"}
        reason = result.reason
    assert_failed(result, store, reason, result.status)  # type: ignore[union-attr]


def test_body_that_only_a_closed_connection_ends_is_refused(make: MakeEngine, store: DirectoryObjects) -> None:
    assert_failed(fetch(make, store, head() + sealed(64), Hang()), store, "close_delimited")
    old = head(version="1.0") + sealed(64)
    assert_failed(fetch(make, store, old, Hang()), store, "close_delimited")


@pytest.mark.parametrize("end", [Hang(), Hang(reset=True)])
def test_body_shorter_than_its_length_is_cut(make: MakeEngine, store: DirectoryObjects, end: Hang) -> None:
    answer = head(Content_Length="320000") + sealed(160000)
    result = fetch(make, store, answer, Wait(0.05), end)
    assert_failed(result, store, "cut")


@pytest.mark.parametrize("end", [b"", b"0", b"0\r\n", b"5\r\nab", b"10\r\n"])
def test_chunks_without_their_end_are_cut(make: MakeEngine, store: DirectoryObjects, end: bytes) -> None:
    assert_failed(fetch(make, store, chunked(sealed(64000), end=end), Hang()), store, "cut")


def test_chunks_that_are_none_are_a_failure(make: MakeEngine, store: DirectoryObjects) -> None:
    result = fetch(make, store, chunked(sealed(64), end=b"nonsense\r\n"), Hang())
    assert isinstance(result, NotReceived)
    assert result.reason in {"cut", "not_http"}
    assert list(store.leftovers()) == []


@pytest.mark.parametrize("cut", [0, 1, 9, 40, 100])
def test_head_that_is_cut_is_a_failure(make: MakeEngine, store: DirectoryObjects, cut: int) -> None:
    result = fetch(make, store, measured(sealed(16))[:cut], Hang())
    assert isinstance(result, NotReceived)
    assert result.reason in {"cut", "not_http", "close_delimited", "not_octet_stream", "iv_missing", "iv_not_hex"}
    assert list(store.leftovers()) == []


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.6\r\n", b"220 mail ready\r\n\r\n", bytes(100)])
def test_server_that_speaks_something_else_is_a_failure(
    make: MakeEngine, store: DirectoryObjects, greeting: bytes
) -> None:
    result = fetch(make, store, greeting, Hang())
    assert isinstance(result, NotReceived)
    assert result.reason in {"not_http", "cut"}


def test_claims_of_the_listing_are_compared(make: MakeEngine, store: DirectoryObjects) -> None:
    body = sealed(64)
    assert_failed(fetch(make, store, measured(body), size=80), store, "wrong_length")
    assert_failed(fetch(make, store, chunked(body), size=80), store, "wrong_length")
    assert_failed(fetch(make, store, chunked(body, body), size=80), store, "wrong_length")
    assert_failed(fetch(make, store, measured(body, ETag='"other"'), etag="strong"), store, "etag_differs")


def test_endless_body_ends_at_the_claimed_size(make: MakeEngine, store: DirectoryObjects) -> None:
    def script(_: Asked) -> Iterator[Part]:
        yield chunked(end=b"")
        while True:
            yield b"10000\r\n" + bytes(65536) + b"\r\n"

    with ScriptedServer(script) as server:
        assert_failed(run(make(server.url, store), job(size=1 << 20))[0], store, "wrong_length")


# --- time ------------------------------------------------------------------------------------------------------------


def test_silence_is_a_stall(make: MakeEngine, store: DirectoryObjects) -> None:
    with ScriptedServer(lambda _: [head(Content_Length="64") + sealed(32), Wait(30)]) as server:
        result = run(make(server.url, store, silence_s=1), job())[0]
    assert_failed(result, store, "stalled", result.status)  # type: ignore[union-attr]


def test_server_that_never_answers_is_a_stall(make: MakeEngine, store: DirectoryObjects) -> None:
    with ScriptedServer(lambda _: [Wait(30)]) as server:
        assert_failed(run(make(server.url, store, silence_s=1), job())[0], store, "stalled", None)


def test_drip_is_taken_for_silence(make: MakeEngine, store: DirectoryObjects) -> None:
    def script(_: Asked) -> Iterator[Part]:
        yield head(Content_Length="1600")
        for _ in range(1600):
            yield b"x"
            yield Wait(0.05)

    with ScriptedServer(script) as server:
        result = run(make(server.url, store, silence_s=1), job())[0]
    assert_failed(result, store, "stalled", result.status)  # type: ignore[union-attr]


def test_a_long_transfer_that_is_never_silent_is_never_ended(make: MakeEngine, store: DirectoryObjects) -> None:
    content = sealed(40_000)

    def script(_: Asked) -> Iterator[Part]:
        yield head(Content_Length=str(len(content)))
        for start in range(0, len(content), 2000):
            yield content[start : start + 2000]
            yield Wait(0.1)

    with ScriptedServer(script) as server:
        assert_got(run(make(server.url, store, silence_s=1), job())[0], store, content)


def test_nobody_there_is_unreachable(make: MakeEngine, store: DirectoryObjects, free_port: int) -> None:
    results = run(make(f"http://127.0.0.1:{free_port}", store), job(1), job(2))
    for result in results:
        assert_failed(result, store, "not_listening", None)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """Return a server's TLS context and the file of the authority that vouches for it: itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context, str(folder / "ca.pem")


def test_certificate_of_a_private_authority_is_refused_unless_it_is_named(
    make: MakeEngine, store: DirectoryObjects, certificate: tuple[ssl.SSLContext, str]
) -> None:
    context, authority = certificate
    with ScriptedServer(lambda _: [measured(sealed(16))], tls=context) as server:
        assert_failed(run(make(server.url, store), job())[0], store, "tls_unknown_issuer", None)
        assert server.requests == []
        assert_got(run(make(server.url, store, ca_file=authority), job())[0], store, sealed(16))


def test_lists_and_contents_trust_the_same_usual_authorities(
    make: MakeEngine,
    store: DirectoryObjects,
    certificate: tuple[ssl.SSLContext, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context, authority = certificate
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    page = measured(b'{"remainingSince":0}\n\n', Content_Type="text/plain")
    with ScriptedServer(lambda asked: [page if "/list" in asked.path else measured(sealed(16))], tls=context) as server:
        with SecureCopyClient(server.url, "secret-token", silence_s=5, user_agent="test") as client:
            assert client.list(None, 1).entries == ()
        assert_got(run(make(server.url, store), job())[0], store, sealed(16))


# --- going on where it broke off -------------------------------------------------------------------------------------

BIG = sealed(400_000)
HUGE = sealed(3_000_000)


def ranged(asked: Asked, body: bytes = BIG, **fields: str | None) -> bytes:
    """Return what a server that knows ranges answers."""
    known = {"ETag": TAG} | fields
    if "range" not in asked.headers or asked.headers.get("if-range") != known["ETag"]:
        return measured(body, **known)
    start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
    return measured(body[start:], 206, **known, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")


def broken(asked: Asked, sent: int, body: bytes = BIG, **fields: str | None) -> Iterator[Part]:
    """Send so many bytes of the body, and hang up."""
    answer = ranged(asked, body, **fields)
    yield answer[: answer.index(b"\r\n\r\n") + 4 + sent]
    yield Wait(0.05)
    yield Hang()


def test_transfer_goes_on_where_it_broke_off(make: MakeEngine, store: DirectoryObjects) -> None:
    def script(asked: Asked) -> Iterable[Part]:
        return broken(asked, 100_000) if "range" not in asked.headers or asked.earlier < 3 else [ranged(asked)]

    with ScriptedServer(script) as server:
        assert_got(run(make(server.url, store), job())[0], store, BIG)
        resumed = [one.headers for one in server.requests if "range" in one.headers]
    assert len(resumed) >= 2
    assert all(one["if-range"] == TAG for one in resumed)
    assert len({one["range"] for one in resumed}) == len(resumed)


def test_changed_content_is_fetched_from_the_start_and_never_mixed(make: MakeEngine, store: DirectoryObjects) -> None:
    other = sealed(400_000, 1)

    def script(asked: Asked) -> Iterable[Part]:
        # A large body's first meeting is broken off by the fast engine itself.
        if "range" not in asked.headers:
            return broken(asked, 100_000)
        return [measured(other, ETag='"newer"', Encryption_Initialization_Vector="f" * 32)]

    with ScriptedServer(script) as server:
        result = run(make(server.url, store), job())[0]
    assert_got(result, store, other, iv=bytes.fromhex("f" * 32))


@pytest.mark.parametrize(
    "fields",
    [
        {"ETag": '"newer"'},
        {"Encryption_Initialization_Vector": "f" * 32},
        {"Encryption_Initialization_Vector": None},
        {"Content_Range": "bytes 0-399999/400000"},
        {"Content_Range": "bytes 100000-399999/500000"},
        {"Content_Range": None},
    ],
)
def test_rest_of_another_content_is_refused(
    make: MakeEngine, store: DirectoryObjects, fields: dict[str, str | None]
) -> None:
    def script(asked: Asked) -> Iterable[Part]:
        if "range" not in asked.headers:
            return broken(asked, 100_000)
        start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
        known = {"ETag": TAG, "Content_Range": f"bytes {start}-{len(BIG) - 1}/{len(BIG)}"} | fields
        return [measured(BIG[start:], 206, **known)]

    with ScriptedServer(script) as server:
        result = run(make(server.url, store), job())[0]
    assert isinstance(result, NotReceived)
    assert result.reason in {"changed_midway", "bad_range", "iv_missing"}
    assert list(store.leftovers()) == []


@pytest.mark.parametrize("fields", [{"ETag": None}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_etag_nothing_is_resumed(
    make: MakeEngine, store: DirectoryObjects, fields: dict[str, str | None]
) -> None:
    with ScriptedServer(lambda asked: broken(asked, 100_000, **fields)) as server:
        assert_failed(run(make(server.url, store), job())[0], store, "cut")
        assert all("range" not in one.headers for one in server.requests)


def test_server_that_always_breaks_off_is_given_up(make: MakeEngine, store: DirectoryObjects) -> None:
    with ScriptedServer(lambda asked: broken(asked, 70_000 if "range" not in asked.headers else 10)) as server:
        result = run(make(server.url, store), job())[0]
        asked = len(server.requests)
    assert_failed(result, store, "cut", result.status)  # type: ignore[union-attr]
    assert asked <= 10


def test_a_line_that_always_breaks_off_brings_everything_in_the_end(make: MakeEngine, store: DirectoryObjects) -> None:
    """There may be any number of attempts, as long as each brings something."""
    with ScriptedServer(lambda asked: broken(asked, 70_000, HUGE)) as server:
        assert_got(run(make(server.url, store), job())[0], store, HUGE)
        assert len(server.requests) >= len(HUGE) // 70_000


# --- going on in another process -------------------------------------------------------------------------------------


def until(asked: Asked, at: int, *, then: Part) -> Iterator[Part]:
    """Send the body up to this byte of the whole content, then do something else."""
    answer = ranged(asked, HUGE)
    start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-")) if "range" in asked.headers else 0
    yield answer[: answer.index(b"\r\n\r\n") + 4 + max(0, at - start)]
    yield Wait(0.05)
    yield then


def assert_goes_on(make: MakeEngine, store: DirectoryObjects, *, size: int | None = None) -> None:
    """A new engine asks for the rest alone, and gets the whole."""
    store.clean_own_leftovers(lambda _: True)
    with ScriptedServer(lambda asked: [ranged(asked, HUGE)]) as server:
        assert_got(run(make(server.url, store), job(size=size))[0], store, HUGE)
        (asked,) = server.requests
    assert int(asked.headers["range"].removeprefix("bytes=").removesuffix("-")) >= 1 << 20
    assert asked.headers["if-range"] == TAG


def test_what_broke_off_goes_on_in_another_process(make: MakeEngine, store: DirectoryObjects) -> None:
    with ScriptedServer(lambda asked: until(asked, 2_000_000, then=Hang())) as server:
        result = run(make(server.url, store), job())[0]
        assert isinstance(result, NotReceived)
        assert result.reason == "cut"
    assert_goes_on(make, store)


def test_what_fell_silent_goes_on_in_another_process(make: MakeEngine, store: DirectoryObjects) -> None:
    with ScriptedServer(lambda asked: until(asked, 2_000_000, then=Wait(30))) as server:
        result = run(make(server.url, store, silence_s=0.3), job(size=len(HUGE)))[0]
        assert isinstance(result, NotReceived)
        assert result.reason == "stalled"
    assert_goes_on(make, store, size=len(HUGE))


def test_what_was_ended_goes_on_in_another_process(make: MakeEngine, store: DirectoryObjects) -> None:
    reached = threading.Event()

    def script(asked: Asked) -> Iterator[Part]:
        yield from until(asked, 2_000_000, then=b"")
        reached.set()
        yield Wait(30)

    with ScriptedServer(script) as server:
        engine = make(server.url, store)
        engine.submit([job()])
        while not reached.is_set():
            engine.poll(0.05)
        engine.poll(0.05)
        engine.close()
    assert_goes_on(make, store)


def test_a_newer_content_is_fetched_from_the_start(make: MakeEngine, store: DirectoryObjects) -> None:
    with ScriptedServer(lambda asked: until(asked, 2_000_000, then=Hang())) as server:
        run(make(server.url, store), job())
    newer = sealed(3_000_000, 1)
    with ScriptedServer(lambda asked: [ranged(asked, newer, ETag='"newer"')]) as server:
        assert_got(run(make(server.url, store), job())[0], store, newer)


def test_a_note_of_another_element_is_not_believed(make: MakeEngine, store: DirectoryObjects) -> None:
    upload = store.stage(kept_name(job().stream))
    upload.keep(KeptNote(stream=job(7).stream, etag=TAG, iv=IV, length=len(HUGE)).pack())
    upload.write(bytes(2_000_000))
    upload.suspend()
    with ScriptedServer(lambda asked: [ranged(asked, HUGE)]) as server:
        assert_got(run(make(server.url, store), job())[0], store, HUGE)
        assert "range" not in server.requests[0].headers


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x94\x01\x02\x03\x04", b"\x93\xc4\x01n\xa1e\xc0", bytes(1000)])
def test_a_note_that_nobody_wrote_says_nothing(data: bytes) -> None:
    assert read_note(data) is None


def test_a_note_reads_back() -> None:
    note = KeptNote(stream=job().stream, etag=TAG, iv=None, length=5)
    assert read_note(note.pack()) == note


# --- the store's own troubles ----------------------------------------------------------------------------------------


def test_full_storage_is_told_as_such_and_leaves_nothing(make: MakeEngine) -> None:
    store = MemoryObjects("one", MemoryDisk(capacity=100_000))
    result = fetch(make, store, measured(sealed(200_000)))
    assert isinstance(result, NotReceived)
    assert (result.reason, result.storage, result.refused) == ("storage_full", True, False)
    assert "full" in result.detail
    assert store.disk.used == 0


def test_room_that_is_to_stay_free_is_not_written_into(make: MakeEngine) -> None:
    store = MemoryObjects("one", MemoryDisk(capacity=300_000))
    with ScriptedServer(lambda _: [measured(sealed(200_000))]) as server:
        result = run(make(server.url, store, keep_free=200_000), job())[0]
        assert isinstance(result, NotReceived)
        assert result.reason == "storage_full"
        assert isinstance(run(make(server.url, store, keep_free=50_000), job())[0], Received)


def test_one_content_that_does_not_fit_fails_alone_where_others_would(make: MakeEngine) -> None:
    store = MemoryObjects("one", MemoryDisk(capacity=1 << 30))
    huge = head(Content_Length=str(3 << 40)) + bytes(200_000)
    with ScriptedServer(lambda asked: [huge if "id-1" in asked.path else measured(sealed(16))]) as server:
        failed, other = run(make(server.url, store, keep_free=1 << 20), job(1), job(2))
    assert isinstance(failed, NotReceived)
    assert (failed.reason, failed.storage) == ("no_room", False)
    assert isinstance(other, Received)


def test_many_small_contents_do_not_eat_what_is_to_stay_free() -> None:
    """The store is not asked for each of them, so the ones that were let in since count."""

    class Counted(MemoryObjects):
        asked = 0

        def free_bytes(self) -> int | None:
            self.asked += 1
            return 10_000

    store = Counted("one")
    space = FreeSpace(store, keep=4_000)
    for _ in range(6):
        space.take(1_000)
    assert store.asked < 6
    # The store still has 10,000 bytes, since nothing was written: one more is let in, seven more are not.
    space.take(1_000)
    with pytest.raises(StorageFullError):
        space.take(7_000)


def test_a_store_that_cannot_tell_its_room_takes_everything() -> None:
    class Silent(MemoryObjects):
        def free_bytes(self) -> int | None:
            return None

    FreeSpace(Silent("one"), keep=1 << 60).take(1 << 50)


def test_disk_error_is_told_as_the_storages_own(make: MakeEngine, tmp_path: Path) -> None:
    def before(_number: int, step: str) -> None:
        if step == "write":
            raise OSError(5, "Input/output error")

    files = WatchedFiles(UnsyncedFiles(), before)
    store = DirectoryObjects(tmp_path / "bad", "one", files=files, choice=Choice(method="syncfs", why="test"))
    store.lock()
    result = fetch(make, store, measured(sealed(64)))
    assert isinstance(result, NotReceived)
    assert (result.reason, result.storage) == ("storage_error", True)
    assert "input/output" in result.detail
    assert list(store.leftovers()) == []
    store.close()


# --- ending ----------------------------------------------------------------------------------------------------------


def test_close_breaks_off_what_is_in_flight_at_once_and_leaves_nothing(
    make: MakeEngine, store: DirectoryObjects
) -> None:
    reached = threading.Event()

    def script(_: Asked) -> Iterator[Part]:
        yield head(Content_Length=str(64 << 20)) + bytes(4 << 20)
        reached.set()
        yield Wait(60)

    with ScriptedServer(script) as server:
        engine = make(server.url, store)
        engine.submit([job(number) for number in range(40)])
        deadline = time.monotonic() + 10
        while not reached.is_set() and time.monotonic() < deadline:
            engine.poll(0.05)
        begun = time.monotonic()
        engine.close()
        assert time.monotonic() - begun < 5
    assert engine.in_flight == 0
    assert list(store.leftovers()) == []


def test_poll_with_nothing_in_flight_returns_at_once(make: MakeEngine, store: DirectoryObjects, free_port: int) -> None:
    begun = time.monotonic()
    assert make(f"http://127.0.0.1:{free_port}", store).poll(30) == []
    assert time.monotonic() - begun < 5


def test_poll_returns_in_time_when_nothing_ends(make: MakeEngine, store: DirectoryObjects) -> None:
    with ScriptedServer(lambda _: [Wait(30)]) as server:
        engine = make(server.url, store)
        engine.submit([job()])
        begun = time.monotonic()
        assert engine.poll(0.2) == []
        assert time.monotonic() - begun < 5


def test_secrets_are_in_no_repr(store: DirectoryObjects) -> None:
    server = Server(base_url="http://127.0.0.1:1", headers={"token": "secret-token"})
    assert "secret-token" not in repr(server)
    assert "secret-token" not in repr([vars(PlainEngine(server, store))])


def test_slower_engine_takes_over_where_pycurl_is_missing_and_says_so() -> None:
    def load(name: str) -> object:
        raise ImportError(f"no module named {name}")

    chosen = choose_engine(load)
    assert chosen.make is PlainEngine
    assert chosen.warning is not None
    assert "slower" in chosen.warning
    fast = choose_engine()
    assert fast.make is CurlEngine
    assert fast.warning is None
