"""The global options, and the search for their values: in a flag, the environment, a file, or the default."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct, field
from msgspec.structs import replace

from kropot.cli.paths import PATH, STORAGE, read_named
from kropot.cli.sizes import SPAN, span_of
from kropot.errors import UsageError
from kropot.secret import Secret, credentials_in, guard, guard_credentials, repr_without, shown_url
from kropot.securecopy.address import checked_base_url, is_user_agent, sends_token_in_clear
from kropot.user_folders import config_folder, expanded, is_credential

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kropot.notify.rules import NotifyRules
    from kropot.objects.stores.address import StorageAddress

ENV_PREFIX: Final = "KROPOT"
LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS: Final = ("console", "json")

_MOST_DAYS: Final = 36_500

_LONGEST_TOKEN: Final = 8192
"""No server accepts a longer header, so a longer file is not a token file."""


class GlobalOption(Struct, frozen=True, kw_only=True):
    """An option that every command accepts, before or after its name. `name` is its long flag without the dashes."""

    name: str
    help: str
    kind: click.ParamType[Any, Any]
    default: object = None
    is_flag: bool = False
    metavar: str | None = None

    @property
    def field(self) -> str:
        """The name as an identifier."""
        return self.name.replace("-", "_")

    @property
    def flag(self) -> str:
        """The name as a user types it."""
        return f"--{self.name}"

    @property
    def env(self) -> str:
        """The environment variable that sets it."""
        return f"{ENV_PREFIX}_{self.field.upper()}"


_OTHER_NAMES: Final = {"warn": "warning", "fatal": "critical"}
"""Other names of two levels, which Python and the first client use."""


class LogLevel(click.Choice[str]):
    """A log level, by any of its names."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the level's name. Raises: click.BadParameter."""
        return super().convert(_OTHER_NAMES.get(str(value).lower(), value), param, ctx)


_LEVEL = LogLevel(LOG_LEVELS, case_sensitive=False)
_FORMAT = click.Choice(LOG_FORMATS, case_sensitive=False)

CONFIG: Final = GlobalOption(
    name="config",
    kind=PATH,
    metavar="FILE",
    help="A TOML file with options. Default: config.toml in your configuration folder.",
)

GLOBAL_OPTIONS: Final[tuple[GlobalOption, ...]] = (
    CONFIG,
    GlobalOption(
        name="token",
        kind=click.STRING,
        metavar="TOKEN",
        help="The access token for the server. Other users can see your command line, so --token-file is safer.",
    ),
    GlobalOption(name="token-file", kind=PATH, metavar="FILE", help="The file that holds the token and nothing else."),
    GlobalOption(
        name="server-url",
        kind=click.STRING,
        metavar="URL",
        help="The address of the server to pull from, e.g. https://files.example.org.",
    ),
    GlobalOption(
        name="storage-path",
        kind=STORAGE,
        default=Path("storage"),
        metavar="PLACE",
        help="The storage, which holds the copies: a folder, s3://BUCKET/PREFIX or sftp://USER@HOST/PATH.",
    ),
    GlobalOption(
        name="db-string",
        kind=click.STRING,
        default="sqlite:///database.db",
        metavar="URL",
        help="The database that holds the ledger, as an SQLAlchemy URL.",
    ),
    GlobalOption(
        name="instance-name",
        kind=click.STRING,
        default="main",
        metavar="NAME",
        help="The name of this collector. Collectors that run at the same time must have different names.",
    ),
    GlobalOption(name="log-level", kind=_LEVEL, default="info", help="Show log lines of this level and above."),
    GlobalOption(
        name="refresh-time",
        kind=SPAN,
        default=300,
        metavar="SPAN",
        help="How long to wait between two listings, e.g. 5m. 0 lists again at once.",
    ),
    GlobalOption(
        name="http-timeout",
        kind=span_of("s", least=1),
        default=7200,
        metavar="SPAN",
        help="The longest silence of the server, at any time. A transfer can take as long as it needs.",
    ),
    GlobalOption(
        name="silence-timeout",
        kind=span_of("s", least=1),
        metavar="SPAN",
        help="The longest silence within an answer. [default: 2m for lists, 5m for contents]",
    ),
    GlobalOption(
        name="ca-file",
        kind=PATH,
        metavar="FILE",
        help="A PEM file with certificate authorities. They replace the system's.",
    ),
    GlobalOption(
        name="user-agent",
        kind=click.STRING,
        metavar="TEXT",
        help="The User-Agent of every request, for tokens that are valid for some only. Default: kropotcli/VERSION.",
    ),
    GlobalOption(name="log-format", kind=_FORMAT, default="console", help="The format of log lines on stderr."),
    GlobalOption(
        name="quiet",
        kind=click.BOOL,
        default=False,
        is_flag=True,
        help="Print nothing while all is well: no progress, messages or summary. Findings and warnings are printed.",
    ),
    GlobalOption(name="json", kind=click.BOOL, default=False, is_flag=True, help="Print results as JSON on stdout."),
)


