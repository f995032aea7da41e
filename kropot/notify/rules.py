"""The table `[notify]` of the configuration file: whom to call about which command and source. Pure.

    [notify]
    ping-url = "https://hc-ping.com/UUID"      # the heart-beat of `collect`
    apprise = ["ntfy://ntfy.sh/TOPIC"]         # alarms that begin and end, and runs that fail
    command = "/usr/local/bin/on-backup"       # everything, as JSON on stdin
    [notify.verify]                            # what differs for one command
    ping-url = "https://hc-ping.com/OTHER"
    [notify.source.photos]                     # what differs for one source
    ping-url = "https://hc-ping.com/PHOTOS"

The next round of `collect` must not hide a failed run of `verify`. So a ping-url outside a command's table is only for
`collect`, unless it contains {command}.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

from kropot.errors import UsageError
from kropot.secret import guard, repr_without

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMANDS: Final = ("collect", "verify", "prune", "status")
_SECONDS: Final = {"s": 1, "m": 60}
_TIMEOUT: Final = re.compile(r"(\d{1,4})(s|m|)")
_LONGEST_S: Final = 300


class Targets(Struct, frozen=True, kw_only=True):
    """Whom to call. `timeout_s` limits each call. None or an empty tuple means that nobody is called this way."""

    ping_url: str | None = None
    apprise: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    timeout_s: int = 10

    __repr__ = repr_without("ping_url", "apprise", "command")

    @property
    def is_empty(self) -> bool:
        """Whether nobody is called."""
        return self.ping_url is None and not self.apprise and not self.command


class NotifyRules(Struct, frozen=True, kw_only=True):
    """The parsed table: values by the path of their table, e.g. `()`, `("verify",)`, `("source", "photos")`."""

    tables: Mapping[tuple[str, ...], Mapping[str, Any]]

    __repr__ = repr_without("tables")

    def targets(self, command: str, source: str | None = None) -> Targets:
        """Return whom to call about a command, and about the source with this label."""
        values: dict[str, Any] = {}
        paths: list[tuple[str, ...]] = [(), (command,)]
        if source is not None:
            paths += [("source", source), ("source", source, command)]
        for path in paths:
            for name, value in self.tables.get(path, {}).items():
                is_for_all = command == "collect" or command in path or "{command}" in str(value)
                if name != "ping_url" or is_for_all:
                    values[name] = value
        url = values.get("ping_url")
        if url is not None:
            parts = {"{command}": command, "{source}": quote(source or "all", safe="")}
            for name, part in parts.items():
                url = url.replace(name, part)
            values["ping_url"] = guarded_url(url)
        return Targets(**values)


def parse_notify(table: Mapping[str, Any]) -> tuple[NotifyRules, list[str]]:
    """Return the rules in a decoded table, and a sentence for each mistake. The rules leave out mistaken values.

    Every address in them is guarded as a secret from here on.
    """
    tables: dict[tuple[str, ...], Mapping[str, Any]] = {}
    mistakes = list(_read(table, (), tables))
    return NotifyRules(tables=tables), mistakes


def guarded_url(url: str) -> str:
    """Return the address, and guard its path as a secret: anyone who knows it can call in the program's name."""
    guard(url)
    parts = urlsplit(url)
    for piece in (parts.path, *parts.path.split("/")):
        if len(piece) >= 16:  # noqa: PLR2004 - shorter ones are words
            guard(piece)
    return url


def _read(
    table: Mapping[str, Any], path: tuple[str, ...], tables: dict[tuple[str, ...], Mapping[str, Any]]
) -> Iterator[str]:
    """Put the values of a table and its subtables into `tables`, and yield a sentence for each mistake."""
    where = f"[{'.'.join(('notify', *path))}]"
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if isinstance(value, dict):
            below = (*path, key)
            if not (_is_command(below) or below == ("source",) or (len(below) == 2 and below[0] == "source")):  # noqa: PLR2004
                yield f"{where} has an unknown table {key!r}: write a command ({', '.join(COMMANDS)}), or source.LABEL"
            else:
                yield from _read(value, below, tables)
        elif path == ("source",) or name not in {*Targets.__struct_fields__, "timeout"}:
            yield f"{where} has an unknown name {key!r}: correct or remove it (see docs/operations.md)"
        else:
            try:
                name, value = _value(name, value, f"{where} {key}")  # noqa: PLW2901
            except UsageError as error:
                yield str(error)
            else:
                values[name] = value
    tables[path] = values


def _is_command(path: tuple[str, ...]) -> bool:
    return path[-1] in COMMANDS and (len(path) == 1 or (len(path) == 3 and path[0] == "source"))  # noqa: PLR2004


def _value(name: str, value: Any, where: str) -> tuple[str, Any]:
    """Return the name and the value of a field of `Targets`. Raises: UsageError."""
    match name:
        case "ping_url":
            parts = urlsplit(value) if isinstance(value, str) else None
            if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
                raise UsageError(f"{where} is not an http address: write e.g. https://hc-ping.com/UUID")
            return name, guarded_url(value).rstrip("/")
        case "apprise":
            urls = [value] if isinstance(value, str) else value
            if not isinstance(urls, list) or not all(isinstance(each, str) and "://" in each for each in urls):
                raise UsageError(f'{where} is not a list of Apprise addresses: write e.g. ["ntfy://ntfy.sh/TOPIC"]')
            for each in urls:
                guard(each)
            return name, tuple(urls)
        case "command":
            try:
                words = tuple(shlex.split(value)) if isinstance(value, str) else tuple(value)
            except (ValueError, TypeError):
                words = ()
            if not words or not all(isinstance(each, str) and each for each in words):
                raise UsageError(f"{where} is not a command: write a program and its arguments")
            return name, words
        case _:
            found = _TIMEOUT.fullmatch(str(value))
            seconds = 0 if found is None or isinstance(value, bool) else int(found[1]) * _SECONDS.get(found[2], 1)
            if not 1 <= seconds <= _LONGEST_S:
                raise UsageError(f"{where} is not a time from 1s to 5m: write e.g. 10s")
            return "timeout_s", seconds
