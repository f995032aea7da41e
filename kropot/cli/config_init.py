"""`kropotcli config init`: writes a configuration file, from answers or as an example."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Final

import click

from kropot.cli.base import Settings, command, emit_json, say
from kropot.cli.output import emit, is_terminal
from kropot.cli.paths import PATH
from kropot.cli.settings import default_config_path
from kropot.cli.source_tables import SOURCE_NAME
from kropot.errors import UsageError
from kropot.securecopy.address import checked_base_url
from kropot.user_folders import expanded

EXAMPLE: Final = """\
# KropotCLI's configuration. `kropotcli config check` checks it, `kropotcli config show` shows the values in effect.
# A flag beats the environment, the environment beats this file. Paths that begin with ~ are in your home.

# The replica: the ledger (what happened) and the storage (the encrypted copies).
db-string = "sqlite:////var/lib/kropotcli/ledger.db"    # or postgresql://user@host/name
storage-path = "/var/lib/kropotcli/storage"

# For all sources, unless a source says otherwise. 90s, 5m, 36h, 7d; a number alone is in seconds.
refresh-time = "5m"

# One table for each source. `collect` collects from all of them, `collect --source web` from one.
# The token is in a file of its own, with mode 0600.
[source.web]
server-url = "https://files.example.org"
token-file = "/etc/kropotcli/web.token"

# [source.mail]
# server-url = "https://mail.example.org"
# token-file = "/etc/kropotcli/mail.token"
# refresh-time = "1h"
# ca-file = "/etc/kropotcli/mail-ca.pem"
# full-every = "7d"          # any of the options of `collect` about listings
# missing-percent = 5

# Options of one command: see `kropotcli COMMAND --help`.
[collect]
min-free = "5GiB"

[verify]
# budget = "2h"

[status]
# max-audit-days = "30d"
"""

_NAME: Final = re.compile(SOURCE_NAME)


@command("init")
@click.argument("file", metavar="[FILE]", type=PATH, required=False)
@click.option("--example", is_flag=True, help="Print an example file with explanations instead, and ask nothing.")
def init(settings: Settings, *, file: Path | None, example: bool) -> None:
    """Write the configuration file FILE: ask for a server, its token and the place of the replica.

    Without FILE it is config.toml in your configuration folder, where all commands look for it. An existing file is not
    changed. The token is stored in a separate file beside it. Only you can read the two files.

    With --example, nothing is asked or written. Redirect the output to a file, and edit that.
    """
    if example:
        emit(EXAMPLE.rstrip("\n"))
        return
    path = default_config_path() if file is None else expanded(file)
    if path is None:
        raise UsageError("this user has no home for a configuration file: name a FILE to write")
    path = path.absolute()
    if os.path.lexists(path):
        raise UsageError(f"{path} exists and was not changed: edit it, or name another FILE")
    if not is_terminal(sys.stdin):
        raise UsageError(
            "there is no terminal to ask on: run `kropotcli config init --example > FILE` and edit the file"
        )
    text, token_file, token = _asked(path)
    _write(path, text, token_file, token)
    if settings.json:
        emit_json("config_written", {"file": str(path), "token_file": str(token_file)})
        return
    say(f"wrote {path} and {token_file}")
    hint = "" if path == default_config_path() else f" --config {path}"
    say(f"next: kropotcli{hint} collect --once")


def _asked(path: Path) -> tuple[str, Path, str]:
    """Ask for everything; return the file's text, and the token's file and content."""
    say(f"This writes {path}. Press Enter to accept the value in brackets.")
    url = _ask("Address of the server, e.g. https://files.example.org", kind=checked_base_url)
    token = _ask("Its token (it is not shown)", kind=_token, is_hidden=True)
    name = _ask("A short name for this source", default="main", kind=_source_name)
    folder = expanded(Path(_ask("Folder for the replica", default=str(Path.home() / "kropotcli")))).absolute()
    token_file = path.with_name(f"{name}.token")
    lines = [
        f"db-string = {_quoted(f'sqlite:///{folder}/ledger.db')}",
        f"storage-path = {_quoted(str(folder / 'storage'))}",
        'refresh-time = "5m"',
        "",
        f"[source.{_quoted(name) if '.' in name else name}]",
        f"server-url = {_quoted(url)}",
        f"token-file = {_quoted(str(token_file))}",
    ]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return "\n".join(lines) + "\n", token_file, token


def _ask(question: str, *, default: str | None = None, kind: Any = str, is_hidden: bool = False) -> str:
    """Ask until the answer is one that `kind` accepts."""

    def checked(text: str) -> str:
        try:
            return str(kind(text.strip()))
        except UsageError as error:
            raise click.BadParameter(str(error)) from None

    answer: str = click.prompt(question, default=default, value_proc=checked, hide_input=is_hidden, err=True)
    return answer


def _token(text: str) -> str:
    if not text or not (text.isascii() and text.isprintable()) or " " in text:
        raise UsageError("a token is one word of ASCII characters")
    return text


def _source_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise UsageError("use 1 to 31 letters, digits, dots, dashes or underscores, and begin with a letter or a digit")
    return text


def _quoted(text: str) -> str:
    """Return a text as a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _write(path: Path, text: str, token_file: Path, token: str) -> None:
    """Write both files, with mode 0600; the token first, because the other one names it."""
    from kropot.durable.newfile import write_new

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.path.lexists(token_file):
        raise UsageError(f"{token_file} exists and was not changed: remove it, or choose another name for the source")
    write_new(token_file, f"{token}\n".encode())
    write_new(path, text.encode())
