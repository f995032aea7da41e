"""The tables [source.NAME] of the configuration file: the options that they can have, and each source's settings."""

from __future__ import annotations

import re
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct
from msgspec.structs import replace

from kropot.cli.config_check import expected, option_name
from kropot.cli.settings import GLOBAL_OPTIONS, Settings, resolve
from kropot.errors import UsageError
from kropot.secret import repr_without
from kropot.securecopy.address import checked_base_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kropot.cli.settings import ConfigFile

WHO: Final = ("server_url", "token", "token_file")
"""Options that name the source. With several sources, no flag or variable can name them all."""

HOW: Final = ("refresh_time", "http_timeout", "silence_timeout", "ca_file", "user_agent")
"""The global options that can differ between sources."""

POLICY: Final = (
    "full_every",
    "limit_rate",
    "listing_entries",
    "listing_growth",
    "missing_count",
    "missing_percent",
    "surge_count",
    "surge_percent",
)
"""The options of `collect` that can differ between sources."""

SOURCE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}"
"""A source's name, as a regular expression. Together with the instance's name it must be a valid instance name."""

_NAME: Final = re.compile(SOURCE_NAME)
_LIKE_AN_ID: Final = re.compile(r"[0-9a-fA-F]{8,}")
_GLOBAL: Final = {option.field: option for option in GLOBAL_OPTIONS}


class SourceTable(Struct, frozen=True, kw_only=True):
    """One table [source.NAME]. `values` spells the names of options with underscores."""

    name: str
    values: Mapping[str, object]

    __repr__ = repr_without("values")


def source_tables(file: ConfigFile | None) -> dict[str, SourceTable]:
    """Return the sources of a configuration file by name, in the file's order; empty without a file.

    Raises: UsageError, which names the table, for a name or an option that is not allowed there.
    """
    found, mistakes = _read_tables(file)
    if mistakes:
        raise UsageError(mistakes[0])
    return found


def _read_tables(file: ConfigFile | None) -> tuple[dict[str, SourceTable], list[str]]:
    """Return the sources, without names and options that are not allowed, and a sentence for each of those."""
    found: dict[str, SourceTable] = {}
    mistakes: list[str] = []
    for name, table in {} if file is None else file.sources.items():
        where = f"the configuration file {file.path}: [source.{name}]" if file is not None else ""
        if not _NAME.fullmatch(name) or _LIKE_AN_ID.fullmatch(name):
            mistakes.append(
                f"{where} is not a valid name of a source: use 1 to 31 letters, digits, dots, dashes or underscores, "
                f"begin with a letter or a digit, and do not let it look like an id"
            )
            continue
        if not isinstance(table, dict):
            mistakes.append(
                f"{where} is a value, not a table: write a table [source.{name}] with server-url and token-file"
            )
            continue
        values = {key.replace("-", "_"): value for key, value in table.items()}
        known = [*WHO, *HOW, *POLICY]
        for key in values:
            if key not in known:
                close = get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0].replace('_', '-')}?" if close else ""
                shown = key.replace("_", "-")
                mistakes.append(f"{where} {shown} is not an option that a source can have{hint}")
        found[name] = SourceTable(name=name, values={key: value for key, value in values.items() if key in known})
    return found, mistakes


def chosen_tables(file: ConfigFile | None, names: Sequence[str]) -> list[SourceTable]:
    """Return the tables of these sources, in the file's order; all tables if no name is given.

    Raises: UsageError if a name has no table.
    """
    tables = source_tables(file)
    for name in names:
        if name not in tables:
            there = f"it has {', '.join(tables)}" if tables else "it has none"
            where = "there is no configuration file" if file is None else f"{file.path} has no table [source.{name}]"
            raise UsageError(f"--source {name}: {where}" + (f"; {there}" if file is not None else ""))
    return [table for name, table in tables.items() if not names or name in names]


def settings_for(
    table: SourceTable, flags: Mapping[str, object], environ: Mapping[str, str], file: ConfigFile
) -> Settings:
    """Return the settings of one source: flag before environment before its table before the rest of the file.

    Its collector works under its own instance name, INSTANCE.NAME. A token that a service manager passed to this
    process as a credential beats the one in the file.

    Raises: UsageError, also if a flag or a variable names a server or a token.
    """
    for option in (_GLOBAL[name] for name in WHO):
        given = option.flag if option.field in flags else option.env if environ.get(option.env) else None
        if given is not None:
            raise UsageError(
                f"{given} names one server or token, and {file.path} names its sources in tables: leave {given} out, or"
                " collect with another --config"
            )
    own = {name: value for name, value in table.values.items() if name in _GLOBAL}
    # A token in the table replaces one above all tables, whether each is given directly or as a file.
    hidden = {"token", "token_file"} if {"token", "token_file"} & own.keys() else set()
    values = {name: value for name, value in file.values.items() if name not in hidden} | own
    settings = resolve(flags, environ, replace(file, values=values))
    credential = _credential(table.name, environ)
    if credential is not None:
        settings = replace(settings, token_given=None, token_file=credential)
    return replace(settings, instance_name=f"{settings.instance_name}.{table.name}")


