"""The documents agree with the program: every command and option is described, every link leads somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import click
import pytest

from kropot.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def options(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Option]]:
    """Return every option of a command and of those below it, with the path that leads there."""
    found = [(path, param) for param in command.params if isinstance(param, click.Option)]
    if isinstance(command, click.Group):
        with click.Context(command, info_name=command.name) as ctx:
            for name in command.list_commands(ctx):
                below = command.get_command(ctx, name)
                assert below is not None
                found += options(below, (*path, name))
    return found


def test_every_option_says_what_it_does() -> None:
    for path, option in options(cli):
        assert option.hidden or (option.help or "").strip(), f"{' '.join(path)} {option.opts[0]} says nothing"


def test_every_command_and_option_is_documented() -> None:
    page = runpy.run_path(str(ROOT / "tests" / "tools" / "commands.py"))["page"]()
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written == page, (
        "docs/commands.md is not what the program says: python tests/tools/commands.py > docs/commands.md"
    )


def test_every_exit_code_is_documented() -> None:
    from kropot.errors import Exit

    tour = (ROOT / "docs" / "tour.md").read_text()
    for code in Exit:
        assert f"| {code.value} |" in tour


def test_the_core_can_be_read_in_an_hour() -> None:
    tour = runpy.run_path(str(ROOT / "tests" / "tools" / "tour.py"))
    lines = tour["reading_list"]()
    assert len(lines) >= 9
    assert sum(lines.values()) <= tour["MOST_LINES"]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+?) *$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{page.relative_to(ROOT)} links to {target}"
        assert place.is_relative_to(ROOT)
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page.relative_to(ROOT)} links to {target}"
