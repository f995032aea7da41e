"""Turns every kind of failure into a one-line message and an exit code."""

from __future__ import annotations

import errno

import click

from kropot.errors import Exit, KropotError
from kropot.wording import moment
from ledger.errors import (
    BadCheckpointError,
    BadPlaceError,
    BrokenChainError,
    ClockAheadError,
    ClockLeapError,
    ConflictError,
    DamagedRowError,
    ForeignDatabaseError,
    InstanceBusyError,
    LedgerError,
    LedgerMissingError,
    LedgerUnavailableError,
    MalformedEventError,
    MalformedSegmentError,
    NewerLedgerError,
    ReadOnlyLedgerError,
    UnknownCriticalEventError,
)


def explain(error: BaseException) -> tuple[str, Exit]:
    """Return the message and the exit code for a failure. The message for an unexpected one names its class."""
    code = Exit.ERROR
    match error:
        case KropotError():
            message, code = str(error), error.exit_code
        case LedgerError():
            message, code = _explain_ledger(error)
        case click.UsageError():
            message, code = _explain_usage(error), Exit.USAGE
        case click.ClickException():
            message = error.format_message()
        case KeyboardInterrupt() | click.Abort():
            message, code = "interrupted", Exit.INTERRUPTED
        case OSError() if error.errno is not None:
            message = _explain_os(error)
        case MemoryError():
            message = "the program ran out of memory: close other programs or use a machine with more memory"
        case _:
            what = f"unexpected {type(error).__name__}: {error}"
            message = f"{what}; run the command again with --log-level debug to see where it happened"
    return message, code


def is_unexpected(error: BaseException) -> bool:
    """Return whether the program does not know this kind of failure, so that a traceback helps."""
    return not isinstance(error, KropotError | LedgerError | click.ClickException | click.Abort | KeyboardInterrupt)


def _explain_ledger(error: LedgerError) -> tuple[str, Exit]:
    """Return the message and the exit code for a failure of the ledger."""
    code = Exit.FINDINGS
    match error:
        case LedgerMissingError():
            code = Exit.NO_LEDGER
            message = (
                f"there is no ledger at {error.place}: run `kropotcli collect` to make one; if there should be one, "
                "check --db-string and the working directory"
            )
        case InstanceBusyError():
            code = Exit.LOCKED
            message = f"{error}: stop it, or give this collector another name with --instance-name"
        case BadPlaceError():
            message, code = str(error), Exit.USAGE
        case BadCheckpointError():
            code = Exit.WRONG_KEY if error.kind == "key" else code
            message = str(error)
        case MalformedEventError() | BrokenChainError() | DamagedRowError():
            message = f"the ledger is damaged: {error}; run `kropotcli verify` to find all damage"
        case MalformedSegmentError():
            message = (
                f"a segment in the storage is damaged: {error}; the events before it were recovered; if the old "
                "database still exists, use it"
            )
        case UnknownCriticalEventError():
            message = f"{error}: install the version that wrote it"
        case _:
            code = Exit.ERROR
            message = _explain_database(error)
    return message, code


def _explain_database(error: LedgerError) -> str:
    """Return the message for a database that the program cannot use."""
    match error:
        case ForeignDatabaseError():
            message = (
                f"{error.place} holds tables of another program ({', '.join(error.tables)}) and was not changed: "
                "name another database with --db-string, e.g. sqlite:///ledger.db"
            )
        case NewerLedgerError():
            program = error.program or "a newer version of this program"
            message = (
                f"the ledger at {error.place} was made by {program} (schema {error.needs}) and was not changed: "
                f"install {error.program or 'that version'} or a later one"
            )
        case ConflictError():
            message = (
                "another process changed the same elements at the same time, so this command wrote nothing: "
                "run the command again"
            )
        case ReadOnlyLedgerError():
            message = (
                f"cannot write to the ledger: {error}; check the permissions of the database, of the files beside it "
                "and of its user"
            )
        case LedgerUnavailableError():
            message = (
                f"cannot reach the ledger at the moment ({error}): run the command again later, or check the "
                "database, its disk and its permissions"
            )
        case ClockAheadError():
            message = f"{error}: check the clock of this machine"
        case ClockLeapError():
            message = (
                f"the clock says {moment(error.clock_us)}, years after the ledger's last event "
                f"({moment(error.last_us)}), and nothing was recorded, because recorded time never goes back: correct "
                "the clock, or run `kropotcli db accept-clock` if it is right"
            )
        case _:
            message = str(error)
    return message


def _explain_usage(error: click.UsageError) -> str:
    """Return click's message, and which command shows the help."""
    message = error.format_message().rstrip(".")
    return message if error.ctx is None else f"{message} (see `{error.ctx.command_path} --help`)"


def _explain_os(error: OSError) -> str:
    """Return the message for an error of the operating system, with the file and a hint."""
    reason = error.strerror or str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    hint = {
        errno.ENOSPC: "; free some space and run the command again; nothing that the ledger recorded is lost",
        errno.EDQUOT: "; your quota is used up: free some space and run the command again; nothing that the ledger "
        "recorded is lost",
        errno.EACCES: "; check the permissions of the file and its folders",
        errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    }.get(error.errno or 0, "")
    return f"{where}{reason}{hint}"
