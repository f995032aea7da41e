"""What all commands share: the click classes, the settings, and access to the ledger, the storage and the server.

A command is a function. It takes the settings and its own parameters, and returns its exit code (None means 0):

    @command("ls")
    @click.option("--failing", is_flag=True, help="Show only elements whose last fetch failed.")
    def command_(settings: Settings, *, failing: bool) -> Exit | None: ...
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.calls import calls_about
from kropot.cli.config_check import expected, option_name, unknown_variables
from kropot.cli.help_text import EXAMPLES
from kropot.cli.output import (
    be_quiet,
    configure_logging,
    emit,
    emit_document,
    emit_json,
    emit_summary,
    expect_results,
    say,
    warn,
)
from kropot.cli.settings import (
    CONFIG,
    ENV_PREFIX,
    GLOBAL_OPTIONS,
    ConfigFile,
    Settings,
    find_config,
    first_of,
    is_readable_by_others,
    read_config,
    resolve_valid,
)
from kropot.errors import Exit, UsageError
from kropot.secret import Secret, credentials_in, guard_credentials
from kropot.user_folders import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from kropot.collect.service import CollectOptions
    from kropot.further.joining import Surroundings
    from kropot.objects.opening import Storage
    from kropot.securecopy.client import ServerAccess
    from ledger.log import Ledger

__all__ = [
    "MISSING_GUARDS",
    "Exit",
    "KropotCommand",
    "KropotGroup",
    "Secret",
    "Settings",
    "collect_options",
    "command",
    "config_file_of",
    "emit",
    "emit_document",
    "emit_json",
    "emit_summary",
    "flags_of",
    "group",
    "open_ledger",
    "own_options",
    "say",
    "server_of",
    "storage_of",
    "surroundings_of",
    "warn",
    "warn_if_exposed",
    "warn_of_frozen_time",
    "warn_unguarded",
]

MISSING_GUARDS = (
    'docs/operations.md, "Servers with a binary log", names the right or setting that this user needs; then run '
    "`kropotcli db upgrade`"
)
_FLAGS = "kropot.flags"
_FILE = "kropot.file"
_UNKNOWN = "kropot.unknown"
_IS_EXPOSED = "kropot.is_exposed"


class GlobalOptions(click.Command):
    """A mixin for commands and groups. It accepts the global options anywhere on the command line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add the global options after the command's own. A command's own option replaces a global one of that name."""
        super().__init__(*args, **kwargs)
        taken = {flag for param in self.params for flag in param.opts}
        self.params.extend(_as_click(option.field) for option in GLOBAL_OPTIONS if option.flag not in taken)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options. Only the root lists the global options; other commands refer to it."""
        options = own_options(self, is_root=ctx.parent is None, and_help=self.get_help_option(ctx))
        records = [record for param in options if (record := param.get_help_record(ctx)) is not None]
        with formatter.section("Options"):
            formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        example = EXAMPLES.get(" ".join(_path(ctx)))
        if example is not None:
            with formatter.section("Example"):
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        if ctx.parent is not None:
            formatter.write_paragraph()
            formatter.write_text(
                f"This command also accepts the global options, which `{ctx.find_root().info_name} --help` lists."
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and note unknown names in the tables of the configuration file.

        Environment variables and file entries are named after an option's flag, not after its parameter. Every
        credential on the command line or in the environment is hidden from here on.
        """
        if ctx.parent is None:
            for text in (*args, *(value for name, value in os.environ.items() if name.startswith(ENV_PREFIX))):
                guard_credentials(text)
            ctx.meta[_IS_EXPOSED] = any(map(credentials_in, args))
        for param in self.params:
            if isinstance(param, click.Option) and not isinstance(param, GlobalClickOption) and param.envvar is None:
                param.envvar = f"{ctx.auto_envvar_prefix}_{option_name(param).upper()}"
        rest = super().parse_args(ctx, args)
        ctx.meta.setdefault(_UNKNOWN, []).extend(_unknown_names(self, ctx))
        return rest


class KropotCommand(GlobalOptions, click.Command):
    """A command whose function takes the settings first and returns the exit code.

    `beside` names another command. Its table in the file also applies to the options that both commands have.
    With `tells_mistakes`, the command runs despite mistakes in the global options and the file, and reports them.
    """

    def __init__(
        self, *args: Any, beside: tuple[str, ...] | None = None, tells_mistakes: bool = False, **kwargs: Any
    ) -> None:
        """Add the global options."""
        super().__init__(*args, **kwargs)
        self.beside = beside
        self.tells_mistakes = tells_mistakes

    def invoke(self, ctx: click.Context) -> Any:
        """Resolve the settings, set up logging, and run the command."""
        settings, mistakes = settings_of(ctx)
        mistakes = [*mistakes, *ctx.meta[_UNKNOWN]]
        if mistakes and not self.tells_mistakes:
            raise first_of(mistakes)
        configure_logging(settings.heard_level, settings.log_format)
        be_quiet(is_quiet=settings.quiet)
        expect_results(as_json=settings.json)
        if settings.origins.get("token") == "--token":
            warn("other users of this machine can read the token on the command line: use --token-file instead")
        if ctx.meta.get(_IS_EXPOSED):
            warn(
                "other users of this machine can read the password on the command line: use the configuration file, an "
                "environment variable, ~/.pgpass or a socket instead"
            )
        if settings.token_file is not None:
            warn_if_exposed("token file", settings.token_file)
        file: ConfigFile | None = ctx.meta.get(_FILE)
        if file is not None and file.is_confidential:
            warn_if_exposed("configuration file", file.path)
        root = ctx.find_root()
        if isinstance(root.command, click.Group):
            for sentence in unknown_variables(root.command, root, os.environ):
                warn(sentence)
        if self.callback is None:
            return None
        with calls_about(None if file is None else file.notify, _path(ctx), ctx.params) as ended:
            code = ctx.invoke(self.callback, settings, **ctx.params)
            ended(Exit.DONE if code is None else code)
        return code


class KropotGroup(GlobalOptions, click.Group):
    """A group of commands. By default its commands are `KropotCommand`s."""

    command_class = KropotCommand
    group_class = type


class GlobalClickOption(click.Option):
    """A global option for click. `settings_of` gets its value; the command's function does not."""


def own_options(command_: click.Command, *, is_root: bool, and_help: click.Option | None = None) -> list[click.Option]:
    """Return the options that a command's help lists: its own, and for the root the global ones too."""
    params = [*command_.params, *([] if and_help is None else [and_help])]
    return [
        param
        for param in params
        if isinstance(param, click.Option)
        and not param.hidden
        and (is_root or not isinstance(param, GlobalClickOption))
    ]


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Exit | None]], KropotCommand]:
    """Make a command from a function that takes the settings first. Click gets the `attributes`."""
    return click.command(name, cls=KropotCommand, **attributes)


