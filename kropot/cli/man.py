"""`kropotcli man`: manual pages, made from the same texts as `--help`."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Final

import click

from kropot.cli.base import GlobalOptions, Settings, emit, emit_json, own_options, say
from kropot.cli.base import command as define
from kropot.cli.help_text import EXAMPLES
from kropot.cli.paths import PATH
from kropot.errors import UsageError
from kropot.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


PROGRAM: Final = "kropotcli"
_CODE: Final = re.compile(r"`([^`]*)`")


@define("man")
@click.argument("name", metavar="[COMMAND]", required=False)
@click.option(
    "--to",
    "folder",
    type=PATH,
    metavar="DIR",
    help="Write all pages into this folder, e.g. ~/.local/share/man/man1, where `man kropotcli` finds them.",
)
def command(settings: Settings, *, name: str | None, folder: Path | None) -> None:
    """Print the manual page of a command, or write all pages into a folder.

    The page is in roff: `kropotcli man ls | man -l -` shows it.
    """
    from kropot.cli.main import COMMANDS, cli

    if folder is None:
        if name is not None and name not in COMMANDS:
            raise UsageError(f"there is no command {name!r}: `kropotcli --help` lists all commands")
        emit("\n".join(page(cli, name)))
        return
    if name is not None:
        raise UsageError("--to writes the pages of all commands: leave out the command")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in (None, *COMMANDS):
            path = folder / f"{PROGRAM if each is None else f'{PROGRAM}-{each}'}.1"
            path.write_text("\n".join(page(cli, each)) + "\n", encoding="utf-8")
            written.append(str(path))
    except OSError as error:
        raise UsageError(f"cannot write the pages to {folder} ({error.strerror}): name another folder") from None
    if settings.json:
        emit_json("man_pages", {"files": written})
    else:
        say(f"wrote {number(len(written), 'page')} to {folder}")


def page(root: click.Command, name: str | None) -> Iterator[str]:
    """Yield the lines of the page about a command of the root, or about the root."""
    from kropot.cli.main import COMMANDS, EXIT_CODES

    with click.Context(root, info_name=PROGRAM, auto_envvar_prefix="KROPOT") as ctx:
        if name is None:
            yield from _head(PROGRAM, "back up a whole file repository without being able to read it")
            yield from _command(root, ctx, "")
            yield ".SH COMMANDS"
            for each, text in COMMANDS.items():
                yield from (".TP", f"\\fB{PROGRAM}-{_escaped(each)}\\fR(1)", _escaped(text))
            yield ".SH EXIT STATUS AND CONFIGURATION"
            yield from _prose(EXIT_CODES)
            return
        yield from _head(f"{PROGRAM}-{name}", COMMANDS[name].rstrip("."))
        yield from _tree(root, name, ctx, "")
        yield ".SH SEE ALSO"
        yield f"\\fB{PROGRAM}\\fR(1), which has the global options and the exit codes"


def _head(title: str, text: str) -> Iterator[str]:
    yield f'.TH "{title.upper()}" 1 "" "{PROGRAM}" "User Commands"'
    yield from (".SH NAME", f"{_escaped(title)} \\- {_escaped(text)}")


def _tree(group: click.Command, name: str, parent: click.Context, above: str) -> Iterator[str]:
    """Yield the lines about a command and all commands below it."""
    found = group.get_command(parent, name) if isinstance(group, click.Group) else None
    if found is None:
        raise LookupError(name)
    path = f"{above} {name}".strip()
    with click.Context(found, info_name=name, parent=parent) as ctx:
        yield from _command(found, ctx, path)
        for below in found.list_commands(ctx) if isinstance(found, click.Group) else ():
            yield from _tree(found, below, ctx, path)


def _command(found: click.Command, ctx: click.Context, path: str) -> Iterator[str]:
    usage = " ".join(found.collect_usage_pieces(ctx))
    yield from (f'.SH "{ctx.command_path.upper()}"', ".PP", f"\\fB{_escaped(ctx.command_path)}\\fR {_escaped(usage)}")
    yield from _prose(found.help or "")
    records = [each.get_help_record(ctx) for each in own_options(found, is_root=ctx.parent is None)]
    for names, text in filter(None, records):
        yield from (".TP", f"\\fB{_escaped(names)}\\fR", _escaped(" ".join(text.split())))
    if path in EXAMPLES and isinstance(found, GlobalOptions):
        yield from (".PP", "Example:", ".PP", ".nf", f"    {_escaped(EXAMPLES[path])}", ".fi")


def _prose(text: str) -> Iterator[str]:
    for part in inspect.cleandoc(text).split("\n\n"):
        if part.startswith("\b\n"):
            yield from (".PP", ".nf", *map(_escaped, part.removeprefix("\b\n").splitlines()), ".fi")
        else:
            yield from (".PP", _escaped(" ".join(part.split())))


def _escaped(text: str) -> str:
    """Return a text escaped for roff, with the parts in backquotes in bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = _CODE.sub(r"\\fB\1\\fR", text)
    return f"\\&{text}" if text.startswith((".", "'")) else text
