"""Checks the options in the configuration file and the environment: their names, and their values by type."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.settings import ENV_PREFIX, GLOBAL_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kropot.cli.settings import ConfigFile

TESTS = f"{ENV_PREFIX}_TEST_"
"""Variables of the test command. No option has such a name."""


def option_name(param: click.Option) -> str:
    """Return an option's long flag as an identifier, the name that environment variables and files use."""
    return max(param.opts, key=len).lstrip("-").replace("-", "_")


def expected(param: click.Option, value: object) -> str | None:
    """Return what is wrong with an option's value from a file, and what was expected; None if it is right."""
    shown = repr(value)
    if param.multiple:
        if not isinstance(value, list):
            return f"{shown} is not a list: write [{shown}]"
        return next((wrong for each in value if (wrong := _expected_once(param, each)) is not None), None)
    if isinstance(value, list):
        return f"{shown} is a list, and this option takes one value"
    return _expected_once(param, value)


def mistakes(root: click.Group, ctx: click.Context, file: ConfigFile | None, environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each mistake in the tables of the file, and in the variables for options of commands."""
    found: list[str] = []
    if file is not None:
        from kropot.cli.source_tables import mistakes_in_sources

        found += [*_in_table(root, ctx, file, file.tables, ()), *_in_policy(file)]
        collect = root.get_command(ctx, "collect")
        found += [] if collect is None else mistakes_in_sources(collect, file)
    for name, param in _variables(root, ctx, ()).items():
        if environ.get(name):
            text: Any = environ[name]
            value = list(param.type.split_envvar_value(text)) if param.multiple else text
            wrong = expected(param, value)
            if wrong is not None:
                found.append(f"{name}: {wrong}")
    return found


def unknown_variables(root: click.Group, ctx: click.Context, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each environment variable that looks like an option of this program but is not one."""
    known = {option.env for option in GLOBAL_OPTIONS}
    strange = [name for name in environ if name.startswith(f"{ENV_PREFIX}_") and not name.startswith(TESTS)]
    strange = sorted(set(strange) - known)
    if not strange:
        return
    # Only now is it worth the time to import all commands.
    known |= set(_variables(root, ctx, ()))
    for name in strange:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "unset it, or see `kropotcli --help`"
            yield f"the environment variable {name} belongs to no option, so it does nothing: {hint}"


def _in_policy(file: ConfigFile) -> Iterator[str]:
    """Yield a sentence for each mistake in the policy. Only the ledger knows whether sources have its labels."""
    from kropot.retention.policy import read_policy

    if file.retention is not None:
        for each in read_policy(file.retention)[1]:
            yield f"the configuration file {file.path}: {each}"


def _expected_once(param: click.Option, value: object) -> str | None:
    if isinstance(value, (dict, list)):
        return f"{value!r} is not one value"
    if param.is_flag and not isinstance(value, (bool, str)):
        return f"{value!r} is neither true nor false"
    if isinstance(value, bool) and not param.is_flag:
        return f"{str(value).lower()} is not a value of this option, which is not a switch"
    try:
        param.type.convert(value if isinstance(value, (str, int, float)) else str(value), param, None)
    except click.BadParameter as error:
        return (
            error.message.rstrip(".")
            .replace("valid integer range", "whole number")
            .replace("valid integer", "whole number")
        )
    return None


def _in_table(
    command: click.Command, ctx: click.Context, file: ConfigFile, table: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[str]:
    """Yield a sentence for each mistake in a command's table, and in those of the commands below it."""
    options = {option_name(param): param for param in command.params if isinstance(param, click.Option)}
    below = {name.replace("-", "_"): name for name in _names(command, ctx)}
    where = f"the configuration file {file.path}: " + (f"[{'.'.join(path)}] " if path else "")
    for key, value in table.items():
        name = key.replace("_", "-")
        if key in below:
            found = command.get_command(ctx, below[key]) if isinstance(command, click.Group) else None
            if not isinstance(value, dict):
                yield f"{where}{name} is a command: write a table [{'.'.join((*path, name))}] with its options"
            elif found is not None:
                yield from _in_table(found, ctx, file, value, (*path, name))
        elif key in options:
            wrong = expected(options[key], value)
            if wrong is not None:
                yield f"{where}{name}: {wrong}"
        else:
            close = get_close_matches(key, [*below, *options], n=1)
            hint = f"; did you mean {close[0].replace('_', '-')}?" if close else ""
            yield f"{where}{name} is not an option or a command{hint}"


def _variables(command: click.Command, ctx: click.Context, path: tuple[str, ...]) -> dict[str, click.Option]:
    """Return the options of all commands by their environment variables."""
    found: dict[str, click.Option] = {}
    for name in _names(command, ctx):
        below = command.get_command(ctx, name) if isinstance(command, click.Group) else None
        if below is None:
            continue
        here = (*path, name.replace("-", "_").upper())
        prefix = "_".join((ENV_PREFIX, *here))
        for param in below.params:
            if isinstance(param, click.Option):
                own = param.envvar or f"{prefix}_{option_name(param).upper()}"
                found |= dict.fromkeys([own] if isinstance(own, str) else own, param)
        found |= _variables(below, ctx, here)
    return found


def _names(command: click.Command, ctx: click.Context) -> list[str]:
    return command.list_commands(ctx) if isinstance(command, click.Group) else []