class ConfigFile(Struct, frozen=True, kw_only=True):
    """A configuration file. `values` holds the global options, `tables` holds the options of single commands.

    Both spell all names with underscores, however the file spells them. `is_confidential` says whether the file holds a
    token, a password or a table [notify]. `sources` holds the tables [source.NAME] as written (`source_tables.py`).
    `retention` is the policy as written, None without one. `lock_days` is from the table [storage]. `mistakes` has a
    sentence for each mistake outside the tables of commands and sources, and `resolve` refuses a file with mistakes.
    """

    path: Path
    values: Mapping[str, object]
    tables: Mapping[str, Mapping[str, Any]]
    is_confidential: bool = False
    sources: Mapping[str, object] = field(default_factory=dict)
    retention: Mapping[str, object] | None = None
    notify: NotifyRules | None = None
    lock_days: int | None = None
    mistakes: Sequence[str] = ()

    __repr__ = repr_without("values", "tables", "sources", "notify")


class SettingValue(Struct, frozen=True, kw_only=True):
    """A value and its origin. `rank` is 3 for a flag, 2 for the environment, 1 for a file, 0 for the default."""

    value: Any
    rank: int
    origin: str

    __repr__ = repr_without("value")


class Settings(Struct, frozen=True, kw_only=True):
    """The values of all global options. Times are in seconds. `origins` says where each value came from."""

    token_given: Secret | None = None
    token_file: Path | None = None
    server_url: str | None = None
    storage_path: StorageAddress = Path("storage")
    db_string: str = "sqlite:///database.db"
    instance_name: str = "main"
    log_level: str = "info"
    refresh_time: int = 300
    http_timeout: int = 7200
    silence_timeout: int | None = None
    ca_file: Path | None = None
    user_agent: str | None = None
    log_format: str = "console"
    quiet: bool = False
    json: bool = False
    config: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    _read: list[Secret] = field(default_factory=list)

    __repr__ = repr_without("db_string", "_read")

    @property
    def heard_level(self) -> str:
        """The lowest level of log lines to show. With --quiet, this is at least warning."""
        return "warning" if self.quiet and self.log_level in {"debug", "info"} else self.log_level

    @property
    def token(self) -> Secret | None:
        """Return the token. Only this examines it, so a command that needs no token also runs with a wrong one.

        The file is read only once, because a pipe, such as `--token-file <(pass show kropot)`, can be read only once.

        Raises: UsageError if two places give a token, or if the given text, or the file, is not a token.
        """
        if self.token_given is not None and self.token_file is not None:
            first, second = self.origins["token"], self.origins["token_file"]
            raise UsageError(f"both {first} and {second} give a token: use only one of them")
        if self.token_given is not None:
            _checked_token(self.token_given.reveal(), self.origins.get("token", "the token"))
            return self.token_given
        if not self._read and self.token_file is not None:
            self._read.append(read_token(self.token_file))
        return self._read[0] if self._read else None

    def need_token(self) -> Secret:
        """Return the token. Raises: UsageError if none was given."""
        token = self.token
        if token is None:
            raise UsageError(
                "no token was given: put the token into a file that only you can read, and name the file with "
                "--token-file or KROPOT_TOKEN_FILE"
            )
        return token

    def need_server_url(self) -> str:
        """Return the server's address without a trailing slash. Raises: UsageError if none was given."""
        if self.server_url is None:
            raise UsageError(
                "no server was given: name it with --server-url or KROPOT_SERVER_URL, e.g. https://files.example.org"
            )
        return self.server_url

    @property
    def place(self) -> str:
        """The database's address without its credentials, for messages."""
        return shown_url(self.db_string)

    @property
    def is_exposed(self) -> bool:
        """Whether the token and the listings would cross a network unencrypted."""
        return self.server_url is not None and sends_token_in_clear(self.server_url)


