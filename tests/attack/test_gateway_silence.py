"""Clients that want to silence a server: slow ones, greedy ones, and ones that never read. Others are served.

Every client here is a real socket. The times are short versions of the defaults, which `test_default_bounds` holds.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from kropot.gateway import app as app_module
from kropot.gateway import contents as contents_module
from kropot.serving.guard import Bounds
from tests.attack.servers import attacked, both_servers, everything
from tests.gateway.serve import PLAIN, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.attack.servers import Kind
    from tests.gateway.serve import Client

CROWD = 12
SHORT = Bounds(
    connections=CROWD,
    per_address=CROWD,
    head_s=0.5,
    body_s=0.5,
    idle_s=1.0,
    unread_bytes=100_000,
    stall_s=0.6,
    stall_bytes=10_000,
)
PROMPT_S = 10.0
"""Long beside every time in SHORT, even on a busy machine."""

NOTHING = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nA"


@contextmanager
def serving(tmp_path: Path, **options: Any) -> Iterator[Served]:
    with Served(tmp_path, **{"bounds": SHORT, **options}) as gateway:
        (gateway.folder / "big").touch()
        os.truncate(gateway.folder / "big", 24 << 20)
        (gateway.folder / "small").write_bytes(b"content")
        gateway.server.rescan()
        yield gateway


def connect(url: str, *, buffer: int | None = None, source: str = "127.0.0.1") -> socket.socket:
    parts = urlsplit(url)
    conversation = socket.socket()
    if buffer is not None:
        conversation.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    conversation.bind((source, 0))
    conversation.settimeout(PROMPT_S)
    conversation.connect((parts.hostname, parts.port))
    return conversation


def get(path: str, token: str = "", more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\ntoken: {token}\r\n{more}\r\n".encode()


def status(answer: bytes) -> int:
    return int(answer[9:12] or b"0")


def is_served(url: str, request: bytes = NOTHING, expected: int | None = None, source: str = "127.0.0.1") -> bool:
    """Whether somebody else gets an answer now. A stranger learns that there is nothing, or nothing for him."""
    with connect(url, source=source) as conversation, suppress(OSError):
        conversation.sendall(request)
        return status(conversation.recv(1000)) in ({401, 404} if expected is None else {expected})
    return False


def served_within(url: str, seconds: float = PROMPT_S) -> float | None:
    """Return after how many seconds somebody else is served, or None."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if is_served(url):
            return time.monotonic() - began
        time.sleep(0.05)
    return None


@contextmanager
def dripping(conversations: list[socket.socket], drop: bytes) -> Iterator[None]:
    """Send a drop on every connection ten times a second, as long as the block runs."""
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.1):
            for conversation in conversations:
                with suppress(OSError):
                    conversation.sendall(drop)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_default_bounds() -> None:
    bounds = Bounds()
    assert (bounds.head_s, bounds.body_s, bounds.idle_s, bounds.stall_s) == (10, 30, 60, 120)
    assert bounds.per_address * 4 <= bounds.connections, "no client can take all places alone"


# --- time ---


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (POST, b"A"),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nA\r\n"),
        (b"GET /secure-copy/file/list HTTP/1.1\r\n", b"X: y\r\n"),
        (b"", b"\r\n"),
        (NOTHING + b"G", b"E"),
    ],
    ids=["body", "chunks", "head", "line breaks", "second head"],
)
@both_servers
def test_message_that_drips_is_given_up(tmp_path: Path, kind: Kind, begin: bytes, drop: bytes) -> None:
    with attacked(kind, tmp_path, bounds=SHORT) as server, ExitStack() as stack:
        crowd = [stack.enter_context(connect(server.url)) for _ in range(CROWD)]
        for conversation in crowd:
            conversation.sendall(begin)
        with dripping(crowd, drop):
            assert served_within(server.url) is not None
            answers = [everything(conversation) for conversation in crowd]
        assert {status(answer) for answer in answers} <= {408, server.stranger, 0}


