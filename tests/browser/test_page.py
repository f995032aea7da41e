"""The page in a real browser, against real servers: a keeper, and `kropotcli browse` beside it."""

from __future__ import annotations

import io
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.browser.chromium import chromium, watched
from tests.browser.worlds import HOSTILE, Browsing, empty, small
from tests.keeper.serve import Kept
from tests.keeper.wire import Wire
from tests.kropot.sc2_world import VAULT
from tests.kropot.sealed_world import OTHER_VAULT, kit_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("browser")

SCREENS = ("health", "time", "files", "space", "proof")


class Place(NamedTuple):
    """A keeper, the wire to it, and the owner's browse at the other end."""

    kept: Kept
    wire: Wire
    browsing: Browsing
    token: str
    source: bytes


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def _place(stack: ExitStack, folder: Path, fill: object) -> Place:
    keeper, owner = folder / "keeper", folder / "owner"
    keeper.mkdir()
    owner.mkdir()
    kept = stack.enter_context(Kept(keeper))
    source = fill(kept)  # type: ignore[operator]
    wire = stack.enter_context(Wire(kept.url))
    kit_file(owner)
    options = ("--from", wire.url, "--access-token-file", kept.token_file(owner), "--key", "vault.json")
    browsing = stack.enter_context(Browsing(owner, *options))
    return Place(kept, wire, browsing, kept.visitor().token or "", source)


@pytest.fixture(scope="module")
def small_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        yield _place(stack, tmp_path_factory.mktemp("small"), small)


@pytest.fixture(scope="module")
def session(browser: Browser, small_place: Place) -> Iterator[Page]:
    """A page of browse that is signed in, and watched until the module ends."""
    with watched(browser, small_place.browsing.address) as found:
        found.page.on("console", lambda _: None)
        yield found.page
        found.page.goto(f"{found.base}/page/health")


def go(page: Page, path: str) -> Page:
    base = page.url.partition("/page/")[0]
    page.goto(f"{base}/page/{path}")
    return page


