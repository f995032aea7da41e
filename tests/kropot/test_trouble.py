"""Each way in which a server cannot be asked has one word, whoever asks, and each word a sentence with a way out."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from kropot.collect.decide.inputs import NotReceived
from kropot.collect.transfer.engine import Server
from kropot.collect.transfer.plain import PlainEngine
from kropot.errors import UsageError
from kropot.objects.directory import DirectoryObjects
from kropot.securecopy.address import checked_base_url
from kropot.securecopy.authorities import VARIABLES, authorities
from kropot.securecopy.causes import curl_reason, reason_of
from kropot.securecopy.client import SecureCopyClient, ServerTroubleError
from kropot.securecopy.trouble import SENTENCES, sentence
from tests.certificates import Authority
from tests.kropot.jobs import fetch_job
from tests.kropot.scripted import ScriptedServer
from tests.oldserver import OldServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.collect.transfer.engine import TransferEngine

TOKEN = "a-token-that-nobody-else-may-see"


def by_listing(url: str, ca_file: Path | None, _: Path) -> str:
    with (
        SecureCopyClient(url, TOKEN, silence_s=5, user_agent="test", ca_file=ca_file) as client,
        pytest.raises(ServerTroubleError) as caught,
    ):
        client.list(None, 1)
    assert sentence(caught.value.reason) in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value.reason


def by_engine(make: Callable[..., TransferEngine], url: str, ca_file: Path | None, folder: Path) -> str:
    store = DirectoryObjects(folder / "storage", "test")
    server = Server(
        base_url=url, headers={"User-Agent": "test"}, silence_s=5, ca_file=None if ca_file is None else str(ca_file)
    )
    engine = make(server, store)
    try:
        engine.submit([fetch_job(1, "x")])
        receipt = next(receipt for _ in range(10) for receipt in engine.poll(1))
    finally:
        engine.close()
        store.close()
    assert isinstance(receipt, NotReceived)
    return receipt.reason


@pytest.fixture(params=["requests", "libcurl", "http.client"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, Path | None], str]:
    """Ask a server that cannot be asked; return the word for why."""
    if request.param == "requests":
        return lambda url, ca_file: by_listing(url, ca_file, tmp_path)
    if request.param == "http.client":
        return lambda url, ca_file: by_engine(PlainEngine, url, ca_file, tmp_path)
    pytest.importorskip("pycurl")
    from kropot.collect.transfer.curl import CurlEngine

    return lambda url, ca_file: by_engine(CurlEngine, url, ca_file, tmp_path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("run out", "tls_expired"),
        ("another host", "tls_wrong_host"),
        ("nobody vouches", "tls_unknown_issuer"),
    ],
)
def test_each_trouble_with_tls_has_its_own_word(
    ask: Callable[[str, Path | None], str], authority: Authority, wrong: str, reason: str
) -> None:
    address = "192.0.2.1" if wrong == "another host" else "127.0.0.1"
    context = authority.context(address, days=-1 if wrong == "run out" else 1)
    trusted = None if wrong == "nobody vouches" else authority.file
    with OldServer({"x": b"bread"}, token=TOKEN, tls=context) as server:
        assert ask(server.url, trusted) == reason
        assert server.asked() == []


def test_a_port_without_tls_is_told_from_a_bad_certificate(ask: Callable[[str, Path | None], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as client:
                client.recv(4096)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask(f"https://127.0.0.1:{server.getsockname()[1]}", None) == "tls_missing"
        thread.join()


def test_where_nothing_listens_that_is_said(ask: Callable[[str, Path | None], str], free_port: int) -> None:
    assert ask(f"http://127.0.0.1:{free_port}", None) == "not_listening"


def test_what_speaks_no_http_is_told_from_a_bad_line(ask: Callable[[str, Path | None], str]) -> None:
    with ScriptedServer(lambda _: [b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"]) as server:
        assert ask(server.url, None) == "not_http"


def test_a_name_that_dns_does_not_know_is_told_from_a_server_that_is_down() -> None:
    assert reason_of(socket.gaierror(-2, "Name or service not known")) == "no_such_host"
    assert curl_reason(6, "Could not resolve host: files.example") == "no_such_host"
    assert curl_reason(7, "Failed to connect to 192.0.2.1 port 80: No route to host") == "unreachable"
    assert reason_of(OSError(113, "No route to host")) == "unreachable"
    assert reason_of(ssl.SSLError("something else")) == "tls"


def test_every_sentence_says_what_is_wrong_and_what_to_do_now() -> None:
    assert len(set(SENTENCES.values())) == len(SENTENCES)
    for reason in (*SENTENCES, "http_418", "http_500", "bad_header"):
        assert ":" in sentence(reason) or ";" in sentence(reason) or "," in sentence(reason) or reason == "http_429"
    assert "look at the server's log" in sentence("http_502")
    assert "--server-url" in sentence("http_418")


# --- whom to trust ---


def test_the_systems_own_store_counts_unless_a_user_names_another(authority: Authority, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    stores = (str(tmp_path / "missing.pem"), str(empty), str(authority.file))
    chosen = authorities(None, {}, stores)
    assert chosen in {str(authority.file), ssl.get_default_verify_paths().openssl_cafile}
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert authorities(None, {name: str(empty)}, stores) == str(empty)
    assert authorities(authority.file, {"SSL_CERT_FILE": str(empty)}, stores) == str(authority.file)
    with pytest.raises(UsageError, match="SSL_CERT_FILE names"):
        authorities(None, {"SSL_CERT_FILE": str(tmp_path / "missing")}, stores)
    with pytest.raises(UsageError, match="holds no certificate"):
        authorities(empty, {}, stores)


@pytest.mark.parametrize("how", ["file", "folder"])
def test_all_that_speaks_to_the_server_trusts_what_the_environment_names(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytest.importorskip("pycurl")
    from kropot.collect.transfer.curl import CurlEngine

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if how == "file":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    else:
        hashed = tmp_path / "hashed"
        hashed.mkdir()
        asked = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(authority.file)]
        name = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        (hashed / f"{name}.0").write_bytes(authority.file.read_bytes())
        monkeypatch.setenv("SSL_CERT_DIR", str(hashed))
    with OldServer({"x": b"bread"}, token=TOKEN, tls=authority.context("127.0.0.1")) as server:
        with SecureCopyClient(server.url, TOKEN, silence_s=5, user_agent="test") as client:
            assert len(client.list(None, 9).entries) == 1
        for engine in (PlainEngine, CurlEngine):
            assert by_engine(engine, server.url, None, tmp_path) == "http_403"


# --- addresses ---


@pytest.mark.parametrize(
    ("given", "spelt"),
    [
        ("http://bücher.example:8000/a/", "http://xn--bcher-kva.example:8000/a"),
        ("https://STRASSE.example", "https://STRASSE.example"),
        ("https://straße.example", "https://xn--strae-oqa.example"),
        ("https://例え.テスト/dépôt", "https://xn--r8jz45g.xn--zckzah/d%C3%A9p%C3%B4t"),
    ],
)
def test_a_host_that_is_not_ascii_is_spelt_as_dns_has_it(given: str, spelt: str) -> None:
    assert checked_base_url(given) == spelt
    assert checked_base_url(spelt) == spelt


@pytest.mark.parametrize("url", ["http://☃.example", "http://\ud800.example", f"http://{'ü' * 80}.example"])
def test_a_host_that_dns_cannot_hold_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(UsageError, match="address"):
        checked_base_url(url)
