"""`kropotcli config`: shows the value of every option and where it came from, and checks all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from kropot.cli.base import Exit, Settings, config_file_of, emit, emit_json, group, settings_of
from kropot.cli.config_check import mistakes
from kropot.cli.config_init import init
from kropot.cli.output import emit_summary
from kropot.cli.settings import GLOBAL_OPTIONS, default_config_path, first_of
from kropot.cli.source_tables import settings_of_sources, source_tables
from kropot.errors import UsageError
from kropot.secret import HIDDEN, hide_credentials, shown_url
from kropot.securecopy.authorities import checked_ca_file
from kropot.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterator


@group("config")
def command() -> None:
    """Write a configuration file, check one, or show the value of every option and where it came from."""


command.add_command(init)


@command.command("check", tells_mistakes=True)
def check(settings: Settings) -> Exit:
    """Check every value in the configuration file and in the environment, and the files with tokens.

    This prints one line for each mistake: the file or variable, the table, the option, and what was expected. The exit
    code is 2 if there is one. Other commands check only their own options.
    """
    found = [*_mistakes(), *_unusable_files(settings)]
    if settings.json:
        emit_json(
            "config_check", {"file": None if settings.config is None else str(settings.config), "mistakes": found}
        )
    else:
        for each in found:
            emit(each)
        where = "no configuration file" if settings.config is None else f"{settings.config}"
        if found:
            emit(f"{number(len(found), 'mistake')} ({where})")
        else:
            emit_summary(f"every value is valid ({where})")
    return Exit.USAGE if found else Exit.DONE


def _mistakes() -> list[str]:
    ctx = click.get_current_context()
    root = ctx.find_root()
    found = settings_of(ctx)[1]
    if isinstance(root.command, click.Group):
        found += mistakes(root.command, root, config_file_of(ctx), os.environ)
    return found


def _unusable_files(settings: Settings) -> list[str]:
    """Return a sentence for each token file or file of authorities that an option names and that cannot be used."""
    file = config_file_of(click.get_current_context())
    found: dict[str, None] = {}
    for each in (settings, *(() if file is None else settings_of_sources(file))):
        try:
            _ = each.token
        except UsageError as error:
            found[str(error)] = None
        try:
            if each.ca_file is not None:
                checked_ca_file(each.ca_file)
        except UsageError as error:
            found[str(error)] = None
    return list(found)


@command.command("show")
def show(settings: Settings) -> None:
    """Show the value of every option and where it came from. Secrets are hidden.

    A flag beats the environment, the environment beats the file, and the file beats the default. The global options
    come first. Options of commands follow, if the environment or the file sets them, and then the sources.
    """
    found = _mistakes()
    if found:
        raise first_of(found)
    rows = [*_rows(settings), *_command_rows(click.get_current_context()), *_source_rows()]
    if settings.json:
        for option, value, origin in rows:
            emit_json("option", {"option": option, "value": value, "source": origin})
        return
    width = max(len(option) for option, _, _ in rows)
    for option, value, origin in rows:
        emit(f"{option:<{width}}  {'-' if value is None else value}  ({origin})")


def _rows(settings: Settings) -> Iterator[tuple[str, object, str]]:
    """Yield name, value and origin of every global option."""
    for option in GLOBAL_OPTIONS:
        value: object
        match option.field:
            case "token":
                value = None if settings.token_given is None else HIDDEN
            case "config" if settings.config is None:
                usual = default_config_path()
                value = "none (this user has no home)" if usual is None else f"none (looked for {usual})"
            case name:
                value = getattr(settings, name)
        yield (
            option.name,
            value if isinstance(value, int | bool) or value is None else _shown(str(value), option.metavar),
            settings.origins[option.field],
        )


def _command_rows(ctx: click.Context) -> Iterator[tuple[str, object, str]]:
    """Yield name, value and origin of the commands' own options that the environment or the file sets."""
    root = ctx.find_root()
    if not isinstance(root.command, click.Group):
        return
    yield from _rows_below(root.command, root, ())


def _rows_below(group_: click.Group, ctx: click.Context, path: tuple[str, ...]) -> Iterator[tuple[str, object, str]]:
    """Yield the rows of all commands in a group, in the group's order."""
    sources = {
        click.core.ParameterSource.ENVIRONMENT: "environment",
        click.core.ParameterSource.DEFAULT_MAP: "configuration file",
    }
    for name in group_.list_commands(ctx):
        found = group_.get_command(ctx, name)
        if found is None:
            continue
        with found.make_context(name, [], parent=ctx, resilient_parsing=True) as below:
            if isinstance(found, click.Group):
                yield from _rows_below(found, below, (*path, name))
                continue
            for param in found.params:
                source = below.get_parameter_source(param.name or "")
                if source in sources and isinstance(param, click.Option):
                    option = " ".join((*path, name, max(param.opts, key=len).lstrip("-")))
                    yield option, _shown(str(below.params.get(param.name or "")), param.metavar), sources[source]


def _source_rows() -> Iterator[tuple[str, object, str]]:
    """Yield name, value and origin of each entry in the tables [source.NAME]."""
    file = config_file_of(click.get_current_context())
    for name, table in source_tables(file).items():
        for key, value in table.values.items():
            shown = HIDDEN if key == "token" else _shown(str(value), "URL" if key == "server_url" else None)
            yield f"source.{name} {key.replace('_', '-')}", shown, "configuration file"


def _shown(value: str, metavar: str | None) -> str:
    return shown_url(value) if metavar == "URL" else hide_credentials(value)
