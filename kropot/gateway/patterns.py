"""Patterns of paths, in the syntax and with the meaning of restic's --exclude.

A pattern is a list of components, and matches a path if it matches some run of whole components in it. So a pattern
that matches a folder matches everything below. With a leading `/` the run must begin at the root of the file system.
Each component is a glob as Go's filepath.Match reads it, and `**` stands for any number of components. A pattern that
begins with `!` cancels the match of earlier patterns.

Whether a path matches follows from the state of its folder and its last component. So a walk costs one step for each
entry, however deep it is, and no pattern can make it take long.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

States = tuple[int, ...]
"""A set of bits for each pattern: bit i is set if its first i components match the end of the path, or its beginning
for an anchored pattern. The highest bit means that the pattern matches, and stays set below."""

_ANY: Final = None
"""The component `**`."""

_SHOWN: Final = 200
_SPECIAL: Final = re.compile(r"[\\*?\[]")

Step = str | re.Pattern[str] | None


class Pattern(Struct, frozen=True, kw_only=True):
    """One pattern, ready to match. `text` is the pattern as given."""

    text: str
    is_negated: bool
    is_anchored: bool
    steps: tuple[Step, ...]

    @property
    def accepts(self) -> int:
        """The bit that says that the pattern matches."""
        return 1 << len(self.steps)

    @property
    def start(self) -> int:
        """The state at the root of the file system."""
        return self._skipping(1)

    @property
    def is_short(self) -> bool:
        """Whether this is one component that can match anywhere, so that a name that does not match changes nothing."""
        return not self.is_anchored and len(self.steps) == 1 and self.steps[0] is not _ANY

    def advance(self, state: int, name: str) -> int:
        """Return the state of an entry called `name` in a folder with this state."""
        after = (state & self.accepts) | (0 if self.is_anchored else 1)
        for index, step in enumerate(self.steps):
            if not state >> index & 1:
                continue
            if step is _ANY:
                after |= 1 << index
            elif step == name if isinstance(step, str) else step.fullmatch(name) is not None:
                after |= 2 << index
        return self._skipping(after)

    def _skipping(self, state: int) -> int:
        """Let every `**` that comes next match no component at all."""
        for index, step in enumerate(self.steps):
            if step is _ANY and state >> index & 1:
                state |= 2 << index
        return state


class PathPatterns:
    """A list of patterns. Later ones that begin with `!` cancel the match of earlier ones."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        """Keep the patterns in their order."""
        self.patterns = tuple(patterns)
        # Most patterns are one component that can match anywhere. One regular expression checks all of them.
        short = [pattern for pattern in self.patterns if pattern.is_short]
        self._short = re.compile("|".join(map(_regex, short)) or "(?!)", re.DOTALL)
        self._all = tuple(range(len(self.patterns)))
        self._long = tuple(index for index in self._all if not self.patterns[index].is_short)

    def __bool__(self) -> bool:
        """Whether there is any pattern."""
        return bool(self.patterns)

    @property
    def start(self) -> States:
        """The states at the root of the file system."""
        return tuple(pattern.start for pattern in self.patterns)

    def advance(self, states: States, name: str) -> States:
        """Return the states of an entry called `name` in a folder with these states."""
        indices = self._long if self._short.fullmatch(name) is None else self._all
        after = list(states)
        for index in indices:
            after[index] = self.patterns[index].advance(states[index], name)
        return tuple(after)

    def match(self, states: States) -> bool:
        """Whether a path with these states matches."""
        matched = False
        for pattern, state in zip(self.patterns, states, strict=True):
            if state & pattern.accepts:
                matched = not pattern.is_negated
        return matched

    def can_match_below(self, states: States) -> bool:
        """Whether a path below a folder with these states can match."""
        pairs = zip(self.patterns, states, strict=True)
        return any(state and not pattern.is_negated for pattern, state in pairs)

    def idle(self, states: States) -> list[Pattern]:
        """Return the patterns that match neither a folder with these states nor anything below it."""
        return [pattern for pattern, state in zip(self.patterns, states, strict=True) if not state]


def parse(text: str, origin: str) -> Pattern:
    """Return a pattern. `origin` says where it was given, for messages: `--exclude`, or a line of a file.

    Raises:
        UsageError: the pattern is not valid, or can match nothing.
    """
    is_negated = text.startswith("!")
    path = text[1:] if is_negated else text
    if not path:
        raise UsageError(f"{origin} has an empty pattern: give the name of a file or folder, such as *.tmp")
    path = re.sub("^/+", "/", posixpath.normpath(path))
    is_anchored = path.startswith("/")
    parts = [part for part in path.split("/") if part]
    if not is_anchored and parts[0] in {".", ".."}:
        raise UsageError(
            f"{origin} has the pattern {text[:_SHOWN]!r}, which matches nothing, because patterns are compared with "
            "whole paths: give a name, or a path that begins with /"
        )
    try:
        steps = tuple(_step(part) for part in parts)
    except _BadGlobError as error:
        raise UsageError(f"{origin} has the pattern {text[:_SHOWN]!r}, which is not valid: {error}") from None
    return Pattern(text=text, is_negated=is_negated, is_anchored=is_anchored, steps=steps)


class _BadGlobError(ValueError):
    """Says in words what is wrong with a glob, and what to write."""


def _regex(pattern: Pattern) -> str:
    """Return the only component of a pattern as a regular expression."""
    step = pattern.steps[0]
    return step.pattern if isinstance(step, re.Pattern) else re.escape(step or "")


def _step(part: str) -> Step:
    """Return what one component of a pattern matches: a literal name, or a compiled glob. Raises: _BadGlobError."""
    if part == "**":
        return _ANY
    if _SPECIAL.search(part) is None:
        return part
    runs = _runs(part)
    if len(runs) == 1:
        return re.compile(runs[0], re.DOTALL)
    # Each run is tried only at the first place where it matches. That is enough, and never takes long.
    middle = "".join(f"(?>.*?{run})" for run in runs[1:-1] if run)
    return re.compile(f"{runs[0]}{middle}.*{runs[-1]}", re.DOTALL)


def _runs(part: str) -> Sequence[str]:
    """Return the parts between the stars of a glob, as regular expressions. Raises: _BadGlobError."""
    runs, at = [""], 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            runs.append("")
        elif char == "?":
            runs[-1] += "."
        elif char == "[":
            found, at = _class(part, at)
            runs[-1] += found
        else:
            if char == "\\":
                char, at = _escaped(part, at)
            runs[-1] += re.escape(char)
    return runs


def _class(part: str, at: int) -> tuple[str, int]:
    """Return a class of characters as a regular expression, and where it ends. It begins at `at`, after its `[`."""
    is_negated = part.startswith("^", at)
    at += is_negated
    ranges = ""
    is_first = True
    while is_first or not part.startswith("]", at):
        low, at = _member(part, at)
        high = low
        if part.startswith("-", at):
            high, at = _member(part, at + 1)
        if low <= high:
            ranges += f"{re.escape(low)}-{re.escape(high)}"
        is_first = False
    if ranges:
        return f"[{'^' if is_negated else ''}{ranges}]", at + 1
    # All ranges run from high to low, so they hold no character.
    return "." if is_negated else "(?!)", at + 1


def _member(part: str, at: int) -> tuple[str, int]:
    """Return one character of a class, and where it ends."""
    if at >= len(part):
        raise _BadGlobError(r"a [ has no ]: add it, or write \[ for a bracket in a name")
    if part[at] in "-]":
        raise _BadGlobError(rf"{part[at]} is in [ ] where a character must be: write \{part[at]} for it")
    return _escaped(part, at + 1) if part[at] == "\\" else (part[at], at + 1)


def _escaped(part: str, at: int) -> tuple[str, int]:
    """Return the character after a backslash, and where it ends."""
    if at >= len(part):
        raise _BadGlobError(r"a \ is at the end: write \\ for a backslash in a name")
    return part[at], at + 1
