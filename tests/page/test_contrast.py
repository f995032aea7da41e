"""The style sheet's colours have the contrast of WCAG AA in both themes, and the page asks for nothing of others."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from kropot.page.texts import T

SHEET = files("kropot.page").joinpath("static", "page.css").read_text()
TEXT = [
    (ink, ground)
    for ink, grounds in {
        "ink": ("ground", "sheet", "tint", "green-tint", "amber-tint", "red-tint"),
        "soft": ("ground", "sheet", "tint"),
        "accent": ("ground", "sheet", "tint"),
        "on-accent": ("accent",),
        "green": ("sheet", "green-tint"),
        "amber": ("sheet", "amber-tint"),
        "red": ("sheet", "red-tint", "tint"),
    }.items()
    for ground in grounds
]
MARKS = [(mark, "sheet") for mark in ("new", "changed", "gone", "stored")]


def colours(theme: str) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", SHEET, re.DOTALL)
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[0]))
    return found if theme == "light" else found | dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[1]))


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_can_be_read(theme: str) -> None:
    known = colours(theme)
    for ink, ground in TEXT:
        assert contrast(known[ink], known[ground]) >= 4.5, (ink, ground, contrast(known[ink], known[ground]))
    for mark, ground in MARKS:
        assert contrast(known[mark], known[ground]) >= 2.5, (mark, ground, contrast(known[mark], known[ground]))


def test_nothing_is_inline_or_from_elsewhere() -> None:
    page = files("kropot.page")
    for template in page.joinpath("templates").iterdir():
        text = template.read_text()
        assert not re.search(r"<script(?! src=\"/page/static/page\.js\" defer>)|<style|\sstyle=|\son[a-z]+=", text), (
            template
        )
        assert not re.search(r"(src|href|action)=\"(https?:)?//", text), template
        assert "| safe" not in text, template
        # Words stand in texts.py alone: what is between tags here is filled in.
        text = re.sub(r"\{% block body %\}.*?\{% endblock %\}", "", text)  # the names of classes
        text = re.sub(r"\{% macro zoomed.*?\{% endmacro %\}", "", text)  # an address
        words = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<[^>]*>", " ", text, flags=re.DOTALL)
        assert not re.search(r"[A-Za-z]{3,}", words), (template, re.findall(r"[A-Za-z]{3,}", words))
    script = page.joinpath("static", "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|https?:", script)
    assert "url(" not in SHEET
    assert "@import" not in SHEET


def test_every_text_is_used_or_looked_up() -> None:
    page = files("kropot.page")
    sources = "\n".join(
        each.read_text()
        for folder in (page, page.joinpath("templates"), files("kropot.browse"), files("kropot.gateway"))
        for each in folder.iterdir()
        if each.name.endswith((".py", ".html")) and each.name != "texts.py"
    )
    looked_up = {"state", "event"}
    by_kind = {"files.symlink"}
    unused = [
        f"{screen}.{name}"
        for screen, texts in T.items()
        if screen not in looked_up
        for name in texts
        if not re.search(rf"[.\"']{name}\b", sources)
    ]
    assert set(unused) == by_kind