@both_servers
def test_line_breaks_behind_an_answer_hold_no_connection(tmp_path: Path, kind: Kind) -> None:
    with attacked(kind, tmp_path, bounds=SHORT) as server, ExitStack() as stack:
        conversation = stack.enter_context(connect(server.url))
        conversation.sendall(server.small())
        assert status(conversation.recv(1 << 16)) == 200
        began = time.monotonic()
        with dripping([conversation], b"\r\n"):
            everything(conversation)
        assert time.monotonic() - began < PROMPT_S


def test_refused_client_keeps_no_connection(tmp_path: Path) -> None:
    with serving(tmp_path, bounds=Bounds()) as gateway:
        element = "0" * 64
        for request, expected in {
            NOTHING: 404,
            get("/secure-copy/file/list"): 403,
            get(f"/secure-copy/file/{element}/content", "wrong"): 403,
            get(f"/secure-copy/file/{element}/submitdata", "wrong"): 403,
            b"PUT /secure-copy/file/list HTTP/1.1\r\nHost: x\r\n\r\n": 405,
            b"PUT /secure-copy/file/x/content HTTP/1.1\r\nHost: x\r\n\r\n": 405,
            b"POST /auth/token/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}": 403,
        }.items():
            with connect(gateway.server.url) as conversation:
                conversation.sendall(request)
                answer = everything(conversation)  # it ends long before the idle time of 60 seconds
            assert (status(answer), b"\r\nconnection: close\r\n" in answer.lower()) == (expected, True), request


def test_admitted_client_keeps_its_connection(tmp_path: Path) -> None:
    with serving(tmp_path, bounds=Bounds()) as gateway, connect(gateway.server.url) as conversation:
        client = gateway.client(PLAIN)
        element = client.ids()[b"small"]
        for _ in range(3):
            conversation.sendall(get(f"/secure-copy/file/{element}/content", client.token))
            received = b""
            while not received.endswith(b"\r\n\r\ncontent"):
                received += conversation.recv(1000)
            assert status(received) == 200
        conversation.sendall(get(f"/secure-copy/file/{'0' * 64}/content", client.token))
        assert b"connection: close" not in conversation.recv(1000).lower(), "what is not there is no refusal"


# --- size ---


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (POST + b"A" * 400_000, 413),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % number for number in range(129)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400),
    ],
    ids=["body", "fields", "head", "noise"],
)
@both_servers
def test_refusal_reaches_a_client_that_is_still_sending(
    tmp_path: Path, kind: Kind, request_: bytes, expected: int
) -> None:
    bounds = Bounds(unread_bytes=1 << 20)
    with attacked(kind, tmp_path, bounds=bounds) as server, connect(server.url) as conversation:
        for start in range(0, len(request_), 30_000):
            conversation.sendall(request_[start : start + 30_000])
            time.sleep(0.01)
        head, _, body = everything(conversation).partition(b"\r\n\r\n")
        assert status(head) == expected
        assert json.loads(body)["http_code"] == expected


@both_servers
def test_trailer_is_no_header(tmp_path: Path, kind: Kind) -> None:
    with attacked(kind, tmp_path, bounds=Bounds()) as server, connect(server.url) as conversation:
        head = f"GET {server.small_path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        conversation.sendall(f"{head}0\r\n{server.admitted}\r\n\r\n".encode())
        assert status(everything(conversation)) == (403 if kind == "gateway" else 401)


# --- one request at a time ---