def group(name: str, **attributes: Any) -> Callable[[Callable[..., None]], KropotGroup]:
    """Make a group of commands from a function that does nothing. Click gets the `attributes`."""
    return click.group(name, cls=KropotGroup, **attributes)


def settings_of(ctx: click.Context) -> tuple[Settings, list[str]]:
    """Return the settings of this run, and a sentence for each mistake in the global options and in the file."""
    return resolve_valid(flags_of(ctx), os.environ, config_file_of(ctx))


def warn_if_exposed(what: str, path: Path) -> None:
    """Warn if users other than the owner can read a file that holds a secret; `what` says which file it is."""
    if is_readable_by_others(path):
        warn(f"other users can read the {what} {path}: chmod 600 it")


def warn_unguarded() -> None:
    """Warn that nothing in the database guards the new ledger."""
    warn(
        "this database server writes a binary log and refuses triggers to this user, so the ledger has no triggers "
        f"that stop a careless UPDATE or DELETE: {MISSING_GUARDS}"
    )


def warn_of_frozen_time(recorded_us: int, clock_us: int) -> None:
    """Warn if the ledger's last event was recorded more than a day ahead of the clock."""
    from kropot.wording import moment
    from ledger.clock import DAY_US

    if recorded_us > clock_us + DAY_US:
        warn(
            f"the ledger's time has stopped at {moment(recorded_us)}, because a clock was once that far ahead (or this "
            "one is behind): nothing is lost, and collecting goes on; until then, --until needs a position (@N) "
            "instead of a time"
        )


def table_of(ctx: click.Context, path: Sequence[str]) -> Mapping[str, Any]:
    """Return the configuration file's table for the command at `path`. Its names are spelt with underscores.

    Raises: UsageError if the file has a value there instead of a table.
    """
    file: ConfigFile | None = ctx.meta.get(_FILE)
    table: Mapping[str, Any] = {} if file is None else file.tables
    for name in path:
        below = table.get(name.replace("-", "_"), {})
        if file is not None and not isinstance(below, dict):
            raise UsageError(
                f"the configuration file {file.path} gives {name!r} a value, but {name!r} is a command: "
                f"write a table [{name}] with its options"
            )
        table = below
    return table


@contextmanager
def open_ledger(
    settings: Settings, *, before_making: Callable[[], object] | None = None, read_only: bool = False
) -> Iterator[Ledger]:
    """Open the ledger that the settings name, and close it at the end of the block.

    If there is none, call `before_making`, which can still refuse, and then make the ledger.

    Raises: LedgerMissingError without `before_making`; ForeignDatabaseError, NewerLedgerError, LedgerUnavailableError.
    """
    from ledger.errors import LedgerMissingError
    from ledger.log import Ledger
    from ledger.sql import open_store

    try:
        store = open_store(settings.db_string, read_only=read_only)
    except LedgerMissingError:
        if before_making is None:
            raise
        before_making()
        store = open_store(settings.db_string, create=True)
    if not store.is_guarded:
        warn_unguarded()
    try:
        yield Ledger(store, writer=settings.instance_name)
    finally:
        store.close()


def storage_of(settings: Settings) -> Storage:
    """Return the storage that the settings name. This neither reads nor writes anything."""
    from kropot.objects.opening import open_store

    return open_store(settings.storage_path, settings.instance_name, ca_file=settings.ca_file)


