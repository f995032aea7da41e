"""Who may look at the page, and what a request to it must be like."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests

from kropot.page.answers import POLICY
from kropot.page.app import PageApp
from kropot.page.doors import OneTimeCodes, OwnDoor
from kropot.page.texts import T
from kropot.replay.until import parse_when
from kropot.serving.guard import Bounds
from kropot.serving.listening import address_of, http_server, listen, serving_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.keeper.serve import Kept

pytest_plugins = ["tests.keeper.owner"]

SCREENS = ("health", "time", "files", "space", "proof", "compare", "go", "download", "zip", "nothing", "static/x")


def ask(url: str, path: str, **options: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        method = options.pop("method", "GET")
        return session.request(method, f"{url}{path}", timeout=20, allow_redirects=False, **options)


@pytest.fixture
def own(kept: Kept) -> Iterator[tuple[str, OneTimeCodes]]:
    """The page of an owner at a port of this machine, and its codes."""
    window = kept.server.service.app._page._door.window(None, kept.visitor().token)  # type: ignore[union-attr]
    codes = OneTimeCodes()
    with listen("127.0.0.1", 0) as listening, ThreadPoolExecutor(2) as pool:
        url = address_of(listening)
        app = PageApp(OwnDoor(window, codes), pool, hosts=frozenset({url.partition("://")[2]}))
        with serving_in_thread(http_server(app, Bounds(), ()), listening, "page"):
            yield url, codes


def test_a_code_is_good_once_and_becomes_a_cookie_for_this_page_alone(own: tuple[str, OneTimeCodes]) -> None:
    url, codes = own
    code = codes.code()
    first = ask(url, f"/page/enter?code={code}")
    assert (first.status_code, first.headers["location"]) == (303, "/page/health")
    cookie = first.headers["set-cookie"]
    port = url.rpartition(":")[2]
    assert cookie.startswith(f"kropot-{port}=")
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    sent = {"Cookie": cookie.partition(";")[0]}
    page = ask(url, "/page/health", headers=sent)
    assert page.status_code == 200
    assert page.headers["content-security-policy"] == POLICY
    assert code not in page.text
    again = ask(url, f"/page/enter?code={code}")
    assert again.status_code == 401
    assert "set-cookie" not in again.headers


def test_a_code_gets_old() -> None:
    now = [0.0]
    codes = OneTimeCodes(code_s=600, clock_s=lambda: now[0])
    code = codes.code()
    now[0] = 601
    assert codes.enter(code) is None
    session = codes.enter(codes.code())
    assert codes.knows(session)
    now[0] += 13 * 3600
    assert not codes.knows(session)
    assert not codes.knows(None)
    assert not codes.knows("x")


def test_without_a_session_nothing_is_there(own: tuple[str, OneTimeCodes], kept: Kept) -> None:
    for url in (own[0], kept.url):
        for screen in SCREENS:
            answer = ask(url, f"/page/{screen}", headers={"Cookie": "kropot=x"})
            assert answer.status_code == 401, screen
            assert answer.headers["content-security-policy"] == POLICY
        assert ask(url, "/page/static/page.css").status_code == 200
        assert ask(url, "/page/static/../texts.py").status_code == 401


def test_other_hosts_and_origins_are_refused(own: tuple[str, OneTimeCodes]) -> None:
    url, codes = own
    code = codes.code()
    host = url.partition("://")[2]
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": f"evil.example:{host.rpartition(':')[2]}"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
    ):
        assert ask(url, f"/page/enter?code={code}", headers=headers).status_code == status, headers
    assert ask(url, f"/page/enter?code={code}").status_code == 303, "no refused request used it up"


def test_the_keeper_takes_tokens_and_never_a_kit(kept: Kept) -> None:
    token = kept.visitor().token
    way_in = ask(kept.url, "/page/health")
    assert way_in.status_code == 401
    assert 'type="file"' not in way_in.text
    wrong = ask(kept.url, "/page/enter", method="POST", data={"token": "x"})
    assert wrong.status_code == 401
    long = ask(kept.url, "/page/enter", method="POST", data={"token": "x" * 5000})
    assert long.status_code == 401
    right = ask(kept.url, "/page/enter", method="POST", data={"token": token})
    assert right.status_code == 303
    sent = {"Cookie": right.headers["set-cookie"].partition(";")[0]}
    assert ask(kept.url, "/page/health", headers=sent).status_code == 200
    assert ask(kept.url, "/page/health", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert ask(kept.url, "/api/1/status", headers=sent).status_code == 401, "the cookie is for the page alone"
    assert ask(kept.url, "/page/health", headers=sent, method="DELETE").status_code == 405
    kept.tokens.revoke(1)
    assert ask(kept.url, "/page/health", headers=sent).status_code == 401


def test_an_auditor_sees_no_elements(kept: Kept) -> None:
    sent = {"Authorization": f"Bearer {kept.visitor('auditor').token}"}
    for screen in ("health", "time", "space", "proof"):
        assert ask(kept.url, f"/page/{screen}", headers=sent).status_code == 200
    refused = ask(kept.url, "/page/files", headers=sent)
    assert refused.status_code == 403
    assert "auditor" in refused.text
    monitor = {"Authorization": f"Bearer {kept.visitor('monitor').token}"}
    assert ask(kept.url, "/page/health", headers=monitor).status_code == 403


@pytest.mark.parametrize("query", ["at=x", "at=@999999", "after=x", "from=-1", "at=@1&at=@2", "source=x", "when=%00"])
def test_rubbish_ends_in_a_page(kept: Kept, query: str) -> None:
    sent = {"Authorization": f"Bearer {kept.visitor().token}"}
    for screen in ("time", "files", "go"):
        answer = ask(kept.url, f"/page/{screen}?{query}", headers=sent)
        assert answer.status_code in {200, 303, 400, 404, 409}, (screen, answer.text)


def test_every_moment_that_the_page_suggests_is_understood() -> None:
    suggested = T["time"]["go_hint"].replace(" or ", ", ").replace("POSITION", "54").split(", ")
    assert len(suggested) == 4
    for each in suggested:
        parse_when(each, now_us=0, read=lambda _: None)