@both_servers
def test_requests_behind_a_request_get_no_answer(tmp_path: Path, kind: Kind) -> None:
    with attacked(kind, tmp_path, bounds=Bounds()) as server, connect(server.url) as conversation:
        conversation.sendall(server.small() * 300)
        answer = everything(conversation)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status(answer) == 200
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_requests_behind_a_request_take_no_memory(kropotcli: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    command = [str(kropotcli), "--json", "gateway", "serve", "--source", "files", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            assert is_served(url)
            before = peak_mib(process.pid)
            blob = b"GET / HTTP/1.1\r\n\r\n" * 14_000
            with ExitStack() as stack:
                for _ in range(30):
                    conversation = stack.enter_context(connect(url))
                    with suppress(OSError):
                        conversation.sendall(blob)
                assert is_served(url)
            grown = peak_mib(process.pid) - before
        finally:
            process.terminate()
    assert grown < 40, f"30 connections of 250 kB each cost {grown} MiB"


def peak_mib(pid: int) -> int:
    """Return how much memory a process has had at most, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024


# --- readers ---


def pages_of(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Give every page `size` bytes: more than the system's buffers take."""
    monkeypatch.setattr(app_module, "build_page", lambda *_args, **_options: (bytes(size), []))


def idle_readers(stack: ExitStack, url: str, request: bytes, count: int) -> list[socket.socket]:
    """Ask, and read nothing."""
    crowd = []
    for _ in range(count):
        conversation = stack.enter_context(connect(url, buffer=2048))
        with suppress(OSError):
            conversation.sendall(request)
        crowd.append(conversation)
    return crowd


def test_floods_without_a_token_stop_no_list(tmp_path: Path) -> None:
    with serving(tmp_path, bounds=Bounds()) as gateway, ExitStack() as stack:
        client = gateway.client()
        idle_readers(stack, gateway.server.url, b"GET /a/list HTTP/1.1\r\nA:bbbb\r\n\r\n" * 10_000, 17)
        began = time.monotonic()
        assert client.page().entries
        assert time.monotonic() - began < PROMPT_S


def test_readers_that_do_not_read_stop_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, bounds=Bounds()) as gateway, ExitStack() as stack:
        pages_of(monkeypatch, 8 << 20)
        slow, other = gateway.client(), gateway.client()
        idle_readers(stack, gateway.server.url, get("/secure-copy/file/list", slow.token), 20)
        time.sleep(0.5)
        assert len(other.get("/secure-copy/file/list").content) == 8 << 20


def test_readers_of_one_token_stop_no_contents_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_module, "STREAMS", 2)
    with serving(tmp_path, bounds=Bounds()) as gateway, ExitStack() as stack:
        slow, other = gateway.client(), gateway.client()
        path = f"/secure-copy/file/{slow.ids()[b'big']}/content"
        idle_readers(stack, gateway.server.url, get(path, slow.token), 4)
        time.sleep(0.5)
        assert len(other.content(other.ids()[b"big"]).plain) == 24 << 20


def open_connections(url: str) -> int:
    """Return how many connections of clients a server holds, as the system tells it."""
    port = urlsplit(url).port
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established, close_wait, held_by_nobody = "01", "08", "0"
    return sum(
        row[1].endswith(f":{port:04X}") and row[3] in {established, close_wait} and row[9] != held_by_nobody
        for row in rows
    )


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"], ids=["kept", "closing"])
@pytest.mark.parametrize("trickles", [False, True], ids=["nothing", "trickle"])
def test_reader_that_takes_next_to_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, *, trickles: bool
) -> None:
    with serving(tmp_path) as gateway, ExitStack() as stack:
        pages_of(monkeypatch, 8 << 20)
        token = gateway.client().token
        [conversation] = idle_readers(stack, gateway.server.url, get("/secure-copy/file/list", token, more), 1)
        deadline = time.monotonic() + PROMPT_S
        time.sleep(0.2)
        assert open_connections(gateway.server.url) == 1
        while open_connections(gateway.server.url) and time.monotonic() < deadline:
            if trickles:
                with suppress(OSError):
                    conversation.recv(100)
            time.sleep(0.05)
        assert open_connections(gateway.server.url) == 0


@both_servers
def test_reader_of_a_content_that_takes_next_to_nothing_is_cut_off(tmp_path: Path, kind: Kind) -> None:
    with attacked(kind, tmp_path, bounds=SHORT) as server, ExitStack() as stack:
        idle_readers(stack, server.url, server.big(), 1)
        deadline = time.monotonic() + PROMPT_S
        time.sleep(0.2)
        assert open_connections(server.url) == 1
        while open_connections(server.url) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert open_connections(server.url) == 0


