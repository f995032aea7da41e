"""Takes the screenshots in docs/images, of a sample replica in browse: python -m tests.tools.screenshots."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kropot.errors import Exit
from tests.browser.chromium import chromium
from tests.browser.worlds import Browsing, small
from tests.keeper.serve import Kept
from tests.kropot.sealed_world import kit_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
SHOTS: Final = {
    "health": ("health", False, 1120),
    "time": ("time", False, 1120),
    "files": ("files?folder=1842&gone=1&sel=1842/letter-02.txt", False, 1120),
    "space": ("space?daily=7&weekly=4&min_age_days=7", True, 1120),
    "proof": ("proof", True, 1120),
}
"""The address of each screen, whether it is dark, and how wide."""

_HEIGHT: Final = 760


def main() -> Exit:
    """Take them all, over those that are there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Kept(Path(place)) as kept:
        small(kept)
        kit_file(Path(place))
        own = ("--db-string", "sqlite:///ledger.db", "--storage-path", "storage", "--key", "vault.json")
        with Browsing(Path(place), *own) as browsing, chromium() as browser:
            take(browser, browsing)
    return Exit.DONE


def take(browser: Browser, browsing: Browsing) -> None:
    """Take one screenshot of each screen."""
    first = browser.new_context()
    first.new_page().goto(browsing.address)
    session = first.storage_state()
    for name, (address, is_dark, width) in SHOTS.items():
        context = browser.new_context(
            viewport={"width": width, "height": _HEIGHT},
            color_scheme="dark" if is_dark else "light",
            storage_state=session,
        )
        page = context.new_page()
        page.goto(f"{browsing.base}/page/{address}")
        page.screenshot(path=FOLDER / f"{name}.png")
        context.close()


if __name__ == "__main__":
    raise SystemExit(main())
