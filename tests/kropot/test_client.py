"""The client against the old server and its faults, on real sockets; the token goes to one server and nowhere else."""

from __future__ import annotations

import datetime as dt
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kropot.collect.transfer.engine import content_path
from kropot.errors import KropotError, ServerRefusedError, UsageError
from kropot.securecopy.address import checked_base_url, sends_token_in_clear
from kropot.securecopy.client import SecureCopyClient, ServerTroubleError
from kropot.securecopy.wire import Listed, wall_clock
from tests.oldserver import (
    LIST_FAULTS,
    Body,
    Both,
    Endless,
    Fault,
    GzipBomb,
    Head,
    HtmlWithStatus200,
    OldServer,
    Quirks,
    Redirect,
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
    garbage_line,
    no_answer,
    not_http,
    numbered,
    page_cut_between_lines,
    page_cut_in_a_line,
    slow_start,
    stall,
    truncated_line,
    with_length,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {f"file{number:02}.txt": b"bread" for number in range(20)}
TOKEN = "a-token-that-nobody-else-may-see"


@pytest.fixture
def server() -> Iterator[OldServer]:
    with OldServer(FILES, token=TOKEN) as started:
        yield started


def client_of(url: str, **rest: Any) -> SecureCopyClient:
    return SecureCopyClient(url, TOKEN, **{"silence_s": 5, "user_agent": "kropot-test/1", **rest})


@pytest.fixture
def client(server: OldServer) -> Iterator[SecureCopyClient]:
    with client_of(server.url) as opened:
        yield opened


def trouble(client: SecureCopyClient, *, of: str = "list") -> ServerTroubleError:
    with pytest.raises(ServerTroubleError) as caught:
        client.list(None, 256) if of == "list" else client.submitdata("some-id")
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(caught.value)
    return caught.value


# --- what it asks and gets ---


def test_pages_are_drained_with_the_wall_clock_of_the_last_entry(server: OldServer, client: SecureCopyClient) -> None:
    found: list[Listed] = []
    since = None
    while page := client.list(since, 7).entries:
        found += page
        since = wall_clock(page[-1].date, page[-1].tz)
    assert [entry.id for entry in found] == [server.ids()[name] for name in FILES]


def test_elements_are_found_or_gone(server: OldServer, client: SecureCopyClient) -> None:
    entry = client.list(None, 1).entries[0]
    again = client.submitdata(entry.id)
    assert again is not None
    assert (again.id, again.date) == (entry.id, entry.date)
    server.delete("file00.txt")
    assert client.submitdata(entry.id) is None
    assert client.submitdata("never-listed") is None


def test_requests_carry_what_the_server_needs_and_nothing_else(server: OldServer, client: SecureCopyClient) -> None:
    client.list("2026-11-23 06:08:32", 5)
    client.submitdata("a b/../ż")
    first, second = server.asked()
    assert {key.lower(): value for key, value in first.headers} == {
        "host": server.url.removeprefix("http://"),
        "token": TOKEN,
        "user-agent": "kropot-test/1",
        "accept": "application/vnd.kropot.sc2, */*",
        "accept-encoding": "identity",
    }
    assert (first.path, first.query) == ("/secure-copy/file/list", "since=2026-11-23%2006%3A08%3A32&limit=5")
    assert second.path == "/secure-copy/file/a%20b%2F..%2F%C5%BC/submitdata"
    assert client.headers()["token"] == TOKEN


def test_cookies_are_never_sent_back(server: OldServer, client: SecureCopyClient) -> None:
    for _ in range(3):
        client.list(None, 5)
    assert all(request.header("cookie") is None for request in server.asked())


def test_proxies_and_netrc_of_the_environment_are_not_used(
    server: OldServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with client_of(server.url) as client:
        client.list(None, 5)
    assert server.asked()[0].header("authorization") is None


def test_content_addresses_hold_the_id_and_no_token() -> None:
    assert content_path("a/../b?c#d é") == "/secure-copy/file/a%2F..%2Fb%3Fc%23d%20%C3%A9/content"
    assert TOKEN not in repr(client_of("https://example.org/repo/"))


def test_a_server_below_a_path_is_asked_there(server: OldServer) -> None:
    with client_of(server.url + "/below/") as client:
        assert trouble(client).reason == "http_404"
    assert server.asked()[0].path == "/below/secure-copy/file/list"


# --- refusals ---


@pytest.mark.parametrize("what", ["expired", "unknown", "no role", "other agent", "401"])
def test_a_refused_token_is_told_from_other_trouble(server: OldServer, client: SecureCopyClient, what: str) -> None:
    if what == "expired":
        server.expire_token()
    elif what == "unknown":
        server.revoke_token()
    elif what == "no role":
        server.change_token(roles=frozenset())
    elif what == "other agent":
        server.change_token(allowed_user_agents=frozenset({"Mozilla"}))
    else:
        server.plan = always(Status(401))
    with pytest.raises(ServerRefusedError, match="refused the token") as caught:
        client.list(None, 5)
    assert TOKEN not in str(caught.value)


def test_a_token_that_expires_between_two_pages_is_noticed(server: OldServer, client: SecureCopyClient) -> None:
    server.before(2, server.expire_token)
    client.list(None, 5)
    with pytest.raises(ServerRefusedError):
        client.list("2020-01-01 00:00:00", 5)


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Status(500), "http_500"),
        (Status(502), "http_502"),
        (Status(404), "http_404"),
        (Status(400), "http_400"),
        (Status(418), "http_418"),
        (HtmlWithStatus200(), "not_a_list"),
        (HtmlWithStatus200(in_disguise=True), "bad_header"),
        (Body(b""), "no_header"),
        (page_cut_in_a_line(), "truncated"),
        (no_answer(), "cut"),
        (no_answer(reset=True), "cut"),
        (cut_in_head(5), "not_http"),
        (cut_in_head(60), "close_delimited"),
        (cut(0), "cut"),
        (cut(300), "cut"),
        (cut(300, reset=True), "cut"),
        (with_length(told=10**6), "cut"),
        (close_delimited(), "close_delimited"),
        (close_delimited(cut_at=300), "close_delimited"),
        (bad_chunk(), "cut"),
        (not_http(), "not_http"),
        (Head("Content-Encoding", "gzip"), "encoded"),
        (GzipBomb(size=1 << 30), "encoded"),
        (Endless(), "too_big"),
        (Both(Endless(), with_length(told=10**9)), "too_big"),
        (slow_start(30), "timeout"),
        (stall(300, 30), "timeout"),
        (drip(piece=1, pause_s=0.05), "timeout"),
    ],
)
def test_faults_of_a_list_have_a_reason(server: OldServer, fault: Fault, reason: str) -> None:
    server.plan = always(fault)
    with client_of(server.url, silence_s=0.5, max_page_bytes=1 << 20) as client:
        found = trouble(client)
        server.plan = None
        assert len(client.list(None, 256).entries) == 20
    assert found.reason == reason


