"""Globs over restored names: `*` and `?` stay in one folder, `**` crosses folders, a folder means all in it. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_PATTERN = 4096


class Patterns:
    """A list of globs; an empty list matches everything. It remembers which globs have matched."""

    def __init__(self, globs: Sequence[str]) -> None:
        """Compile the globs. Raises: UsageError for a glob that can match nothing."""
        self._compiled = {glob: _compile(glob) for glob in globs}
        self._idle = set(self._compiled)

    @property
    def idle(self) -> list[str]:
        """The globs that have matched nothing so far, in the given order."""
        return [glob for glob in self._compiled if glob in self._idle]

    def match(self, path: bytes) -> bool:
        """Return whether any glob matches a restored path (parts joined by `/`).

        A glob without a slash matches at every depth: `*.txt` means all text files.
        """
        if not self._compiled:
            return True
        name = path.decode(errors="surrogateescape")
        self._idle -= {glob for glob in self._idle if self._compiled[glob].fullmatch(name)}
        return any(pattern.fullmatch(name) for pattern in self._compiled.values())


def _compile(glob: str) -> re.Pattern[str]:
    wanted = glob.strip("/")
    if not wanted or len(glob) > _MAX_PATTERN:
        raise UsageError(f"the pattern {glob[:80]!a} cannot match any name: try '*.txt' or 'folder/**'")
    anywhere = "(?:.*/)?" if "/" not in glob.rstrip("/") else ""
    return re.compile(f"{anywhere}{_translate(wanted)}(?:/.*)?", re.DOTALL)


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
