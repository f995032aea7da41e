"""The simulator as a server: its wire, its wrong cursors and zones, and that every fault does what it is called."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from kropot.securecopy.sealing import open_stream
from tests.oldserver import (
    CONTENT_FAULTS,
    LIST_FAULTS,
    BitFlip,
    Both,
    Endless,
    Fault,
    Generated,
    GzipBomb,
    Head,
    HtmlAppended,
    HtmlWithStatus200,
    OldServer,
    Quirks,
    Redirect,
    Shortened,
    Status,
    always,
    bad_chunk,
    close_delimited,
    cut,
    cut_in_end,
    cut_in_head,
    drip,
    duplicated_lines,
    extra_line,
    first_visits,
    for_ids,
    garbage_line,
    iv_missing,
    iv_not_hex,
    iv_on_a_500,
    no_answer,
    not_http,
    numbered,
    page_cut_between_lines,
    page_cut_in_a_line,
    reordered_lines,
    seeded,
    slow_start,
    stall,
    truncated_line,
    with_length,
)
from tests.oldserver.faults import lines_of
from tests.vectors.load import exchange

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = 1795435200  # 2026-11-23 12:00:00 UTC
FILES = {"a.txt": b"bread", "b.txt": b"and", "c.txt": b"roses " * 100}


@pytest.fixture
def server() -> Iterator[OldServer]:
    with OldServer(FILES, clock=lambda: NOON) as started:
        yield started


@pytest.fixture
def plain() -> Iterator[OldServer]:
    with OldServer(FILES, encrypted=False, clock=lambda: NOON) as started:
        yield started


def raw_get(server: OldServer, path: str, *, version: str = "1.1", extra: str = "") -> bytes:
    """Return every byte of an answer to a request that asks for the connection's end."""
    ask = f"GET {path} HTTP/{version}\r\nHost: x\r\nUser-Agent: raw/1\r\ntoken: {server.token}\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall((ask + extra + "\r\n").encode())
        got = b""
        while data := sock.recv(65536):
            got += data
    return got


def get(server: OldServer, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers={"token": server.token, "User-Agent": "test/1", **(headers or {})})
    return connection.getresponse()


def listed(server: OldServer, **query: Any) -> list[dict[str, Any]]:
    ask = "&".join(f"{key}={value}".replace(" ", "%20") for key, value in query.items())
    body = get(server, f"/secure-copy/file/list?{ask}").read()
    return [json.loads(line) for line in body.partition(b"\n\n")[2].splitlines()]


def content_path(server: OldServer, name: str = "c.txt") -> str:
    listed(server)
    return f"/secure-copy/file/{server.id_of(name)}/content"


# --- the wire ---


@pytest.mark.parametrize(
    ("group", "name", "path"),
    [
        ("list", "encrypted-all", "/secure-copy/file/list"),
        ("errors", "no-route", "/nosuch"),
        ("errors", "submitdata-unknown-id-encrypted", "/secure-copy/file/0/submitdata"),
        ("content", "sha512-size16.bin", None),
    ],
)
def test_headers_come_in_the_real_order(server: OldServer, group: str, name: str, path: str | None) -> None:
    found = [key for key, _ in exchange(group, name).headers if key != "Expires"]
    given = [key for key, _ in get(server, path or content_path(server)).getheaders()]
    assert given == found


def test_every_cookieless_answer_begins_a_session(server: OldServer) -> None:
    first, second = (get(server, "/secure-copy/file/list").getheader("Set-Cookie") for _ in range(2))
    assert first is not None
    assert first.startswith("PHPSESSID=")
    assert first != second
    assert get(server, "/secure-copy/file/list", {"Cookie": first.split(";")[0]}).getheader("Set-Cookie") is None


def test_requests_of_one_session_wait_for_each_other(server: OldServer) -> None:
    server.plan = numbered({1: slow_start(3600)})
    kept_open: list[http.client.HTTPConnection] = []

    def ask(session: str, timeout: float) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
        kept_open.append(connection)
        headers = {"token": server.token, "User-Agent": "test/1", "Cookie": f"PHPSESSID={session}"}
        connection.request("GET", "/secure-copy/file/list", headers=headers)
        return connection.getresponse().status

    with pytest.raises(TimeoutError):
        ask("same", 0.2)
    with pytest.raises(TimeoutError):
        ask("same", 0.2)
    assert ask("other", 10) == 200
    for connection in kept_open:
        connection.close()


def test_http_1_0_is_answered_up_to_the_end_of_the_connection(server: OldServer) -> None:
    head, _, body = raw_get(server, "/secure-copy/file/list", version="1.0").partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Content-Length" not in head
    assert body.count(b"\n") == 2 + len(FILES)


