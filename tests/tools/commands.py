"""Prints docs/commands.md from the program's help: python tests/tools/commands.py > docs/commands.md.

A test compares the two, so every command and option is documented.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import click

from kropot.cli.base import GlobalClickOption, option_name
from kropot.cli.help_text import EXAMPLES
from kropot.cli.main import COMMANDS, EXIT_CODES, cli
from kropot.cli.settings import ENV_PREFIX, GLOBAL_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """# Commands

Every command and option of `kropotcli`. `python tests/tools/commands.py` writes this page from the program's help.

    kropotcli [OPTIONS] COMMAND [OPTIONS] [ARGS]

## Global options

Every command accepts these options, before or after its name. You can also set them in the environment or in a TOML
file. The file is the one that `--config` names, or `config.toml` in your configuration folder. A flag beats the
environment, the environment beats the file, and the file beats the default. `kropotcli config show` shows where each
value came from. Results go to stdout. Everything else goes to stderr.
"""

FILE_EXAMPLE = """
This is an example of a configuration file. The options of one command are in a table with its name:

```toml
server-url = "https://files.example.org"
token-file = "/etc/kropotcli/token"
db-string = "sqlite:////var/lib/kropotcli/ledger.db"
storage-path = "/var/lib/kropotcli/storage"
refresh-time = 300

[status]
max-audit-days = 90
```
"""


def page() -> str:
    """Return the whole page."""
    lines = [HEAD, "| option | environment | meaning |", "| --- | --- | --- |"]
    with click.Context(cli, info_name="kropotcli", auto_envvar_prefix=ENV_PREFIX) as ctx:
        for option in cli.params:
            if isinstance(option, GlobalClickOption):
                env = next(each.env for each in GLOBAL_OPTIONS if each.flag in option.opts)
                lines.append(f"| {_flags(option, ctx)} | `{env}` | {_cell(option.help)} |")
        lines += [FILE_EXAMPLE, "## Exit codes", "", "| code | meaning |", "| --- | --- |"]
        lines += [f"| {code} | {meaning} |" for code, meaning in _exit_codes()]
        lines += ["", "If several apply, 4 beats 1, and 1 beats 3.", ""]
        for name in COMMANDS:
            lines += _section(name, cli, ctx)
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, group: click.Group, parent: click.Context) -> Iterator[str]:
    """Yield the lines about a command and its subcommands."""
    command = group.get_command(parent, name)
    if command is None:
        raise LookupError(name)
    with click.Context(command, info_name=name, parent=parent) as ctx:
        yield f"## {ctx.command_path}"
        yield ""
        yield _prose(command.help)
        yield ""
        if isinstance(command, click.Group):
            for below in command.list_commands(ctx):
                yield from _section(below, command, ctx)
            return
        yield f"    {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}"
        yield ""
        yield f"Example: `{EXAMPLES[ctx.command_path.partition(' ')[2]]}`"
        yield ""
        own = [
            param
            for param in command.params
            if isinstance(param, click.Option) and not isinstance(param, GlobalClickOption) and not param.hidden
        ]
        if own:
            yield "| option | environment | meaning |"
            yield "| --- | --- | --- |"
            for param in own:
                yield f"| {_flags(param, ctx)} | `{_env(param, ctx)}` | {_cell(param.help)}{_default(param)} |"
            yield ""


def _prose(text: str | None) -> str:
    """Return a help text without click's marks. Lists stay lists; other text that is not wrapped becomes code."""
    return "\n\n".join(_paragraph(part) for part in inspect.cleandoc(text or "").split("\n\n"))


def _paragraph(part: str) -> str:
    """Return one paragraph of a help text as Markdown."""
    if not part.startswith("\b\n"):
        return part
    lines = part.removeprefix("\b\n")
    return lines if lines.startswith("- ") else f"```text\n{lines}\n```"


def _flags(param: click.Option, ctx: click.Context) -> str:
    """Return the option's flags and the placeholder for its value."""
    names = "`, `".join([*param.opts, *param.secondary_opts])
    value = "" if param.is_flag or param.count else f" {param.make_metavar(ctx)}"
    for plain in ("INTEGER RANGE", "FLOAT RANGE", "INTEGER", "FLOAT"):
        value = value.replace(plain, "NUMBER")
    return f"`{names}{value}`".replace("|", "\\|")


def _env(param: click.Option, ctx: click.Context) -> str:
    """Return the environment variable that sets the option."""
    return param.envvar if isinstance(param.envvar, str) else f"{ctx.auto_envvar_prefix}_{option_name(param).upper()}"


def _default(param: click.Option) -> str:
    """Return a sentence with the option's default, or nothing if the option is off or not set by default."""
    default = param.default
    if isinstance(default, bool) or not isinstance(default, int | float | str) or default == "":
        return ""
    return f" Default: `{default}`."


def _cell(text: str | None) -> str:
    """Return a help text as one line, for a cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def _exit_codes() -> Iterator[tuple[str, str]]:
    """Yield each code and its meaning from the program's help."""
    for line in EXIT_CODES.splitlines():
        code, _, meaning = line.strip().partition("  ")
        if code.isdigit():
            yield code, meaning.strip()


if __name__ == "__main__":
    sys.stdout.write(page())
