"""What the owner wants to serve: patterns of paths to exclude or include, and marks in folders.

The patterns are restic's, and are compared with whole paths on this machine. A walk does not enter an excluded folder,
so nothing below it can be served.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.errors import UsageError
from kropot.gateway.marks import CACHE, mark_from
from kropot.gateway.patterns import PathPatterns, States, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from kropot.gateway.marks import FolderMark
    from kropot.gateway.patterns import Pattern

MAX_FILE: Final = 1 << 20
"""The largest file of patterns, in bytes. Each pattern costs time for each file of a scan."""

_SHOWN: Final = 200
_VARIABLE: Final = re.compile(r"\$(?:\$|\{([^{}]*)\}|(\w+)|([*#@!?{-]))", re.ASCII)
_NAME: Final = re.compile(r"\w+", re.ASCII)
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class SelectedPlace(Struct, frozen=True, kw_only=True):
    """A place in a walk: whether it is excluded or included, and what the patterns say about the path up to here."""

    selection: ServedSelection
    excluding: States
    including: States
    is_excluded: bool
    is_included: bool

    @property
    def is_served(self) -> bool:
        """Whether a file here is served."""
        return self.is_included and not self.is_excluded

    @property
    def may_hold(self) -> bool:
        """Whether a folder here can hold files that are served."""
        if self.is_excluded:
            return False
        return self.is_included or self.selection.includes.can_match_below(self.including)

    @property
    def is_everywhere(self) -> bool:
        """Whether this is the place of every path, because there are no patterns."""
        return not (self.selection.excludes or self.selection.includes)

    def enter(self, name: str) -> SelectedPlace:
        """Return the place of an entry of this folder."""
        if self.is_everywhere:
            return self
        chosen = self.selection
        return chosen.place(
            chosen.excludes.advance(self.excluding, name), chosen.includes.advance(self.including, name)
        )


class ServedSelection:
    """Which part of a folder is served."""

    def __init__(
        self,
        excludes: Iterable[Pattern] = (),
        includes: Iterable[Pattern] = (),
        marks: Iterable[FolderMark] = (),
    ) -> None:
        """Exclude what `excludes` match, and if there are `includes`, serve only what they match.

        `marks` exclude the other contents of the folders that they are in.
        """
        self.excludes = PathPatterns(excludes)
        self.includes = PathPatterns(includes)
        self.marks = tuple(marks)

    def at(self, folder: str) -> SelectedPlace:
        """Return the place of a folder, given by its absolute path."""
        excluding, including = self.excludes.start, self.includes.start
        for name in folder.split("/"):
            if name:
                excluding, including = self.excludes.advance(excluding, name), self.includes.advance(including, name)
        return self.place(excluding, including)

    def place(self, excluding: States, including: States) -> SelectedPlace:
        """Return the place at which the patterns have these states."""
        return SelectedPlace(
            selection=self,
            excluding=excluding,
            including=including,
            is_excluded=self.excludes.match(excluding),
            is_included=not self.includes or self.includes.match(including),
        )

    def check(self, folder: str) -> list[str]:
        """Return the patterns that match nothing in the served folder, given by its absolute path.

        Raises:
            UsageError: nothing would be served at all.
        """
        place = self.at(folder)
        if place.is_excluded:
            pattern = next(
                each.text
                for each, state in zip(self.excludes.patterns, place.excluding, strict=True)
                if state & each.accepts and not each.is_negated
            )
            raise UsageError(
                f"the pattern {pattern!r} excludes the whole folder {folder}, because patterns are compared with whole "
                f"paths: begin it with {folder.rstrip('/')}/ to exclude what is in it"
            )
        if not place.may_hold:
            patterns = ", ".join(repr(each.text) for each in self.includes.patterns)
            raise UsageError(
                f"nothing in {folder} is served, because --include names only {patterns}: patterns with a leading / "
                f"are whole paths, so begin them with {folder.rstrip('/')}/"
            )
        idle = self.excludes.idle(place.excluding) + self.includes.idle(place.including)
        return [each.text for each in idle]


def named(folder: Path) -> str:
    """Return the absolute path of a folder as patterns see it: as its owner names it, with symlinks not resolved."""
    return os.path.normpath(folder.absolute())


def patterns_of(data: bytes, origin: str, environ: Mapping[str, str]) -> list[Pattern]:
    """Return the patterns of a file: one per line, without surrounding space. `origin` is its path, for messages.

    Empty lines and lines that begin with `#` are skipped. `$NAME` and `${NAME}` stand for environment variables, and
    `$$` for a dollar sign.

    Raises:
        UsageError: a pattern is not valid, or a variable is not set.
    """
    found = []
    for number, line in enumerate(_text(data).split("\n"), start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            where = f"line {number} of {origin}"
            found.append(parse(_expanded(text, where, environ), where))
    return found


def selection_from(
    *,
    excludes: Sequence[str] = (),
    includes: Sequence[str] = (),
    exclude_files: Sequence[tuple[str, bytes]] = (),
    marks: Sequence[str] = (),
    caches: bool = False,
    environ: Mapping[str, str],
) -> ServedSelection:
    """Return the selection that options ask for. `exclude_files` are pairs of path and contents.

    As in restic, the patterns in files come after those in options.

    Raises:
        UsageError: an option is not valid.
    """
    named = [parse(text, "--exclude") for text in excludes]
    for origin, data in exclude_files:
        named += patterns_of(data, origin, environ)
    return ServedSelection(
        named,
        [parse(text, "--include") for text in includes],
        [mark_from(text) for text in marks] + [CACHE] * caches,
    )


def _text(data: bytes) -> str:
    """Return the text of a pattern file: UTF-8, or UTF-16 with a byte-order mark. Other bytes are kept as in names."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")
    return data.decode("utf-8", "surrogateescape")


def _expanded(text: str, where: str, environ: Mapping[str, str]) -> str:
    """Return a line with the values of its variables.

    A variable that is not set is refused, because without its value `$HOME/*` would exclude everything.
    """

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name = found[1] or found[2] or ""
        if not _NAME.fullmatch(name) or name not in environ:
            raise UsageError(
                f"{where} uses the variable {found[0][:_SHOWN]}, which is not set: set it, or write $$ for a dollar "
                "sign"
            )
        return environ[name]

    return _VARIABLE.sub(value, text)