def server_of(settings: Settings) -> ServerAccess:
    """Return how to reach the server. Warn if the token would cross a network unencrypted.

    Raises: UsageError if the address or the token is missing.
    """
    from kropot.securecopy.client import ServerAccess

    url, token = settings.need_server_url(), settings.need_token()
    if settings.is_exposed:
        warn(f"the connection to {url} is not encrypted, so others on the network can read the token: use https")
    return ServerAccess(
        url=url,
        token=token,
        ca_file=settings.ca_file,
        http_timeout=settings.http_timeout,
        user_agent=settings.user_agent,
        silence_timeout=settings.silence_timeout,
    )


def collect_options(settings: Settings, **options: Any) -> CollectOptions:
    """Return a collector's options, taken from the settings and the options of `collect`.

    Raises: UsageError if the server's address or the token is missing.
    """
    from kropot.collect.service import CollectOptions

    return CollectOptions(
        server=server_of(settings),
        storage=storage_of(settings),
        instance=settings.instance_name,
        refresh_time=settings.refresh_time,
        surroundings=surroundings_of(settings),
        **options,
    )


def surroundings_of(settings: Settings) -> Surroundings:
    """Return how to reach further storages, given the storage that the settings name."""
    from kropot.further.joining import Surroundings

    return Surroundings(first=settings.storage_path, ca_file=settings.ca_file)


def _as_click(field: str) -> GlobalClickOption:
    """Return the click option for the global option with this identifier."""
    option = next(each for each in GLOBAL_OPTIONS if each.field == field)
    shown = "" if option.default is None or option.is_flag else f"  [default: {option.default}]"
    return GlobalClickOption(
        [option.flag],
        type=option.kind,
        is_flag=option.is_flag,
        default=None,
        metavar=option.metavar,
        help=f"{option.help}{shown}",
        expose_value=False,
        is_eager=option is CONFIG,
        allow_from_autoenv=False,
        callback=_take_config if option is CONFIG else _take_flag,
    )


def _take_flag(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """Keep a value from the command line. A value after the command replaces one before it."""
    name = param.name or ""
    if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
        ctx.meta.setdefault(_FLAGS, {})[name] = value


def _take_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Read the configuration file before click handles other options, because the file supplies their defaults."""
    _take_flag(ctx, param, value)
    if value is not None and ctx.parent is not None:
        ctx.meta[_FILE] = read_config(expanded(value))
    elif ctx.parent is None:
        ctx.meta[_FILE] = find_config(value, os.environ)
    table: dict[str, Any] = {}
    for path in (getattr(ctx.command, "beside", None), _path(ctx)):
        if path is not None:
            part = table_of(ctx, path)
            _refuse_wrong_values(ctx, part, path)
            table |= part
    ctx.default_map = {
        param.name or "": table[option_name(param)]
        for param in ctx.command.params
        if isinstance(param, click.Option) and option_name(param) in table
    }


def _refuse_wrong_values(ctx: click.Context, table: Mapping[str, Any], path: Sequence[str]) -> None:
    """Refuse values of the table at `path` that are not what this command's options take. Raises: UsageError."""
    if ctx.resilient_parsing or ctx.parent is None:
        return
    for param in ctx.command.params:
        name = option_name(param) if isinstance(param, click.Option) else ""
        wrong = expected(param, table[name]) if isinstance(param, click.Option) and name in table else None
        if wrong is not None:
            raise UsageError(
                f"the configuration file {ctx.meta[_FILE].path}: [{'.'.join(path)}] {name.replace('_', '-')}: "
                f"{wrong}; `kropotcli config check` names all mistakes"
            )


def config_file_of(ctx: click.Context) -> ConfigFile | None:
    """Return the configuration file of this run, None if there is none."""
    file: ConfigFile | None = ctx.meta.get(_FILE)
    return file


def flags_of(ctx: click.Context) -> Mapping[str, object]:
    """Return the global options on the command line, by their identifiers."""
    flags: Mapping[str, object] = ctx.meta.get(_FLAGS, {})
    return flags


def _path(ctx: click.Context) -> list[str]:
    """Return the names of the commands that lead to this one, without the root."""
    names: list[str] = []
    at: click.Context | None = ctx
    while at is not None and at.parent is not None:
        names.insert(0, at.info_name or "")
        at = at.parent
    return names


def _unknown_names(command_: click.Command, ctx: click.Context) -> Iterator[str]:
    """Yield a sentence for each unknown name in this command's table of the configuration file. Raises: UsageError."""
    known = {option_name(param) for param in command_.params if isinstance(param, click.Option)}
    for name in command_.list_commands(ctx) if isinstance(command_, click.Group) else ():
        known.add(name.replace("-", "_"))
        table_of(ctx, (*_path(ctx), name))
    for name in table_of(ctx, _path(ctx)):
        if name not in known:
            file = ctx.meta[_FILE].path
            where = f"in the table of `{' '.join(_path(ctx))}`" if ctx.parent else "at the top level"
            yield (
                f"the configuration file {file} has an unknown name {name!r} {where}: "
                f"correct or remove it (see `{ctx.command_path} --help`)"
            )
