"""What a user asks for by name: a name as `--list-names` prints it, or a glob. Pure.

In a glob, `*` and `?` stay in one folder, `**` crosses folders, and a folder means everything in it. A file with
exactly the given name beats the glob: then the text means only it. A backslash begins an escape (kropot/wording.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.errors import UsageError
from kropot.wording import as_written

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MAX_PATTERN = 4096
_NAMED, _TYPED, _GLOB = range(3)
"""How well a text fits a name, best first: it is the printed name, the name itself, or a glob."""


class Fit(Struct, frozen=True):
    """How well each pattern fits a file: its index in the list of patterns, and a rank (smaller is better)."""

    pattern: int
    rank: int


class Patterns:
    """A list of patterns; an empty list means every file. It remembers the best fit of each one."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Take the patterns. Raises: UsageError for one that can match nothing."""
        self._texts = tuple(dict.fromkeys(texts))
        self._compiled = tuple(_compile(text) for text in self._texts)
        self._best: dict[int, int] = {}

    def __bool__(self) -> bool:
        """Whether there are patterns, so that not every file is meant."""
        return bool(self._texts)

    @property
    def idle(self) -> list[str]:
        """The patterns that have fitted no file so far, in the given order."""
        return [text for number, text in enumerate(self._texts) if number not in self._best]

    def fits(self, paths: Iterable[bytes], *, is_folder: bool = False) -> tuple[Fit, ...]:
        """Return which patterns fit a file with any of these names (parts joined by `/`), and how well.

        A glob without a slash matches at every depth: `*.txt` means all text files. A folder's exact name is no better
        than a glob, because it means everything in the folder.
        """
        names = tuple(paths)
        found = []
        for number, pattern in enumerate(self._compiled):
            ranks = [rank for name in names if (rank := pattern.rank(name)) is not None]
            if ranks:
                rank = _GLOB if is_folder else min(ranks)
                found.append(Fit(number, rank))
                self._best[number] = min(rank, self._best.get(number, _GLOB))
        return tuple(found)

    def mean(self, fits: Iterable[Fit]) -> bool:
        """Return whether a file with these fits is meant. Ask only after `fits` saw all: an exact name beats a glob."""
        return not self._texts or any(fit.rank == self._best[fit.pattern] for fit in fits)


class _Pattern(Struct, frozen=True):
    named: bytes
    typed: bytes
    glob: re.Pattern[str]

    def rank(self, name: bytes) -> int | None:
        if name == self.named:
            return _NAMED
        if name == self.typed:
            return _TYPED
        return _GLOB if self.glob.fullmatch(name.decode(errors="surrogateescape")) else None


def _compile(text: str) -> _Pattern:
    wanted = text.strip("/")
    if not wanted or len(text) > _MAX_PATTERN:
        raise UsageError(f"the pattern {text[:80]!a} cannot match any name: try '*.txt' or 'folder/**'")
    named, typed = as_written(wanted), wanted.encode(errors="surrogateescape")
    glob = named.decode(errors="surrogateescape")
    anywhere = "(?:.*/)?" if "/" not in text.rstrip("/") else ""
    return _Pattern(named, typed, re.compile(f"{anywhere}{_translate(glob)}(?:/.*)?", re.DOTALL))


def _translate(glob: str) -> str:
    """Return the regular expression of a glob."""
    parts: list[str] = []
    at = 0
    while at < len(glob):
        char = glob[at]
        if glob.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif glob.startswith("**", at):
            parts.append(".*")
            at += 2
        elif char == "[" and (end := _class_end(glob, at)):
            parts.append(_class(glob[at + 1 : end]))
            at = end + 1
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char))
            at += 1
    return "".join(parts)


def _class_end(glob: str, start: int) -> int:
    """Return the index of the `]` that ends a class; 0 if there is none, and then the bracket means itself."""
    first = start + 2 if glob[start + 1 : start + 2] in {"!", "^"} else start + 1
    end = glob.find("]", first + 1)
    return max(end, 0)


def _class(body: str) -> str:
    """Return a character class. As in shells, a class with a reversed range (`[z-a]`) matches nothing."""
    negated = body[:1] in {"!", "^"}
    inner = body[1:] if negated else body
    escaped = "".join(f"{re.escape(low)}-{re.escape(high)}" if high else re.escape(low) for low, high in _spans(inner))
    expression = f"[^/{escaped}]" if negated else f"(?!/)[{escaped}]"
    try:
        re.compile(expression)
    except re.error:
        return "[^/]" if negated else "(?!)"
    return expression


def _spans(inner: str) -> list[tuple[str, str]]:
    """Return (first, last) characters of the ranges in a class; `last` is empty for a single character."""
    return [(low, high) for low, high in re.findall(r"(.)(?:-(.))?", inner, re.DOTALL)]