def default_config_path() -> Path | None:
    """Return the path of the default configuration file, None if the user has no home."""
    folder = config_folder()
    return None if folder is None else folder / "config.toml"


def read_config(path: Path) -> ConfigFile:
    """Read a configuration file. Its top-level keys are global options. Its tables hold options of single commands.

    Mistakes in it are reported in `mistakes`. Raises: UsageError if the file cannot be read or is not TOML.
    """
    content = read_named("the configuration file", path)
    try:
        data = tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise UsageError(
            f"the configuration file {path} is not valid TOML (it is nested too deeply): correct the file"
        ) from None
    except ValueError as error:  # not TOML, not UTF-8, or a number with more digits than Python accepts
        raise UsageError(f"the configuration file {path} is not valid TOML ({error}): correct the file") from error
    mistakes: list[str] = []
    special: dict[str, dict[str, Any] | None] = {}
    for name, shown in {"source": "source.NAME", "retention": "retention", "notify": "notify"}.items():
        table = data.pop(name, None)
        special[name] = table if isinstance(table, dict) else None
        if table is not None and special[name] is None:
            mistakes.append(f"the configuration file {path} gives {name} a value: write a table [{shown}]")
    sources = special["source"] or {}
    notify = _notify_rules(path, special["notify"], mistakes)
    spelt = _underscored(data)
    lock_days = _lock_days(path, spelt, mistakes)
    known = {option.field for option in GLOBAL_OPTIONS if option is not CONFIG}
    values = {name: value for name, value in spelt.items() if not isinstance(value, dict)}
    mistakes += [
        f"the configuration file {path} has an unknown option {name.replace('_', '-')!r}: "
        "correct or remove it (see `kropotcli --help`)"
        for name in values
        if name not in known
    ]
    tokens = [each.get("token") for each in (values, *sources.values()) if isinstance(each, dict) and "token" in each]
    for token in tokens:
        guard(str(token))
    texts = [*_texts(spelt), *_texts(sources)]
    for text in texts:
        guard_credentials(text)
    return ConfigFile(
        path=path,
        values=values,
        tables={name: value for name, value in spelt.items() if isinstance(value, dict)},
        is_confidential=bool(tokens) or notify is not None or any(map(credentials_in, texts)),
        sources=sources,
        retention=special["retention"],
        notify=notify,
        lock_days=lock_days,
        mistakes=mistakes,
    )


def _lock_days(path: Path, spelt: Mapping[str, Any], mistakes: list[str]) -> int | None:
    """Remove `lock-days` from the table [storage], and return it, None if missing. Add a mistake to `mistakes`."""
    table = spelt.get("storage")
    if not isinstance(table, dict) or "lock_days" not in table:
        return None
    days = table.pop("lock_days")
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= _MOST_DAYS:
        mistakes.append(
            f"the configuration file {path}: [storage] lock-days is {days!r}: write the bucket's default retention in "
            f"days, a whole number from 1 to {_MOST_DAYS}"
        )
        return None
    return days