def test_readers_of_a_keeper_that_do_not_read_stop_nobody(tmp_path: Path) -> None:
    with attacked("keeper", tmp_path, bounds=Bounds()) as server, ExitStack() as stack:
        idle_readers(stack, server.url, server.big(), 40)
        time.sleep(0.3)
        assert is_served(server.url, server.small(), 200)
        with connect(server.url) as conversation:
            conversation.sendall(server.big("Connection: close\r\n"))
            assert len(everything(conversation)) > 24 << 20


def test_slow_reader_of_a_list_gets_the_whole_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, bounds=replace(SHORT, stall_s=PROMPT_S)) as gateway:
        pages_of(monkeypatch, 4 << 20)
        token = gateway.client().token
        with connect(gateway.server.url, buffer=32_000) as conversation:
            conversation.sendall(get("/secure-copy/file/list", token))
            began, taken = time.monotonic(), 0
            while taken < 4 << 20:
                received = conversation.recv(1 << 16)
                assert received, f"cut off after {taken} bytes"
                taken += len(received)
                time.sleep(0.01 if time.monotonic() - began < 3 * SHORT.idle_s else 0)
        assert time.monotonic() - began > SHORT.idle_s, "reading took longer than an idle connection may last"


# --- one client among many ---


@both_servers
def test_one_address_takes_no_more_than_its_share(tmp_path: Path, kind: Kind) -> None:
    bounds = Bounds(connections=40, per_address=5)
    with attacked(kind, tmp_path, bounds=bounds) as server, ExitStack() as stack:
        url = server.url
        for _ in range(5):
            stack.enter_context(connect(url)).sendall(b"G")
        assert is_served(url, expected=503)
        assert is_served(url, source="127.0.0.2"), "another address has places of its own"
        stack.close()
        assert served_within(url) is not None, "places are given back"


@both_servers
def test_behind_a_trusted_proxy_the_share_is_of_the_client(tmp_path: Path, kind: Kind) -> None:
    bounds = Bounds(connections=60, per_address=3)
    with attacked(kind, tmp_path, bounds=bounds, trusted_proxies=("127.0.0.1",)) as server, ExitStack() as stack:
        url = server.url
        for _ in range(20):  # connections that the proxy keeps
            stack.enter_context(connect(url))
        one, two = ("X-Forwarded-For: 192.0.2.1\r\n", "X-Forwarded-For: 198.51.100.7, 192.0.2.2\r\n")
        idle_readers(stack, url, server.big(one), 3)
        time.sleep(0.3)
        assert is_served(url, server.small(one), 503)
        assert is_served(url, server.small(two), 200)
        spoofed = "X-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n"
        assert is_served(url, server.small(spoofed), 503), "what the client wrote itself counts nothing"


def test_places_behind_a_proxy_are_given_back(tmp_path: Path) -> None:
    with serving(tmp_path, bounds=Bounds(per_address=1), trusted_proxies=("127.0.0.1",)) as gateway:
        client = gateway.client()
        client.session.headers["X-Forwarded-For"] = "192.0.2.1"
        for _ in range(5):
            assert client.page().entries
        path = f"/secure-copy/file/{ids_behind(client)}/content"
        with connect(gateway.server.url, buffer=2048) as conversation:
            conversation.sendall(get(path, client.token, "X-Forwarded-For: 192.0.2.1\r\n"))
            conversation.recv(10)
            assert client.get("/secure-copy/file/list").status_code == 503
        deadline = time.monotonic() + PROMPT_S
        while client.get("/secure-copy/file/list").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def ids_behind(client: Client) -> str:
    return client.ids()[b"big"]


def test_held_connections_leave_descriptors_for_files(kropotcli: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    limited = f"ulimit -Sn 100; exec {kropotcli} --json gateway serve --source files --port 0 --max-per-address 300"
    command = ["bash", "-c", limited]
    with (
        ExitStack() as stack,
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            for _ in range(250):
                stack.enter_context(connect(url)).sendall(b"G")
            assert is_served(url)
        finally:
            process.terminate()