def test_a_head_request_has_no_body(server: OldServer) -> None:
    path = content_path(server)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(2):
        connection.request("HEAD", path, headers={"token": server.token, "User-Agent": "test/1"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
    connection.request("POST", path, body=b"12345", headers={"token": server.token, "User-Agent": "test/1"})
    assert connection.getresponse().status == 405


def test_contents_of_any_size_are_made_while_they_are_sent(server: OldServer) -> None:
    server.add("big.bin", Generated(5_000_000, seed=3))
    answer = get(server, content_path(server, "big.bin"))
    iv = bytes.fromhex(answer.getheader("Encryption-Initialization-Vector") or "")
    assert b"".join(open_stream([answer.read()], server.kit.key(iv), iv)) == server.content("big.bin")


def test_the_same_seed_sends_the_same_bytes() -> None:
    def run() -> bytes:
        with OldServer(FILES, clock=lambda: NOON, seed=5, plan=seeded(5, 0.5, CONTENT_FAULTS)) as one:
            one.repository.base_url = "http://x"
            return raw_get(one, "/secure-copy/file/list") + raw_get(
                one, f"/secure-copy/file/{one.id_of('a.txt')}/content"
            )

    assert run() == run()


# --- cursors, dates and zones ---


def test_a_cursor_skips_what_shares_its_second(plain: OldServer) -> None:
    plain.add_many([f"same{number}" for number in range(6)], b"x", at=NOON - 30)
    page = listed(plain, limit=5)
    assert page[-1]["date"] == NOON - 30
    assert listed(plain, since="2026-11-23 11:59:30") == []
    assert len(listed(plain, since="2026-11-23 11:59:29")) == 6


def test_a_late_arrival_is_behind_the_cursor(plain: OldServer) -> None:
    plain.add("late.txt", b"x", at=NOON - 61)
    assert [entry["id"] for entry in listed(plain, since="2026-11-23 11:59:00")] == []
    assert "late.txt" in [entry["id"] for entry in listed(plain)]


def test_a_hundred_thousand_files_in_one_second_come_in_pages_of_8191(plain: OldServer) -> None:
    plain.add_many([f"same{number}" for number in range(100_000)], b"x", at=NOON - 30)
    assert len(listed(plain, limit=8191)) == 8191
    assert get(plain, "/secure-copy/file/list?limit=8192").status == 400


def test_a_change_of_zone_moves_every_date_and_no_name_of_a_zone(plain: OldServer) -> None:
    before = listed(plain)
    plain.set_zone("Europe/Warsaw")
    after = listed(plain)
    assert [entry["date"] for entry in after] == [entry["date"] - 3600 for entry in before]
    assert {entry["tz"] for entry in after} == {"UTC"}


def test_since_is_the_wall_of_the_server_whatever_offset_it_carries() -> None:
    with OldServer(FILES, encrypted=False, clock=lambda: NOON, zone="Europe/Warsaw") as server:
        last = listed(server)[-1]["date"]
        assert last == NOON - 60
        assert listed(server, since="2026-11-23 12:59:00") == []
        assert len(listed(server, since="2026-11-23 12:58:59")) == 1
        assert len(listed(server, since="2026-11-23T11:58:59Z")) == 3
        assert len(listed(server, since=f"@{last - 1}")) == 3


def test_files_of_a_repeated_hour_are_listed_in_the_order_of_the_wall() -> None:
    end_of_summer = 1792890000  # 2026-10-25 01:00:00 UTC: in Warsaw 03:00 becomes 02:00
    with OldServer(encrypted=False, clock=lambda: NOON, zone="Europe/Warsaw") as server:
        server.add("first.txt", b"", at=end_of_summer - 60)
        server.add("second.txt", b"", at=end_of_summer + 60)
        assert [entry["id"] for entry in listed(server)] == ["second.txt", "first.txt"]


def test_one_poison_row_spoils_every_page_that_holds_it(plain: OldServer) -> None:
    plain.poison("b.txt")
    assert get(plain, "/secure-copy/file/list").status == 500
    assert [entry["id"] for entry in listed(plain, limit=1)] == ["a.txt"]
    plain.cure("b.txt")
    assert len(listed(plain)) == 3
    plain.add("zażółć.txt", b"x")
    assert get(plain, "/secure-copy/file/list").status == 500


def test_encrypted_pages_that_take_too_long_are_500(server: OldServer) -> None:
    server.add_many([f"same{number}" for number in range(2100)], b"x", at=NOON - 30)
    assert get(server, "/secure-copy/file/list?limit=4096").status == 500
    assert len(listed(server, limit=256)) == 256


def test_ids_belong_to_a_token(server: OldServer) -> None:
    before = {entry["id"] for entry in listed(server)}
    assert before == set(server.ids().values())
    server.use_new_token("another")
    assert before.isdisjoint({entry["id"] for entry in listed(server)})


def test_an_encrypted_id_is_unknown_until_it_was_listed(server: OldServer) -> None:
    path = f"/secure-copy/file/{server.id_of('a.txt')}"
    assert get(server, f"{path}/content").status == 500
    assert get(server, f"{path}/submitdata").status == 404
    listed(server)
    assert get(server, f"{path}/content").status == 200
    assert get(server, f"{path}/submitdata").status == 200


def test_a_replaced_file_keeps_its_id_and_gets_a_newer_date(server: OldServer) -> None:
    before = {entry["id"]: entry["date"] for entry in listed(server)}
    server.replace("a.txt", b"more bread")
    after = {entry["id"]: entry["date"] for entry in listed(server)}
    assert before.keys() == after.keys()
    assert after[server.id_of("a.txt")] == NOON
    server.redate("b.txt", NOON + 5)
    assert listed(server)[-1]["date"] == NOON + 5


def test_plain_contents_fail_unless_that_is_mended(plain: OldServer) -> None:
    assert get(plain, content_path(plain)).status == 500
    with OldServer(FILES, encrypted=False, quirks=Quirks(plain_content_fails=False)) as mended:
        answer = get(mended, content_path(mended))
        assert (answer.status, answer.getheader("Encryption-Initialization-Vector")) == (200, None)
        assert answer.read() == FILES["c.txt"]


def test_a_server_without_quirks_is_sane() -> None:
    sane = Quirks(
        strict_since=False,
        unconverted_since=False,
        inclusive_remaining=False,
        wrong_templates=False,
        cookies=False,
        leaks_names=False,
        always_chunked=False,
        wants_user_agent=False,
        validates_names=False,
    )
    with OldServer({**FILES, "żółw.txt": b""}, clock=lambda: NOON, quirks=sane, zone="Europe/Warsaw") as server:
        answer = get(server, "/secure-copy/file/list?limit=1")
        header = json.loads(answer.read().partition(b"\n\n")[0])
        assert answer.getheader("Content-Length") is not None
        assert answer.getheader("Set-Cookie") is None
        assert header["remainingSince"] == 3
        assert header["fetchUrlTemplate"].endswith("/%file_id%/content?_token=%token%")
        assert len(listed(server, since=f"@{NOON - 61}")) == 2
        assert get(server, content_path(server)).getheader("Content-Disposition") is None


def test_hostile_rows_are_listed_and_served_as_they_are_given(server: OldServer) -> None:
    server.list_as("a.txt", id="../../etc/passwd", date="soon", type="@source", form=[1])
    entry = next(entry for entry in listed(server) if entry["id"] == "../../etc/passwd")
    assert (entry["date"], entry["type"], entry["form"]) == ("soon", "@source", [1])
    assert get(server, "/secure-copy/file/..%2F..%2Fetc%2Fpasswd/content").status == 200


def test_a_script_acts_between_two_requests(server: OldServer) -> None:
    server.before(2, server.expire_token)
    assert [get(server, "/secure-copy/file/list").status for _ in range(2)] == [200, 403]


# --- faults: what they do to the answer ---


def fault_to_content(server: OldServer, fault: Fault) -> http.client.HTTPResponse:
    path = content_path(server)
    server.plan = for_ids({server.id_of("c.txt"): fault})
    return get(server, path)


SEALED = 608  # of 600 plain bytes


@pytest.mark.parametrize(
    ("fault", "status", "length", "is_page"),
    [
        (Status(503), 503, None, True),
        (iv_on_a_500(), 500, 918, True),
        (HtmlWithStatus200(), 200, 918, True),
        (HtmlWithStatus200(in_disguise=True), 200, 918, True),
        (HtmlAppended(after=64), 200, 64 + 918, True),
        (HtmlAppended(after=64, whole_blocks=True), 200, 64 + 928, True),
        (Shortened(32), 200, 32, False),
        (BitFlip(), 200, SEALED, False),
        (drip(piece=50), 200, SEALED, False),
        (with_length(), 200, SEALED, False),
        (close_delimited(), 200, SEALED, False),
        (close_delimited(cut_at=100), 200, 100, False),
        (stall(100, 0.01), 200, SEALED, False),
        (slow_start(0.01), 200, SEALED, False),
        (Both(drip(piece=50), Status(500)), 500, 918, True),
    ],
)
def test_bodies_come_as_the_fault_says(
    server: OldServer, fault: Fault, status: int, length: int | None, *, is_page: bool
) -> None:
    answer = fault_to_content(server, fault)
    body = answer.read()
    assert answer.status == status
    assert length is None or len(body) == length
    assert body.rstrip().endswith(b"</html>") == is_page


def test_headers_come_as_the_fault_says(server: OldServer) -> None:
    iv = "Encryption-Initialization-Vector"
    assert fault_to_content(server, iv_missing()).getheader(iv) is None
    assert (fault_to_content(server, iv_not_hex()).getheader(iv) or "").startswith("this is not")
    assert fault_to_content(server, iv_on_a_500()).getheader(iv) is not None
    assert fault_to_content(server, Head("Content-Type", "text/html")).getheader("Content-Type") == "text/html"
    assert fault_to_content(server, Redirect("http://elsewhere.example/")).getheader("Location") == (
        "http://elsewhere.example/"
    )


@pytest.mark.parametrize("fault", [cut(0), cut(100), cut(SEALED), with_length(told=9999), Both(drip(piece=7), cut(99))])
def test_cut_bodies_are_incomplete(server: OldServer, fault: Fault) -> None:
    with pytest.raises(http.client.IncompleteRead):
        fault_to_content(server, fault).read()


@pytest.mark.parametrize("at", [0, 1, 100, SEALED - 1])
def test_a_cut_is_exact(server: OldServer, at: int) -> None:
    path = content_path(server)
    server.plan = always(cut(at))
    body = raw_get(server, path).partition(b"\r\n\r\n")[2]
    assert len(body) - len(b"260\r\n") == at


@pytest.mark.parametrize("fault", [no_answer(), cut_in_head(5), not_http(), bad_chunk()])
def test_what_is_no_http_is_noticed(server: OldServer, fault: Fault) -> None:
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        fault_to_content(server, fault).read()


def test_a_cut_end_is_exact(server: OldServer) -> None:
    path = content_path(server)
    server.plan = always(cut_in_end(b"0\r"))
    assert raw_get(server, path).endswith(b"\r\n0\r")


def test_a_cut_head_is_exact(server: OldServer) -> None:
    server.plan = always(cut_in_head(40))
    assert len(raw_get(server, "/secure-copy/file/list")) == 40


@pytest.mark.parametrize("fault", [no_answer(reset=True), cut(100, reset=True)])
def test_a_reset_is_a_reset(server: OldServer, fault: Fault) -> None:
    with pytest.raises(ConnectionResetError):
        fault_to_content(server, fault).read()


def test_an_endless_body_does_not_end(server: OldServer) -> None:
    answer = fault_to_content(server, Endless())
    assert len(answer.read(3 << 20)) == 3 << 20
    answer.close()


def test_a_gzip_bomb_grows(server: OldServer) -> None:
    answer = fault_to_content(server, GzipBomb(size=20 << 20))
    packed = answer.read()
    assert answer.getheader("Content-Encoding") == "gzip"
    assert len(packed) < 100_000
    assert len(gzip.decompress(packed)) == 20 << 20


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (garbage_line(), lambda lines: len(lines) == 4),
        (truncated_line(), lambda lines: len(lines) == 3 and sum(line.endswith(b"}}\n") for line in lines) == 2),
        (page_cut_in_a_line(), lambda lines: not lines[-1].endswith(b"\n")),
        (page_cut_between_lines(), lambda lines: len(lines) == 1),
        (duplicated_lines(), lambda lines: len(lines) > len(set(lines))),
        (reordered_lines(), lambda lines: sorted(lines) == sorted(set(lines)) and len(lines) == 3),
        (extra_line(b"{}"), lambda lines: b"{}\n" in lines),
    ],
)
def test_lines_come_as_the_fault_says(server: OldServer, fault: Fault, check: Any) -> None:
    server.plan = always(fault, "list")
    rest = get(server, "/secure-copy/file/list").read().partition(b"\n\n")[2]
    assert check(lines_of(rest))


def test_plans_say_when(server: OldServer) -> None:
    path = content_path(server)
    server.plan = first_visits(2, Status(500), "content")
    assert [get(server, path).status for _ in range(4)] == [500, 500, 200, 200]
    assert get(server, "/secure-copy/file/list").status == 200
    server.plan = seeded(3, 1.0, [Status(502)], "content", visits=6)
    assert [get(server, path).status for _ in range(3)] == [502, 502, 200]


@pytest.mark.parametrize("faults", [CONTENT_FAULTS, LIST_FAULTS])
def test_a_server_outlives_all_faults(server: OldServer, faults: tuple[Fault, ...]) -> None:
    path = content_path(server)
    for fault in faults:
        server.plan = numbered({len(server.requests) + 1: fault})
        with contextlib.suppress(http.client.HTTPException, OSError):
            get(server, "/secure-copy/file/list" if faults is LIST_FAULTS else path).read()
    server.plan = None
    assert len(listed(server)) == 3


def test_a_stopped_server_starts_again_with_its_files(server: OldServer) -> None:
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        get(server, "/secure-copy/file/list")
    server.start()
    assert len(listed(server)) == 3
