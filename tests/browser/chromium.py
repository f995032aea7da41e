"""A real Chromium, and pages that fail their test when anything foreign runs or is asked for, or anything is broken."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Request

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => {
  console.error("policy violated: " + event.violatedDirective + " " + event.blockedURI);
});
"""


def program() -> str | None:
    """Return the path of a Chromium, None without one."""
    return next((found for name in PROGRAMS if (found := shutil.which(name)) is not None), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a Chromium. Without one, the test is skipped; with KROPOT_TEST_REQUIRE_BROWSER=1 it fails."""
    path = program()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        missing = "there is no Chromium, or no playwright: apt-get install chromium"
        if os.environ.get("KROPOT_TEST_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=ARGS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page at one origin. `broken` says what went wrong on it: leaving `watched` with any of it is a failure."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.broken: list[str] = []
        self.allowed: set[int] = set()
        page.add_init_script(WATCH)
        page.on("request", self._asked)
        page.on("pageerror", lambda error: self.broken.append(f"script failed: {error}"))
        page.on("dialog", lambda dialog: (self.broken.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", self._said)

    def go(self, path: str) -> Page:
        """Open a screen."""
        self.page.goto(f"{self.base}/page/{path}")
        return self.page

    def _asked(self, request: Request) -> None:
        wanted, own = urlsplit(request.url), urlsplit(self.base)
        if (wanted.scheme, wanted.netloc) != (own.scheme, own.netloc):
            self.broken.append(f"a request to another origin: {request.url[:200]}")

    def _said(self, message: Any) -> None:
        if message.type == "error" and not any(f"status of {status}" in message.text for status in self.allowed):
            self.broken.append(f"console: {message.text}")


@contextmanager
def watched(
    browser: Browser, address: str, *, width: int = 1280, dark: bool = False, token: str | None = None
) -> Iterator[Watched]:
    """Open a page by its one-time address, or by a token that is typed in, and fail if anything was broken on it."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    context.set_default_timeout(10_000)
    try:
        found = Watched(context.new_page(), address.partition("/page/")[0])
        if token is None:
            found.page.goto(address)
        else:
            found.allowed.add(401)
            found.go("health")
            found.page.fill("#token", token)
            found.page.keyboard.press("Enter")
            found.page.wait_for_selector("nav")
        yield found
        assert found.page.evaluate("window.pwned") is None
        assert not found.broken, found.broken
    finally:
        context.close()