def settings_of_sources(file: ConfigFile) -> Iterator[Settings]:
    """Yield each source's settings in the file. Those that `mistakes_in_sources` reports as wrong are left out."""
    for table in _read_tables(file)[0].values():
        if not {"token", "token_file"} <= table.values.keys():
            with suppress(UsageError):
                yield settings_for(table, {}, {}, file)


def refuse_doubles(tables: Sequence[SourceTable], file: ConfigFile) -> None:
    """Refuse two tables with the same token: a token is one source, and two collectors would each claim its address.

    Unreadable token files are left to the collectors of their sources. Raises: UsageError, which names both tables.
    """
    names: dict[str, str] = {}
    for table in tables:
        try:
            token = settings_for(table, {}, {}, file).token
        except UsageError:
            continue
        other = table.name if token is None else names.setdefault(token.reveal(), table.name)
        if other != table.name:
            raise UsageError(
                f"the configuration file {file.path}: [source.{other}] and [source.{table.name}] have the same token, "
                "and each token is one source: remove one of the tables, or give it a token of its own"
            )


def credential_of(name: str) -> str:
    """Return the name of the systemd credential that holds a source's token."""
    return f"{name}.token"


def _credential(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file in which a service manager passed a source's token to this process, None if there is none."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    file = None if not folder else Path(folder, credential_of(name))
    return file if file is not None and file.is_file() else None


def policy_for(table: SourceTable, ctx: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `collect` for one source: flag before environment before its table before [collect].

    `ctx` is the context of `collect`. Raises: UsageError if the option does not accept a value.
    """
    given = {click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT}
    found = dict(options)
    for param in ctx.command.params:
        key, name = option_name(param) if isinstance(param, click.Option) else "", param.name or ""
        if key in POLICY and key in table.values and ctx.get_parameter_source(name) not in given:
            wrong = _wrong(param, table.values[key])
            if wrong is not None:
                raise UsageError(f"[source.{table.name}] {key.replace('_', '-')}: {wrong}")
            found[name] = param.type.convert(table.values[key], param, ctx)
    return found


def mistakes_in_sources(collect: click.Command, file: ConfigFile) -> Iterator[str]:
    """Yield a sentence for each mistake in the tables of sources. `collect` is the command of that name."""
    tables, found = _read_tables(file)
    yield from found
    params = {option_name(each): each for each in collect.params if isinstance(each, click.Option)}
    for table in tables.values():
        where = f"the configuration file {file.path}: [source.{table.name}]"
        for key, value in table.values.items():
            wrong = _wrong(params.get(key), value)
            if wrong is not None:
                yield f"{where} {key.replace('_', '-')}: {wrong}"
        if "server_url" not in {*table.values, *file.values}:
            yield f"{where} names no server: add server-url"
        elif (wrong := _wrong_url(table.values.get("server_url"))) is not None:
            yield f"{where} server-url: {wrong}"
        if {"token", "token_file"} <= table.values.keys():
            yield f"{where} has both token and token-file: use only one of them"
        if not {"token", "token_file"} & {*table.values, *file.values}:
            yield f"{where} names no token: add token-file"
    try:
        refuse_doubles(list(tables.values()), file)
    except UsageError as error:
        yield str(error)
    yield from _shared_ping(tables, file)


def _shared_ping(tables: Iterable[str], file: ConfigFile) -> Iterator[str]:
    """Yield a sentence if several sources share a ping-url, because a good round would hide another's failed round."""
    if file.notify is None:
        return
    addresses: dict[str, str] = {}
    for name in tables:
        address = file.notify.targets("collect", name).ping_url
        other = name if address is None else addresses.setdefault(address, name)
        if other != name:
            yield (
                f"the configuration file {file.path}: [notify] has one ping-url for the sources {other} and {name}, so "
                f"a good round of one hides a failed round of the other: write {{source}} into it, or add a table "
                f"[notify.source.{name}] with a ping-url"
            )
            return


def _wrong_url(value: object) -> str | None:
    """Return what is wrong with a server's address, None if it is valid or not given."""
    try:
        if value is not None:
            checked_base_url(str(value).strip())
    except UsageError as error:
        return str(error)
    return None


def _wrong(param: click.Parameter | None, value: object) -> str | None:
    """Return what is wrong with a value, None if it is valid. Without a parameter, `collect` has no such option."""
    return expected(param, value) if isinstance(param, click.Option) else "this version has no such option"
