"""A server that redirects never moves the token to another one, whatever two parsers may see in its `Location`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from kropot.collect.decide.inputs import NotReceived
from kropot.collect.transfer.curl import CurlEngine
from kropot.collect.transfer.engine import Server
from kropot.collect.transfer.plain import PlainEngine
from kropot.errors import UsageError
from kropot.objects.memory import MemoryDisk, MemoryObjects
from kropot.securecopy.address import RedirectedAwayError, checked_base_url, redirected
from kropot.securecopy.client import SecureCopyClient, ServerTroubleError
from tests.kropot.jobs import fetch_job
from tests.kropot.scripted import Asked, ScriptedServer, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.collect.transfer.engine import TransferEngine

TOKEN = "a-token-for-one-server"
EMPTY_PAGE = measured(b'{"remainingSince":0}\n\n', Content_Type="text/plain")

# EVIL and GOOD become the two servers' hosts and ports. One parser takes what is before the "@" for a user, the other
# takes the backslash for the end of the host.
ELSEWHERE = [
    r"http://EVIL\@GOOD/x",
    r"http://EVIL\\@GOOD/secret",
    r"http://GOOD\@EVIL/x",
    r"http://GOOD\.EVIL/",
    r"http:\\EVIL/x",
    r"\\EVIL\x",
    r"/\EVIL/x",
    "http://EVIL/x",
    "//EVIL/x",
    "http://GOOD@EVIL/x",
    "http://user:word@GOOD/x",
    "http://@GOOD/x",
    "http://EVIL#@GOOD/",
    "http://EVIL?@GOOD/",
    "http://EVIL%5C@GOOD/x",
    "http://EVIL\t@GOOD/",
    "\thttp://EVIL/",
    "http://EVIL\x0b/",
    "http://EVIL;@GOOD/",
    "https://GOOD/x",
    "file:///etc/passwd",
    "http://GOOD:0/",
    "http://\xe9VIL/",
    "",
]


@pytest.fixture
def evil() -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda _: [EMPTY_PAGE]) as server:
        yield server


def redirecting(target: str, evil: ScriptedServer, status: int = 302) -> ScriptedServer:
    """Return a server that redirects to `target` whatever it is asked."""

    def answer(_: Asked) -> list[bytes]:
        location = target.replace("EVIL", urlsplit(evil.url).netloc).replace("GOOD", urlsplit(good.url).netloc)
        return [measured(b"", status, Location=location)]

    good = ScriptedServer(answer)
    return good


@pytest.mark.parametrize("target", ELSEWHERE)
def test_lists_and_elements_are_asked_for_at_the_known_server_only(evil: ScriptedServer, target: str) -> None:
    with (
        redirecting(target, evil) as good,
        SecureCopyClient(good.url, TOKEN, silence_s=5, user_agent="test") as client,
    ):
        for ask in (lambda: client.list(None, 1), lambda: client.submitdata("an-id")):
            good.requests.clear()
            with pytest.raises(ServerTroubleError) as caught:
                ask()
            assert caught.value.reason == "redirected"
            assert len(good.requests) == 1
            assert str(caught.value).isprintable()
            if "\\" in target:
                assert "an unclear address" in str(caught.value)
    assert evil.requests == []


@pytest.mark.parametrize("target", ["http://GOOD//EVIL/x?y=//EVIL/", "///EVIL/x", "http:///EVIL/x", "/x@EVIL/#@EVIL"])
def test_a_redirect_within_the_server_leads_nowhere_else(evil: ScriptedServer, target: str) -> None:
    with (
        redirecting(target, evil) as good,
        SecureCopyClient(good.url, TOKEN, silence_s=5, user_agent="test") as client,
    ):
        with pytest.raises(ServerTroubleError, match="in circles"):
            client.list(None, 1)
        assert len(good.requests) == 4
        assert all(asked.headers["host"] == urlsplit(good.url).netloc for asked in good.requests)
    assert evil.requests == []


@pytest.mark.parametrize("make", [CurlEngine, PlainEngine, lambda *given: CurlEngine(*given, large=1)])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_contents_follow_no_redirect_at_all(
    evil: ScriptedServer, make: Callable[[Server, MemoryObjects], TransferEngine], status: int
) -> None:
    for target in (ELSEWHERE[0], "http://EVIL/x", "/elsewhere"):
        with redirecting(target, evil, status) as good:
            server = Server(base_url=good.url, headers={"token": TOKEN, "User-Agent": "test"}, silence_s=5)
            engine = make(server, MemoryObjects(MemoryDisk(), "main"))
            try:
                engine.submit([fetch_job(1, "an-id"), fetch_job(2, "large", size=2 << 20)])
                results = []
                while engine.in_flight:
                    results += engine.poll(5)
            finally:
                engine.close()
            assert [type(one) for one in results] == [NotReceived, NotReceived]
            assert {one.reason for one in results if isinstance(one, NotReceived)} == {f"http_{status}"}
            assert len(good.requests) == 2
    assert evil.requests == []


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("list?limit=4", "http://good:81/below/list?limit=4"),
        ("/elsewhere", "http://good:81/elsewhere"),
        ("?page=2", "http://good:81/below/x?page=2"),
        ("http://GOOD:81/a?b=c@d#e", "http://good:81/a?b=c@d"),
        ("//good:81", "http://good:81/"),
    ],
)
def test_only_path_and_query_of_a_redirect_are_taken(location: str, target: str) -> None:
    assert redirected("http://good:81/below/x?page=1", location) == target


@pytest.mark.parametrize(
    ("location", "where"),
    [("http://good/", "http://good:80"), ("//evil/", "http://evil:80"), ("/a b", "an unclear address")],
)
def test_a_redirect_elsewhere_is_named_as_far_as_it_is_clear(location: str, where: str) -> None:
    with pytest.raises(RedirectedAwayError) as caught:
        redirected("http://good:81/below/x?page=1", location)
    assert caught.value.where == where


@pytest.mark.parametrize("url", ["http://evil\\@good", "http://good\\.evil", "http://good\x00", "http://good\x7f/x"])
def test_an_address_that_two_parsers_read_differently_is_no_servers(url: str) -> None:
    with pytest.raises(UsageError):
        checked_base_url(url)
