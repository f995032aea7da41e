"""Render the page's templates. All values are escaped, and a missing value is an error."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from kropot.page import when
from kropot.page.texts import T
from kropot.wording import amount

if TYPE_CHECKING:
    from jinja2 import Environment

_COMMAND: Final = re.compile(r"`([^`]{1,500})`")


def render(name: str, **values: Any) -> str:
    """Return a template with these values filled in."""
    return _environment().get_template(name).render(**values)


@cache
def static(name: str) -> bytes:
    """Return one of the page's static files. Raises: FileNotFoundError."""
    return files("kropot.page").joinpath("static", name).read_bytes()


def parts_of(text: str) -> list[tuple[bool, str]]:
    """Split a sentence into parts. Each has a flag that says whether it is a command in backquotes. Pure."""
    return [(bool(at % 2), part) for at, part in enumerate(_COMMAND.split(text)) if part]


def commands_in(text: str) -> list[str]:
    """Return the commands of this program that a sentence names in backquotes. Pure."""
    return [part for is_command, part in parts_of(text) if is_command and part.startswith("kropotcli ")]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_source), trim_blocks=True, lstrip_blocks=True
    )
    # Namespaces, because in a dictionary, the text "copy" would be the method `dict.copy`.
    made.globals.update(t=SimpleNamespace(**{name: SimpleNamespace(**texts) for name, texts in T.items()}))
    made.filters.update(
        amount=amount, shown=when.shown, day=when.day, ago=when.ago, number="{:,}".format, parts=parts_of
    )
    return made


def _source(name: str) -> str:
    return files("kropot.page").joinpath("templates", name).read_text("utf-8")
