"""The command line's root: which commands there are, and what is said when one of them fails."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli.base import KropotGroup
from kropot.cli.failures import explain, is_unexpected
from kropot.cli.output import configure_logging, log, say
from kropot.cli.settings import ENV_PREFIX
from kropot.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final[dict[str, str]] = {
    "collect": "Pull everything new from the server into the replica.",
    "status": "Show how the replica is, and whether it is healthy.",
    "ls": "List elements.",
    "history": "Show everything that ever happened to one element.",
    "source": "List sources; tell that a server moved; accept what was held back.",
    "verify": "Check that ledger and copies are what they were.",
    "checkpoint": "Sign the state of the ledger, to be kept elsewhere.",
    "prove": "Prove to others what the ledger says of an element.",
    "check-proof": "Check a proof with nothing but the public key.",
    "consistency": "Prove that between two checkpoints the ledger only grew.",
    "replay": "Fold the ledger's history, whole or up to a moment.",
    "snapshot": "Pin the state at a position, for fast replays.",
    "restore": "Decrypt copies back into files, as of any moment.",
    "decrypt": "Decrypt one stored object.",
    "recipe": "Print how to decrypt by hand, without this program.",
    "rebuild": "Derive the projection anew from the events.",
    "db": "Make, upgrade or describe a ledger's database; move a ledger.",
    "gateway": "Serve a folder as a SecureCopy server that encrypts.",
    "config": "Show every option's value and where it came from.",
    "demo": "Show the whole round on one machine.",
}
"""Name -> what it does. The command itself is `command` in the module of its name, imported when it is run."""

EXIT_CODES: Final = """\b
Exit codes:
    0  done; also asked to stop, or out of budget without findings
    1  an error; the sentence on stderr says what to do
    2  the command line or configuration makes no sense
    3  partly done, or not healthy
    4  something is not what was recorded, or was refused to protect it
   10  there is no ledger at the place named
   11  another running process holds what is needed
   12  the server refuses the token
   13  the key does not open this
  130  interrupted (Ctrl-C)
Where several apply, 4 beats 1 beats 3.

\b
Every option is also read from the environment (--log-level: KROPOT_LOG_LEVEL;
an option of one command with its name: KROPOT_COLLECT_ONCE) and from a TOML
file (log-level = "info"; those of one command in a table of its name). A flag
beats the environment, which beats the file, which beats the default:
`kropotcli config show` tells where each value came from."""


class RootGroup(KropotGroup):
    """The root: imports a command when it is asked for, and turns every failure into one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands in the order in which they are met."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        found = import_module(f"kropot.cli.{cmd_name.replace('-', '_')}").command
        if not isinstance(found, click.Command):
            raise TypeError(f"kropot.cli.{cmd_name}.command is not a command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the commands without importing them, so that --help stays fast."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        **extra: Any,
    ) -> Any:
        """Run a command line; in standalone mode the process ends with the exit code."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        _open_closed_streams()
        configure_logging("info", "console")
        if isinstance(sys.stdout, TextIOWrapper):
            # Go on even if this terminal cannot show a name.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            outcome = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            _hush()
            sys.exit(Exit.ERROR)
        except SystemExit:
            # Click's own answer to a reader that went away.
            _hush()
            raise
        except BaseException as error:  # noqa: BLE001 - the one place where nothing may pass unexplained
            sys.exit(_report(error))
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
@click.version_option(version("kropotcli"), message="kropotcli %(version)s")
def cli() -> None:
    """Back up a whole file repository without being able to read it.

    KropotCLI pulls every file, already encrypted by the server, into a replica that can read neither contents nor
    names, and records everything that happens in a ledger that can be replayed, verified and proved.
    """


def main() -> None:
    """Run the program."""
    cli.main(prog_name="kropotcli")


def _report(error: BaseException) -> Exit:
    """Tell the user what went wrong in one sentence; the traceback only where it was asked for."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # Nothing was asked for yet: what can be asked for is the answer.
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    sentence, code = explain(error)
    if is_unexpected(error):
        # Shown only at the level that asks for it.
        log.debug("failed", exc_info=error)
    say(sentence, level="error")
    return code


def _open_closed_streams() -> None:
    """Give a stream that the shell closed (`>&-`) a place to write to, so that no line of output is a crash."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _hush() -> None:
    """Point stdout at nothing, so that the interpreter's last flush stays quiet when the reader is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
