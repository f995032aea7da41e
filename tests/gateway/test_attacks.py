"""The gateway under attack: whoever shows no valid token costs little, learns nothing, and stops nobody else."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from kropot.serving.guard import Bounds
from tests.attack.servers import Attacked, attacked, everything
from tests.gateway.serve import ADMIN, PLAIN, SEALED, STREAM, Client, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT = Bounds(connections=40, head_bytes=4096, head_s=0.4, body_s=0.4, idle_s=1.0, unread_bytes=100_000, stall_s=0.5)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, bounds=SHORT) as gateway:
        (gateway.folder / "a-name-nobody-should-see.txt").write_bytes(b"content")
        (gateway.folder / "big").touch()
        os.truncate(gateway.folder / "big", 24 << 20)
        gateway.server.rescan()
        yield gateway


@pytest.fixture(params=["gateway", "keeper"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Attacked]:
    """Either of both servers: what they share is attacked in both."""
    with attacked(request.param, tmp_path, bounds=SHORT) as server:
        yield server


def connect(served: Served | Attacked) -> socket.socket:
    parts = urlsplit(served.url if isinstance(served, Attacked) else served.server.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)


def ask(conversation: socket.socket, client: Client, element: str, more: str = "") -> None:
    """Ask for a content."""
    head = f"GET /secure-copy/file/{element}/content HTTP/1.1\r\nHost: x\r\ntoken: {client.token}\r\n{more}\r\n"
    conversation.sendall(head.encode())


def fine(served: Served | Attacked) -> bool:
    """Whether everybody else is served."""
    if not isinstance(served, Attacked):
        return bool(served.client().page().entries)
    with connect(served) as conversation:
        conversation.sendall(served.small("Connection: close\r\n"))
        return everything(conversation).startswith(b"HTTP/1.1 200")


# --- tokens ---


@pytest.mark.parametrize("route", ["list", f"{'0' * 128}/content", f"{'0' * 128}/submitdata"])
@pytest.mark.parametrize(
    "token",
    [
        None,
        "",
        "x",
        "6e2d1b2a-7a0f-4c5e-9d43-0f0d5a6b7c81",
        "' OR 1=1 --",
        "\xff\xfe",
        "a" * 3000,
        "test-token-full-permissions",
    ],
)
def test_unknown_and_malformed_tokens_are_refused_in_json(served: Served, route: str, token: str | None) -> None:
    client = Client(served.server.url, "", None)
    headers = {"token": None if token is None else token.encode("latin-1")}
    for answer in (
        client.get(f"/secure-copy/file/{route}", headers=headers),
        client.get(f"/secure-copy/file/{route}?_token={quote(token or '')}", headers={"token": None}),
    ):
        assert answer.status_code == 403
        assert answer.json()["error_code"] == 403
        assert "Invalid authorization" in answer.json()["status"]


def test_expired_revoked_and_restricted_tokens_are_refused(served: Served) -> None:
    expired = served.client({**PLAIN, "expires": "2001-01-01 00:00:00"})
    elsewhere = served.client({**STREAM, "data": {"allowedIpAddresses": ["192.0.2.0/24"]}})
    other_agent = served.client({**STREAM, "data": {"allowedUserAgents": ["kropotcli/1"]}})
    revoked = served.client()
    assert revoked.page().entries
    served.server.service.book.revoke(revoked.token)
    for client in (expired, elsewhere, other_agent, revoked):
        for route in ("list", f"{'0' * 64}/content"):
            assert client.get(f"/secure-copy/file/{route}").status_code == 403
    assert other_agent.get("/secure-copy/file/list", headers={"User-Agent": "kropotcli/1"}).status_code == 200


def test_forwarded_address_is_not_believed(served: Served) -> None:
    client = served.client({**STREAM, "data": {"allowedIpAddresses": ["192.0.2.7"]}})
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert client.get("/secure-copy/file/list", headers={header: "192.0.2.7"}).status_code == 403


def test_forwarded_address_of_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    with Served(tmp_path, trusted_proxies=("127.0.0.1",)) as served:
        client = served.client({**STREAM, "data": {"allowedIpAddresses": ["192.0.2.7"]}})
        for address, status in {"192.0.2.7": 200, "192.0.2.8": 403}.items():
            answer = client.get("/secure-copy/file/list", headers={"X-Forwarded-For": address})
            assert answer.status_code == status


def test_concurrent_token_creation_makes_each_token_once(served: Served) -> None:
    admin = served.client(ADMIN)
    same = {**SEALED, "id": "6e2d1b2a-7a0f-4c5e-9d43-0f0d5a6b7c81"}

    def make(spec: dict[str, Any]) -> int:
        client = Client(admin.url, admin.token, None)
        return client.session.post(f"{client.url}/auth/token/generate", json=spec, timeout=20).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(make, [same] * 16))
        assert sorted(statuses) == [201] + [400] * 15
        assert set(pool.map(make, [SEALED] * 16)) == {201}
    kits = sorted(path.name for path in served.server._options.kits.iterdir())
    assert len(kits) == len(set(kits)) == 17


# --- heads, bodies, time ---


def test_huge_heads_are_refused(server: Attacked) -> None:
    for head in (
        b"GET /secure-copy/file/list HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100_000,
        b"GET /secure-copy/file/list HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 20_000,
        b"GET /secure-copy/file/list?" + b"a=b&" * 30_000,
        b"GET /" + b"%2e%2e/" * 20_000,
    ):
        with connect(server) as conversation:
            try:
                conversation.sendall(head + b" HTTP/1.1\r\n\r\n")
                answer = everything(conversation)
            except (BrokenPipeError, ConnectionResetError):
                answer = b"HTTP/1.1 431"
            assert answer[:12] in {b"HTTP/1.1 431", b"HTTP/1.1 400", b""}, answer[:80]
    assert fine(server)


def test_head_that_comes_byte_by_byte_is_given_up(served: Served) -> None:
    began = time.monotonic()
    with connect(served) as silent, connect(served) as slow, connect(served) as again:
        again.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert again.recv(1000).startswith(b"HTTP/1.1 404")
        again.sendall(b"GET / HT")
        for byte in b"GET /secure-copy":
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        for conversation in (silent, slow, again):
            assert everything(conversation)[:12] in {b"HTTP/1.1 408", b""}
    assert time.monotonic() - began < 5
    assert fine(served)


def test_idle_connection_is_closed(server: Attacked) -> None:
    with connect(server) as conversation:
        conversation.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        began = time.monotonic()
        everything(conversation)
        assert time.monotonic() - began < 5


def test_more_connections_than_allowed_are_turned_away_and_others_served(server: Attacked) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(server)) for _ in range(3 * SHORT.connections)]
        turned_away = [each for each in crowd if everything(each).startswith(b"HTTP/1.1 503")]
        assert len(turned_away) >= SHORT.connections
    for _ in range(100):
        try:
            assert fine(server)
            break
        except AssertionError:
            raise
        except OSError:
            time.sleep(0.05)
    else:
        pytest.fail("nobody is served after the crowd has gone")


def test_thousands_of_connections_leave_nothing_behind(served: Served) -> None:
    began = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    words = (b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n", b"POST /auth/token/generate HTTP/1.1\r\n")
    for number in range(3000):
        with suppress(OSError), connect(served) as conversation:
            conversation.sendall(words[number % len(words)])
            if number % 3 == 0:  # a reset instead of an end
                conversation.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    deadline = time.monotonic() + 20
    while len(os.listdir("/proc/self/fd")) > began + 4 and time.monotonic() < deadline:  # noqa: PTH208
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= began + 4  # noqa: PTH208
    assert fine(served)


def test_reader_that_takes_nothing_is_cut_off(server: Attacked) -> None:
    with connect(server) as conversation:
        conversation.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        conversation.sendall(server.big())
        time.sleep(3 * SHORT.stall_s)
        assert len(everything(conversation)) < 24 << 20
    assert fine(server)


def test_slow_reader_that_takes_something_is_not_cut_off(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"big"]
    with connect(served) as conversation:
        conversation.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        ask(conversation, client, element, "Connection: close\r\n")
        taken = 0
        until = time.monotonic() + 4 * SHORT.stall_s
        while time.monotonic() < until:
            taken += len(conversation.recv(64 * 1024))
            time.sleep(0.02)
        taken += len(everything(conversation))
        assert taken > 24 << 20


def test_body_that_nobody_asked_for_is_cut(server: Attacked) -> None:
    with connect(server) as conversation:
        conversation.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        try:
            while sent < 100 << 20:
                sent += conversation.send(bytes(1 << 16))
        except OSError:
            pass
        assert sent < 50 << 20
    assert fine(server)


def test_body_of_a_token_request_is_bounded_in_size_and_time(served: Served) -> None:
    admin = served.client(ADMIN)
    url = f"{admin.url}/auth/token/generate"
    big = admin.session.post(url, data=b"[" * (SHORT.body_bytes + 1), timeout=20)
    assert (big.status_code, big.json()["http_code"]) == (413, 413)
    for body in (b"", b"not json", b"[" * 60_000, b'{"roles": "x"}', b"\xff", b'{"id": NaN}'):
        answer = admin.session.post(url, data=body, timeout=20)
        assert (answer.status_code, answer.json()["status"]) == (400, "Validation error")
    with connect(served) as conversation:
        head = f"POST /auth/token/generate HTTP/1.1\r\nHost: x\r\ntoken: {admin.token}\r\nContent-Length: 9\r\n\r\n"
        conversation.sendall(head.encode() + b"{")
        assert everything(conversation).startswith(b"HTTP/1.1 408")


def test_noise_is_no_request(server: Attacked) -> None:
    for noise in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        os.urandom(500),
    ):
        with connect(server) as conversation:
            conversation.sendall(noise + b"\r\n\r\n")
            conversation.shutdown(socket.SHUT_WR)
            stranger = b"HTTP/1.1 %d" % server.stranger
            assert everything(conversation)[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 408", stranger, b""}
    assert fine(server)


# --- routes ---

WORDS = [
    "secure-copy",
    "file",
    "list",
    "content",
    "submitdata",
    "auth",
    "token",
    "generate",
    "..",
    ".",
    "%2e%2e",
    "%00",
    "%2f",
    "a%",
    "%",
    "etc",
    "passwd",
]
PIECES = st.sampled_from([*WORDS, "", "0" * 128, "0" * 64, "\u017c", "x" * 600])
NAMES = st.sampled_from(["_token", "since", "limit", "since[]", "limit[a]", "raw", "x", "\u017c"])
VALUES = st.sampled_from(["", "0", "-1", "true", "2026-11-23", "@1", "9" * 400, "\0", "'", "%", "\u017c", "\ud800"])


class Errors(logging.Handler):
    """Keeps what the server logs of its own failures, tracebacks above all."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.name}: {record.getMessage()} {record.exc_info}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str, str]]:
    errors = Errors()
    with Served(tmp_path_factory.mktemp("shared")) as gateway:
        log = logging.getLogger("uvicorn.error")
        log.setLevel(logging.ERROR)
        log.addHandler(errors)
        (gateway.folder / "file").write_bytes(b"content")
        gateway.server.rescan()
        stream, admin = gateway.client(), gateway.client(ADMIN)
        stream.page()
        yield gateway, stream.token, admin.token
    log.removeHandler(errors)
    assert errors.said == []


REQUESTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"]),
        "path": st.lists(PIECES, max_size=6),
        "query": st.lists(st.tuples(NAMES, VALUES), max_size=4),
        "who": st.sampled_from(["stream", "admin", "nobody"]),
        "headers": st.dictionaries(
            st.sampled_from(["range", "if-range", "host", "accept-encoding", "content-type", "user-agent"]),
            st.sampled_from(["", "bytes=0-", '"x"', "a" * 500, "evil.example/\\", "[::1]:x", "\xff"]),
            max_size=3,
        ),
        "body": st.sampled_from([b"", b"{}", b"[1]", b"\xff" * 10, json.dumps(SEALED).encode()[:-1]]),
    }
)


@given(request=REQUESTS)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_is_an_internal_error(shared: tuple[Served, str, str], request: dict[str, Any]) -> None:
    served, stream, admin = shared
    parts = urlsplit(served.server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    method, query, who = request["method"], request["query"], request["who"]
    target = "/" + "/".join(quote(piece, safe="%./") for piece in request["path"])
    target += "?" + "&".join(f"{quote(k)}={quote(v, errors='surrogatepass')}" for k, v in query) if query else ""
    tokens = {"stream": stream, "admin": admin}
    sent = {**request["headers"], **({"token": tokens[who]} if who in tokens else {})}
    try:
        connection.request(method, target, body=request["body"], headers=sent)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    assert answer.status in {200, 206, 400, 403, 404, 405, 416}, (answer.status, method, target)
    if answer.status >= 400 and method != "HEAD" and b"Invalid HTTP" not in content:
        assert answer.headers["content-type"] == "application/json"
        assert isinstance(json.loads(content), dict)
    if who == "nobody":
        assert answer.status != 200


def test_ids_lead_to_no_path(served: Served) -> None:
    client = served.client(PLAIN)
    client.page()
    parts = urlsplit(client.url)
    for element in ("..%2f..%2fetc%2fpasswd", "%2e%2e", "a-name-nobody-should-see.txt", "big", "..", "0" * 63):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        connection.request("GET", f"/secure-copy/file/{element}/content", headers={"token": client.token})
        assert connection.getresponse().status == 404
        connection.close()


def test_host_header_cannot_make_urls_of_its_own_shape(served: Served) -> None:
    client = served.client()
    for host in ("evil.example/path?x=", 'a"b', "a b", "user@evil.example"):
        answer = client.get("/secure-copy/file/list", headers={"Host": host})
        header = json.loads(answer.text.partition("\n\n")[0])
        assert header["fetchUrlTemplate"].startswith("/secure-copy/")


def test_symlink_that_appears_in_the_place_of_a_file_is_not_followed(served: Served, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"outside")
    client = served.client(PLAIN)
    element = client.ids()[b"big"]
    (served.folder / "big").unlink()
    (served.folder / "big").symlink_to(tmp_path / "secret")
    assert client.get(f"/secure-copy/file/{element}/content").status_code == 404
    served.server.rescan()
    assert b"big" not in client.ids()


# --- what is left behind ---


def test_no_secret_and_no_name_is_logged(served: Served) -> None:
    name = "a-name-nobody-should-see"
    with capture_logs() as lines:
        client, admin = served.client(), served.client(ADMIN)
        element = client.ids()[f"{name}.txt".encode()]
        client.content(element)
        (served.folder / f"{name}.txt").unlink()
        client.get(f"/secure-copy/file/{element}/content?_token={client.token}")
        (served.folder / name).mkdir(mode=0)
        served.server.rescan()
        admin.session.post(f"{admin.url}/auth/token/generate", data=b"garbage", timeout=20)
        with connect(served) as conversation:
            ask(conversation, client, client.ids()[b"big"])
            conversation.recv(100)
            os.utime(served.folder / "big")
            everything(conversation)
    assert {line["event"] for line in lines} == {"folder_scanned", "transfer_broken"}
    for secret in (client.token, admin.token, name, element):
        assert secret not in repr(lines)


def test_no_descriptor_is_left_open(served: Served) -> None:
    client = served.client()
    ids = client.ids()

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count

    client.content(ids[b"big"])
    before = count()
    for _ in range(30):
        client.content(ids[b"a-name-nobody-should-see.txt"])
        client.get(f"/secure-copy/file/{'0' * 128}/content")
        client.session.head(f"{client.url}/secure-copy/file/{ids[b'big']}/content", timeout=20)
        with connect(served) as conversation:
            ask(conversation, client, ids[b"big"])
            conversation.recv(100)
    deadline = time.monotonic() + 10
    while count() > before + 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count() <= before + 4
