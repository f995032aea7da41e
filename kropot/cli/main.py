"""The root of the command line: the list of commands, and the handling of failures."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli.base import KropotGroup
from kropot.cli.failures import explain, is_unexpected
from kropot.cli.help_text import ALIASES, GROUPS
from kropot.cli.output import (
    be_quiet,
    configure_logging,
    discard_stdout,
    emit,
    expect_results,
    message_line,
    say_failure,
)
from kropot.cli.settings import ENV_PREFIX
from kropot.cli.stderr import make_stderr_last
from kropot.errors import Exit
from kropot.gc_tuning import look_for_cycles_rarely
from kropot.logs import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

COMMANDS: Final[dict[str, str]] = {
    "collect": "Pull everything new from the server into the replica.",
    "status": "Show the state of the replica, and whether it is healthy.",
    "ls": "List elements.",
    "history": "Show every event about one element.",
    "log": "List the restore points: the rounds that ended, and what each found.",
    "source": "List sources, change a server's address, accept held-back listings.",
    "verify": "Check the ledger and the copies for damage and changes.",
    "checkpoint": "Sign the state of the ledger, and list the signatures.",
    "prove": "Prove to others what the ledger says about one element.",
    "check-proof": "Check a proof with only the public key.",
    "consistency": "Prove that the ledger only grew between two checkpoints.",
    "replay": "Show the replica as it was at any moment.",
    "diff": "Show what changed between two moments.",
    "snapshot": "Store the state at a position, to make replays fast.",
    "restore": "Open copies and write them as files, as of any moment.",
    "decrypt": "Decrypt one stored object.",
    "recipe": "Print how to decrypt one copy without this program.",
    "kit": "Show kits, print them, give them a passphrase, and test them.",
    "prune": "Release what the policy does not keep, and free the bytes.",
    "erase": "Erase an element and its copies for ever, as a law may demand.",
    "keep": "Keep a restore point, whatever the policy says.",
    "rebuild": "Rebuild the projection from the events.",
    "storage": "Pack small objects, index packs, and remove what no event names.",
    "db": "Make, upgrade, describe, copy or recover a ledger's database.",
    "gateway": "Serve a folder as a SecureCopy server that encrypts.",
    "keeper": "Serve a replica to its owner over the network, and manage the tokens for it.",
    "service": "Install systemd units that run this program.",
    "browse": "Look at a replica in a browser: its files by name, its history, its proofs.",
    "config": "Write a configuration file, check it, or show every value and where it came from.",
    "completion": "Complete command lines with the Tab key, in bash, zsh and fish.",
    "man": "Print or write manual pages.",
    "demo": "Run a complete backup on one machine, as a demonstration.",
}
"""The commands and what they do. Each is `command` in the module of that name, which is imported when it runs."""

EXIT_CODES: Final = """\b
Exit codes:
    0  done; also if stopped on request, or if the budget ended without findings
    1  error; the message on stderr says what to do
    2  the command line or the configuration is not valid
    3  partly done, or not healthy
    4  something differs from the record, or an action was refused to protect it
   10  no ledger was found where --db-string points
   11  another running process holds what this one needs
   12  the server refuses the token
   13  the key does not open the data
  130  interrupted (Ctrl-C)
If several apply, 4 beats 1, and 1 beats 3.

\b
You can also set every option in the environment or in a TOML file.
For --log-level, write KROPOT_LOG_LEVEL=info, or log-level = "info" in the file.
For an option of one command, e.g. `collect --once`, write KROPOT_COLLECT_ONCE=1,
or once = true in the table [collect] of the file.
A flag beats the environment, the environment beats the file, and the file
beats the default. `kropotcli config show` shows where each value came from."""


class RootGroup(KropotGroup):
    """The root. It imports a command only when needed, and turns every failure into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        found = import_module(f"kropot.cli.{cmd_name.replace('-', '_')}").command
        if not isinstance(found, click.Command):
            raise TypeError(f"kropot.cli.{cmd_name}.command is not a command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, also by a name that people know from other programs. `help X` means `X --help`.

        The error for an unknown name suggests similar names.
        """
        if args == ["help"]:
            click.echo(ctx.get_help())
            ctx.exit()
        if args[0] == "help":
            args = [*args[1:], "--help"]
        args = [ALIASES.get(args[0], args[0]), *args[1:]]
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the commands without importing them, so that --help stays fast."""
        grouped = {name for names in GROUPS.values() for name in names}
        others = {"Other commands": tuple(name for name in COMMANDS if name not in grouped)}
        for title, names in (GROUPS | others).items():
            if found := [(name, COMMANDS[name]) for name in names if name in COMMANDS]:
                with formatter.section(title):
                    formatter.write_dl(found)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what can follow on the command line, without importing the commands."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        **extra: Any,
    ) -> Any:
        """Run a command line. In standalone mode, this ends the process with the exit code."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        _open_closed_streams()
        configure_logging("info", "console")
        be_quiet(is_quiet=False)
        line = sys.argv[1:] if args is None else args
        expect_results(as_json=_asks_for_json(line))
        if isinstance(sys.stdout, TextIOWrapper):
            # Continue even if this terminal cannot show a name.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            outcome = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            discard_stdout()
            sys.exit(Exit.ERROR)
        except SystemExit:
            # Click exits like this when the reader of stdout is gone.
            discard_stdout()
            raise
        except BaseException as error:  # noqa: BLE001 - the one place that must explain every failure
            sys.exit(_report(error, is_plugin="--nagios" in line))
        sys.exit(outcome if isinstance(outcome, int) else Exit.DONE)


@click.group(
    "kropotcli",
    cls=RootGroup,
    epilog=EXIT_CODES,
    context_settings={
        "auto_envvar_prefix": ENV_PREFIX,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(None, "-V", "--version", package_name="kropotcli", message="kropotcli %(version)s")
def cli() -> None:
    """Back up a whole file repository without being able to read it.

    The server encrypts every file, and KropotCLI pulls it into a replica. The replica can read neither contents nor
    names. A ledger records every change. You can replay it to any past moment, verify it, and prove what it says.
    """


def main() -> None:
    """Run the program."""
    look_for_cycles_rarely()  # the modules that a command imports are never freed
    make_stderr_last(message_line)
    cli.main(prog_name="kropotcli")


def _report(error: BaseException, *, is_plugin: bool) -> int:
    """Print a one-line message about the failure, and return the exit code. --log-level debug adds the traceback.

    A monitoring plugin also prints it on stdout, and its exit code is 3, because the state is unknown.
    """
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # The user named no command, so show the help.
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    message, code = explain(error)
    if is_unexpected(error):
        log.debug("failed", exc_info=error)
    say_failure(message, code)
    if is_plugin:
        from kropot.cli.nagios import PluginState, unknown_line

        emit(unknown_line(message))
        return PluginState.UNKNOWN
    return code


def _asks_for_json(args: Sequence[str]) -> bool:
    """Whether the raw arguments or the environment ask for results in JSON.

    This must be known before parsing, so that a wrong command line is refused in JSON too. The file is read later.
    """
    options = args[: list(args).index("--")] if "--" in args else args
    return "--json" in options or os.environ.get(f"{ENV_PREFIX}_JSON", "").lower() in {
        "1",
        "true",
        "yes",
        "on",
        "t",
        "y",
    }


def _open_closed_streams() -> None:
    """Connect streams that the shell closed (`>&-`) to the null device, so that output cannot crash the program."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