def has_rows(page: Page, count: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#list tbody tr")).to_have_count(count)


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


# --- every screen ----------------------------------------------------------------------------------------------------


def test_all_screens_show_42_elements_to_their_owner(session: Page) -> None:
    page = session
    assert "Every copy is safe." in go(page, "health").inner_text("h1")
    assert page.locator(".card").count() == 1
    go(page, "time")
    assert page.locator("[data-bars] a").count() >= 15
    assert "8 elements vanished at once" in page.inner_text("main")
    go(page, "files")
    assert "1842" in page.inner_text("#list")
    assert "zażółć gęślą.txt" in page.inner_text("#list")
    assert "kept for" in go(page, "space").inner_text("main")
    said = go(page, "proof").inner_text("main")
    assert "42 authentic" in said
    assert "42 names were opened, 0 elements were refused" in said
    for width in (380, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        for screen in (*SCREENS, "files?folder=1842&sel=1842/letter-00.txt", "compare?at=@60&with=@100"):
            assert fits(go(page, screen)), (screen, width)


def test_the_keeper_shows_ids_and_no_names(browser: Browser, small_place: Place) -> None:
    with watched(browser, f"{small_place.kept.url}/page/", token=small_place.token, width=380) as found:
        for screen in SCREENS:
            page = found.go(screen)
            assert fits(page), screen
            assert "letter-" not in page.content()
        page = found.go("files")
        assert "accepts no kit" in page.inner_text("main")
        assert page.locator("input[type=file], input[type=password]").count() == 0
        assert page.locator("td.id").count() == 42
        page.locator("td.id a").first.click()
        assert "first seen" in page.inner_text("aside")


def test_nothing_is_there_yet(browser: Browser, tmp_path: Path) -> None:
    with ExitStack() as stack:
        place = _place(stack, tmp_path, empty)
        for address, token in ((place.browsing.address, None), (f"{place.kept.url}/page/", place.token)):
            with watched(browser, address, token=token, dark=True, width=380) as found:
                for screen in SCREENS:
                    page = found.go(screen)
                    assert page.inner_text("h1")
                    assert fits(page), screen
                assert "no files at this moment" in found.go("files").inner_text("main")


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_searched_read_and_downloaded(session: Page) -> None:
    page = go(session, "files")
    page.fill("#q", "LETTER-07")
    has_rows(page, 4)
    page.locator("#list a", has_text="1842/letter-07").click()
    with page.expect_download() as arrived:
        page.locator("aside a.main").click()
    assert arrived.value.suggested_filename == "letter-07.txt"
    assert Path(arrived.value.path()).read_text().startswith("letter 28 to 1842/letter-07.txt\n")
    page.get_by_role("link", name="Read here").click()
    assert page.inner_text("pre").startswith("letter 28 to 1842/letter-07.txt")


def test_a_backed_up_page_runs_nowhere(session: Page) -> None:
    page = go(session, "files?sel=notes.html&read=1")
    assert page.inner_text("pre") == HOSTILE
    with page.expect_download() as arrived:
        page.locator("aside a.main").click()
    assert Path(arrived.value.path()).read_text() == HOSTILE
    answer = page.request.get(page.locator("aside a.main").evaluate("each => each.href"))
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-type"] == "application/octet-stream"


def test_older_versions_and_moments(session: Page) -> None:
    page = go(session, "files?folder=1842&sel=1842/letter-01.txt")
    assert page.locator(".versions .links").count() == 2
    with page.expect_download() as arrived:
        page.locator(".versions .links").last.get_by_role("link", name="Download").click()
    assert Path(arrived.value.path()).read_text().startswith("letter 4 to")
    with page.expect_download() as arrived:
        page.locator("aside a.main").click()
    assert Path(arrived.value.path()).read_text().startswith("changed")
    page.locator(".versions .links").last.get_by_role("link", name="Look").click()
    assert "You are looking at the state of" in page.inner_text("main")
    assert page.locator("nav a").nth(3).evaluate("each => each.search").startswith("?at=")


def test_a_folder_is_a_zip_and_vanished_files_are_greyed(session: Page) -> None:
    page = go(session, "files?folder=1842")
    with page.expect_download() as arrived:
        page.get_by_role("link", name="as a zip").click()
    with zipfile.ZipFile(io.BytesIO(Path(arrived.value.path()).read_bytes())) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert archive.read("1842/letter-05.txt").startswith(b"letter 20 to")
    assert len(names) == 8, "the vanished ones are not among them"
    page.get_by_role("switch").click()
    assert page.locator("tr.gone").count() == 2
    page.locator("summary").last.click()
    assert "kropotcli restore --from" in page.inner_text(".actions")
    assert "--vanished" in page.inner_text(".actions")


def test_two_moments_are_compared(session: Page) -> None:
    page = go(session, "files")
    page.fill("#with", "40d")
    page.keyboard.press("Enter")
    page.wait_for_selector(".change")
    said = page.inner_text("main")
    assert page.locator(".removed").count() == 8
    assert page.locator(".altered").count() >= 2
    assert "1842/letter-09.txt" in said


def test_the_keyboard_alone_is_enough(session: Page) -> None:
    page = go(session, "health")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("2")
    page.wait_for_url("**/page/time*")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".zoom")
    page.keyboard.press("3")
    page.wait_for_url("**/page/files*")
    page.keyboard.press("/")
    page.keyboard.type("letter-03")
    has_rows(page, 4)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("aside")
    assert page.evaluate("document.activeElement.id") == "side"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    with page.expect_download() as arrived:
        page.keyboard.press("Enter")
    assert arrived.value.suggested_filename == "letter-03.txt"


# --- what must not happen --------------------------------------------------------------------------------------------


def test_the_kit_is_in_no_request(small_place: Place, session: Page) -> None:
    go(session, "files?folder=1842&sel=1842/letter-01.txt")
    sent = bytes(small_place.wire.sent)
    assert b"/api/1/" in sent
    secrets = (VAULT.id_key, VAULT.etag_key, *VAULT.masters)
    for secret in secrets:
        for written in (secret, secret.hex().encode(), secret.hex().upper().encode()):
            assert written not in sent
    assert b"letter-0" not in sent, "nor is a name"


def test_the_wrong_kit_is_told(browser: Browser, small_place: Place, tmp_path: Path) -> None:
    kit_file(tmp_path, OTHER_VAULT)
    token = small_place.kept.token_file(tmp_path)
    options = ("--from", small_place.kept.url, "--access-token-file", token, "--key", "vault.json")
    with Browsing(tmp_path, *options) as browsing, watched(browser, browsing.address) as found:
        assert "This kit opens nothing here." in found.go("files").inner_text("[role=alert]")
        assert "This kit opens nothing here." in found.go("proof").inner_text("[role=alert]")
        assert "letter-" not in found.page.content()


def test_a_hostile_keeper_shows_nothing_false_and_runs_nothing(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kropot.keeper.answering import KeeperAnswers

    honest = {name: getattr(KeeperAnswers, name) for name in ("status", "elements", "sources", "history", "moment")}

    def status(*given: object) -> object:
        answer = honest["status"](*given)
        for row in answer["sources"]:
            row |= {"label": HOSTILE, "url": f"javascript:{HOSTILE}"}
        alarm = {"name": HOSTILE, "source": None, "text": f"{HOSTILE} run `{HOSTILE}`", "since": None}
        return answer | {"alarms": [alarm]}

    def elements(*given: object) -> object:
        answer = honest["elements"](*given)
        rows = answer["elements"]
        if len(rows) > 3:
            rows[0]["events"], rows[1]["events"] = rows[1]["events"], rows[0]["events"]  # swapped
            del rows[2]  # withheld
        return answer

    def history(*given: object) -> object:
        answer = honest["history"](*given)
        for row in answer["events"]:
            row["event"] = HOSTILE
        return answer

    with ExitStack() as stack:
        place = _place(stack, tmp_path, small)
        for name, lie in (("status", status), ("elements", elements), ("history", history)):
            monkeypatch.setattr(KeeperAnswers, name, lambda *given, _lie=lie: _lie(*given))
        with watched(browser, place.browsing.address) as found:
            said = found.go("health").inner_text("main")
            assert HOSTILE in said
            page = found.go("files?gone=1")
            warned = page.inner_text("main")
            assert "2 elements were refused" in warned
            assert "withholds" in warned
            assert "39 authentic" in found.go("proof").inner_text("main")
            page = found.go("files?q=letter&gone=1")
            page.locator("#list tbody a").last.click()
            page.wait_for_selector("aside")
            assert HOSTILE in page.inner_text("aside")
            # What was cut or changed on the way is never taken for a whole file.
            for path in (place.kept.folder / "storage" / "objects").rglob("*"):
                if path.is_file() and len(path.name) == 64:
                    path.chmod(0o600)
                    path.write_bytes(path.read_bytes()[:-1] + b"x")
            address = page.locator("aside a.main").evaluate("each => each.href")
            answer = page.request.get(address)
            assert answer.status != 200, "it was refused before anything was sent"
        monkeypatch.setattr(KeeperAnswers, "status", lambda *_: {"alarms": {}, "sources": HOSTILE})
        with watched(browser, f"{place.browsing.base}/page/health") as other:
            other.allowed.add(401)
            other.broken.clear()


def test_broken_states_are_red_and_say_why(browser: Browser, tmp_path: Path) -> None:
    with ExitStack() as stack:
        place = _place(stack, tmp_path, small)
        (place.kept.folder / "storage").rename(place.kept.folder / "elsewhere")
        with watched(browser, place.browsing.address, dark=True, width=380) as found:
            assert fits(found.go("health"))
            assert found.page.locator(".verdict.red").count() == 1
            assert "kropotcli" in found.page.inner_text(".alarms")
            place.kept.tokens.revoke(1)
            found.allowed |= {403}
            found.go("health")
            assert "refuses the token" in found.page.inner_text("[role=alert]")
