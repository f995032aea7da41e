"""The options for what a gateway scans, which `gateway check` shares, and for the commands around each scan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import warn
from kropot.cli.paths import PATH, read_named
from kropot.cli.sizes import FineSpan
from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.gateway.commands import ScanCommands
    from kropot.gateway.selection import ServedSelection


class _Line(click.types.StringParamType):
    """A text. In the environment, each line is one value, because patterns can contain spaces."""

    envvar_list_splitter = "\n"


_TEXT = _Line()
_SELECTING = (
    click.option(
        "--exclude",
        "excludes",
        multiple=True,
        type=_TEXT,
        metavar="PATTERN",
        envvar="KROPOT_GATEWAY_EXCLUDE",
        help="Do not serve files and folders that match. The syntax is restic's: *, ?, [a-z] and ** (any number of "
        "folders). A leading / means the whole path on this machine, a leading ! cancels earlier patterns. Can be "
        "repeated.",
    ),
    click.option(
        "--include",
        "includes",
        multiple=True,
        type=_TEXT,
        metavar="PATTERN",
        envvar="KROPOT_GATEWAY_INCLUDE",
        help="Serve only what matches. What --exclude names is still left out. Can be repeated.",
    ),
    click.option(
        "--exclude-file",
        "exclude_files",
        multiple=True,
        type=PATH,
        metavar="FILE",
        envvar="KROPOT_GATEWAY_EXCLUDE_FILE",
        help="A file with patterns for --exclude, one per line. Empty lines and lines that begin with # are skipped. "
        "$NAME stands for a variable of the environment, $$ for a dollar sign. Can be repeated.",
    ),
    click.option(
        "--exclude-caches",
        is_flag=True,
        envvar="KROPOT_GATEWAY_EXCLUDE_CACHES",
        help="Serve nothing of folders that hold a valid CACHEDIR.TAG, except this file.",
    ),
    click.option(
        "--exclude-if-present",
        "marks",
        multiple=True,
        type=_TEXT,
        metavar="FILE[:HEADER]",
        envvar="KROPOT_GATEWAY_EXCLUDE_IF_PRESENT",
        help="Serve nothing of folders that hold a file of this name, except this file. With HEADER, it must begin with"
        " that text. Can be repeated.",
    ),
)
_AROUND = (
    click.option(
        "--before-scan",
        metavar="CMD",
        help="Run this command before each scan, for example to dump a database or to make a snapshot. If it fails, "
        "there is no scan, and the collector's `status` has an alarm. It runs without a shell: for a pipe, write "
        "sh -c '...'.",
    ),
    click.option(
        "--after-scan",
        metavar="CMD",
        help="Run this command after each scan. If it fails, the collector's `status` has an alarm.",
    ),
    click.option(
        "--scan-command-limit",
        type=FineSpan(least=0.1),
        default="1h",
        show_default=True,
        metavar="SPAN",
        help="How long each of these two commands may run. One that takes longer is ended and counts as failed.",
    ),
)


def selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command. `selection_of` takes their values."""
    for option in reversed(_SELECTING):
        function = option(function)
    return function


def around_scans(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for commands around scans to a command. `commands_of` takes their values."""
    for option in reversed(_AROUND):
        function = option(function)
    return function


def commands_of(values: dict[str, Any]) -> ScanCommands:
    """Return the commands around scans; remove their options from `values`. Raises: UsageError if one is invalid."""
    from kropot.gateway.commands import ScanCommands, command_from

    before, after, limit_s = (values.pop(name) for name in ("before_scan", "after_scan", "scan_command_limit"))
    return ScanCommands(
        before=() if before is None else command_from(before, "--before-scan", os.environ),
        after=() if after is None else command_from(after, "--after-scan", os.environ),
        limit_s=limit_s,
    )


def selection_of(
    source: Path,
    *,
    excludes: tuple[str, ...],
    includes: tuple[str, ...],
    exclude_files: tuple[Path, ...],
    exclude_caches: bool,
    marks: tuple[str, ...],
) -> ServedSelection:
    """Return what to serve from a folder, and warn of patterns that match nothing in it.

    Raises: UsageError if an option is not valid, or nothing would be served.
    """
    from kropot.gateway.selection import named, selection_from

    chosen = selection_from(
        excludes=excludes,
        includes=includes,
        exclude_files=[(str(path), _read(path)) for path in exclude_files],
        marks=marks,
        caches=exclude_caches,
        environ=os.environ,
    )
    folder = named(source)
    # A file of patterns can be meant for other folders, too.
    for text in chosen.check(folder):
        if text in excludes or text in includes:
            warn(
                f"the pattern {text!r} matches nothing in {folder}: a pattern with a leading / is a whole path, so "
                f"begin it with {folder.rstrip('/')}/"
            )
    return chosen


def _read(path: Path) -> bytes:
    """Return the contents of a file of patterns. Raises: UsageError if it cannot be read, or is too large."""
    from kropot.gateway.selection import MAX_FILE

    data = read_named("the file of patterns", path.expanduser(), MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise UsageError(f"the file of patterns {path} is larger than {MAX_FILE >> 10} KiB: name another file")
    return data