def _notify_rules(path: Path, table: Mapping[str, Any] | None, mistakes: list[str]) -> NotifyRules | None:
    """Return the rules in the table [notify], None without the table. Add its mistakes to `mistakes`."""
    if table is None:
        return None
    from kropot.notify.rules import parse_notify

    rules, found = parse_notify(table)
    mistakes += [f"the configuration file {path}: {each}" for each in found]
    return rules


def find_config(given: Path | None, environ: Mapping[str, str]) -> ConfigFile | None:
    """Read the file that a flag or the environment names, else the one in the user's configuration folder, if any."""
    named = given or (Path(environ[CONFIG.env]) if environ.get(CONFIG.env) else None)
    if named is not None:
        return read_config(expanded(named))
    usual = default_config_path()
    return read_config(usual) if usual is not None and usual.is_file() else None


def resolve(flags: Mapping[str, object], environ: Mapping[str, str], file: ConfigFile | None) -> Settings:
    """Return the values of all global options: flag before environment before file before default.

    `flags` maps identifiers to values that click has converted. An empty environment variable counts as not set.
    Raises: UsageError, which names the origin of a value that is not valid, or the first mistake of the file.
    """
    settings, mistakes = resolve_valid(flags, environ, file)
    if mistakes:
        raise first_of(mistakes)
    return settings


def first_of(mistakes: Sequence[str]) -> UsageError:
    """Return an error with the first mistake, and a hint how to see the others."""
    more = f"; `kropotcli config check` names all {len(mistakes)} mistakes" if len(mistakes) > 1 else ""
    return UsageError(mistakes[0] + more)


def resolve_valid(
    flags: Mapping[str, object], environ: Mapping[str, str], file: ConfigFile | None
) -> tuple[Settings, list[str]]:
    """Return the same as `resolve`, but with defaults for invalid values, and a sentence for each mistake."""
    mistakes = [] if file is None else [*file.mistakes]
    found = {option.field: _valid(option, flags, environ, file, mistakes) for option in GLOBAL_OPTIONS}
    token, token_file = found["token"], found["token_file"]
    by_value = token.value is not None and token.rank >= token_file.rank
    by_file = token_file.value is not None and token_file.rank >= token.rank
    origins = {name: each.origin for name, each in found.items()}
    if file is not None and found["config"].value is None:
        origins["config"] = "user's configuration folder"
    values = {name: each.value for name, each in found.items() if name not in {"token", "token_file", "config"}}
    if isinstance(values["storage_path"], Path):
        values["storage_path"] = expanded(values["storage_path"])
    if file is not None and file.lock_days is not None:
        try:
            values["storage_path"] = _locked(values["storage_path"], file.lock_days, file.path)
        except UsageError as error:
            mistakes.append(str(error))
    settings = Settings(
        token_given=Secret(token.value) if by_value else None,
        token_file=expanded(token_file.value) if by_file else None,
        config=None if file is None else file.path,
        origins=origins,
        **values,
    )
    return settings, mistakes


def _locked(address: StorageAddress, days: int, path: Path) -> StorageAddress:
    """Return the address of a bucket, with these days for its locks. Raises: UsageError if it is not a bucket."""
    from kropot.objects.stores.address import BucketAddress

    if not isinstance(address, BucketAddress):
        raise UsageError(
            f"the configuration file {path} sets [storage] lock-days, but {address} is not a bucket, and only an s3:// "
            "storage can lock what is written: remove the line, or give this storage a file of its own with --config"
        )
    return replace(address, lock_days=days)


def read_token(path: Path) -> Secret:
    """Read a token from a file, without surrounding white space. Raises: UsageError if the file holds no token."""
    data = read_named("the token file", path, _LONGEST_TOKEN + 1)
    if len(data) > _LONGEST_TOKEN:
        raise UsageError(
            f"the token file {path} has more than {_LONGEST_TOKEN} bytes, so it is not a token: name another file"
        )
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"the token file {path} is not a text file: put only the token into it") from error
    return Secret(_checked_token(text, f"the token file {path}"))