@pytest.mark.parametrize(
    "fault", [with_length(), drip(piece=50, pause_s=0.0), stall(300, 0.05), slow_start(0.05), duplicated_lines()]
)
def test_what_is_only_slow_or_odd_is_borne(server: OldServer, client: SecureCopyClient, fault: Fault) -> None:
    server.plan = always(fault)
    assert {entry.id for entry in client.list(None, 256).entries} == set(server.ids().values())


@pytest.mark.parametrize("fault", [garbage_line(), truncated_line(), extra_line(b'{"id":"../x"}')])
def test_a_bad_line_is_set_aside(server: OldServer, client: SecureCopyClient, fault: Fault) -> None:
    server.plan = always(fault)
    page = client.list(None, 256)
    assert len(page.rejected) == 1
    assert len(page.entries) >= 19


@pytest.mark.parametrize("number", range(len(LIST_FAULTS)))
def test_no_fault_of_a_list_is_anything_but_a_page_or_trouble(server: OldServer, number: int) -> None:
    server.plan = always(LIST_FAULTS[number])
    with client_of(server.url, silence_s=0.5) as client:
        for of in ("list", "submitdata"):
            try:
                client.list(None, 256) if of == "list" else client.submitdata(server.id_of("file00.txt"))
            except KropotError as error:
                assert isinstance(error, ServerTroubleError)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Status(500), "http_500"),
        (Status(404), "http_404"),
        (HtmlWithStatus200(), "not_json"),
        (Body(b"[]"), "not_an_object"),
        (Both(Endless(), with_length(told=10**8)), "too_big"),
    ],
)
def test_only_a_clear_no_means_gone(server: OldServer, client: SecureCopyClient, fault: Fault, reason: str) -> None:
    server.plan = always(fault)
    assert trouble(client, of="submitdata").reason == reason


def test_a_server_that_asks_for_patience_is_heard(server: OldServer, client: SecureCopyClient) -> None:
    server.plan = always(Status(503, headers=(("Retry-After", "120"),)))
    assert trouble(client).retry_after_s == 120
    server.plan = always(Status(429, headers=(("Retry-After", "999999999"),)))
    assert trouble(client).retry_after_s == 86_400
    server.plan = always(Status(503, headers=(("Retry-After", "soon"),)))
    assert trouble(client).retry_after_s is None


@pytest.mark.parametrize("end", [b"", b"0", b"0\r\n", b"00"])
def test_a_page_whose_last_chunk_is_cut_is_not_taken_for_whole(
    server: OldServer, client: SecureCopyClient, end: bytes
) -> None:
    server.plan = always(Both(page_cut_between_lines(), cut_in_end(end)))
    assert trouble(client).reason == "cut"