def is_readable_by_others(path: Path) -> bool:
    """Return whether users other than the owner can read the file. False for credentials, or if its mode is unknown."""
    if is_credential(path):
        return False
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return os.name == "posix" and bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def _valid(
    option: GlobalOption,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    file: ConfigFile | None,
    mistakes: list[str],
) -> SettingValue:
    """Return the option's value. If it is not valid, add a sentence to `mistakes`, and return the default."""
    try:
        found = _find(option, flags, environ, file)
        match option.field:
            case "server_url" if found.value is not None:
                return replace(found, value=_checked_url(found))
            case "instance_name":
                _checked_name(found)
            case "user_agent" if found.value is not None:
                _checked_agent(found)
    except UsageError as error:
        mistakes.append(str(error))
        return SettingValue(value=option.default, rank=0, origin="default")
    return found


def _find(
    option: GlobalOption,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    file: ConfigFile | None,
) -> SettingValue:
    """Return the option's value from the highest-ranking place that has one."""
    if option.field in flags:
        return SettingValue(value=flags[option.field], rank=3, origin=option.flag)
    if environ.get(option.env):
        text = environ[option.env]
        return SettingValue(value=_converted(option, text, option.env), rank=2, origin=option.env)
    if file is not None and option.field in file.values:
        origin = f"{option.name} in {file.path}"
        return SettingValue(value=_converted(option, file.values[option.field], origin), rank=1, origin=origin)
    return SettingValue(value=option.default, rank=0, origin="default")


def _converted(option: GlobalOption, value: object, origin: str) -> Any:
    """Return the value as the option's type. Raises: UsageError if it cannot be converted."""
    if isinstance(value, bool) and not option.is_flag:
        raise UsageError(f"{origin} is {str(value).lower()}, but this option is not a switch: give it a value")
    if isinstance(value, list):
        raise UsageError(f"{origin} is a list, but this option takes one value: write the value alone")
    try:
        return option.kind.convert(value if isinstance(value, (str, int)) else str(value), None, None)
    except click.BadParameter as error:
        raise UsageError(f"{origin}: {error.message}") from error


def _checked_token(text: str, origin: str) -> str:
    """Return the token if a header can carry it. Raises: UsageError if not, or if it looks like a kit."""
    if not text:
        raise UsageError(f"{origin} is empty: put the token there")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise UsageError(f"{origin} is not a token, which is one word of ASCII characters: put only the token there")
    if text.startswith("{") and text.endswith("}"):
        # A kit looks like this, and a server that received it as a token could open every copy.
        raise UsageError(
            f"{origin} is JSON like a kit, not a token: put only the token there, and never send a kit to anybody"
        )
    return text


def _checked_url(found: SettingValue) -> str:
    """Return the server's address without a trailing slash. Raises: UsageError if it is not valid."""
    text = str(found.value).strip()
    try:
        return checked_base_url(text)
    except UsageError as error:
        raise UsageError(f"{found.origin}: {error}") from None


def _checked_name(found: SettingValue) -> None:
    """Refuse an instance name that is not a safe folder name. Raises: UsageError."""
    name = str(found.value)
    if not name or len(name) > 64 or name in {".", ".."} or not all(c.isalnum() or c in "._-" for c in name):  # noqa: PLR2004 - the next line explains the limit
        raise UsageError(
            f"{found.origin} is not a valid name: give 1 to 64 letters, digits, dots, dashes or underscores"
        )


def _checked_agent(found: SettingValue) -> None:
    """Refuse a user agent that no header can carry. Raises: UsageError."""
    if not is_user_agent(found.value):
        raise UsageError(f"{found.origin} is not a user agent: give printable ASCII, e.g. backup/1.0")


def _underscored(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping with underscores in all keys, also in tables."""
    return {
        name.replace("-", "_"): _underscored(value) if isinstance(value, dict) else value
        for name, value in data.items()
    }


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a decoded value, at any depth."""
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from _texts(each)
        case list():
            for each in value:
                yield from _texts(each)
        case _:
            pass