def test_the_body_of_a_redirect_is_not_read(server: OldServer, client: SecureCopyClient) -> None:
    server.plan = always(Both(Redirect("/elsewhere"), Endless()))
    assert trouble(client).reason == "redirected"


def test_nobody_there_is_unreachable(server: OldServer, client: SecureCopyClient) -> None:
    server.stop()
    error = trouble(client)
    assert error.reason == "not_listening"
    assert server.url in str(error)


def test_a_dropped_connection_is_made_anew(server: OldServer, client: SecureCopyClient) -> None:
    client.list(None, 5)
    server.plan = numbered({2: no_answer()})
    trouble(client)
    assert len(client.list(None, 5).entries) == 5


# --- redirects ---


def test_the_token_does_not_follow_a_redirect_elsewhere(server: OldServer, client: SecureCopyClient) -> None:
    with OldServer(FILES, token=TOKEN) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            server.plan = always(Redirect(f"{elsewhere.url}/secure-copy/file/list?limit=256", status))
            error = trouble(client)
            assert error.reason == "redirected"
            assert elsewhere.url in str(error)
        assert elsewhere.asked() == []


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "//evil.example/",
        "file:///etc/passwd",
        "http://[/",
        "gopher:x",
    ],
)
def test_another_scheme_or_host_is_elsewhere(server: OldServer, client: SecureCopyClient, target: str) -> None:
    server.plan = always(Redirect(target.format(port=server.port)))
    assert trouble(client).reason == "redirected"
    assert len(server.asked()) == 1


def test_a_redirect_within_the_server_is_followed_a_few_times(server: OldServer, client: SecureCopyClient) -> None:
    server.plan = numbered({1: Redirect("/secure-copy/file/list?limit=3"), 2: Redirect("list?limit=4", 308)})
    assert len(client.list(None, 5).entries) == 4
    server.plan = always(Redirect("/secure-copy/file/list"))
    before = len(server.asked())
    assert trouble(client).reason == "redirected"
    assert len(server.asked()) - before == 4


# --- TLS ---


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of a fresh self-signed certificate for 127.0.0.1 and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    both = folder / "both.pem"
    both.write_bytes(
        file.read_bytes() + key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return file, context


def test_certificates_are_verified_against_the_authorities_that_are_named(tmp_path: Path) -> None:
    file, context = certificate(tmp_path)
    with OldServer(FILES, token=TOKEN, tls=context) as server:
        with client_of(server.url) as client:
            error = trouble(client)
            assert error.reason == "tls_unknown_issuer"
            assert "--ca-file" in str(error)
        with client_of(server.url, ca_file=file) as client:
            assert len(client.list(None, 256).entries) == 20
            server.plan = first_visits(9, drip(piece=1, pause_s=0.05))
        with client_of(server.url, ca_file=file, silence_s=0.5) as client:
            assert trouble(client).reason == "timeout"


# --- what it is given ---


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://example.org",
        "http://",
        "http:///x",
        "http://a b",
        "http://x:99999",
        "http://x:0",
        "https://u:p@x",
        "http://x?_token=1",
        "http://x#y",
        "http://[::1",
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        client_of(url)


def test_a_refused_address_does_not_show_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        checked_base_url("https://someone:secret@example.org")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "ż", "a\n"])
def test_tokens_that_no_header_can_carry_are_refused(token: str) -> None:
    with pytest.raises(UsageError) as caught:
        SecureCopyClient("http://127.0.0.1:1", token, silence_s=1, user_agent="x")
    assert token == "" or token not in str(caught.value)


def test_a_missing_authority_file_and_an_empty_user_agent_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--ca-file"):
        client_of("https://127.0.0.1:1", ca_file=tmp_path / "none.pem")
    with pytest.raises(UsageError, match="user agent"):
        client_of("https://127.0.0.1:1", user_agent=" ")


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("https://example.org", False),
        ("http://example.org", True),
        ("http://10.0.0.1:8000", True),
        ("http://localhost:8000", False),
        ("http://repo.localhost", False),
        ("http://127.0.0.1", False),
        ("http://127.8.9.10", False),
        ("http://[::1]:80", False),
        ("http://localhost.example.org", True),
        ("http://127.0.0.1.example.org", True),
        ("http://[::1", False),
    ],
)
def test_plain_http_beyond_this_machine_shows_the_token(url: str, *, clear: bool) -> None:
    assert sends_token_in_clear(url) is clear


def test_a_sane_server_is_asked_the_same_way() -> None:
    with (
        OldServer(FILES, token=TOKEN, quirks=Quirks(always_chunked=False, cookies=False)) as server,
        client_of(server.url) as client,
    ):
        assert len(client.list(None, 256).entries) == 20
