"""What the user is told when something goes wrong: one sentence and one exit code for every kind of failure."""

from __future__ import annotations

import errno

import click

from kropot.errors import Exit, KropotError
from ledger.errors import (
    BadCheckpointError,
    BadPlaceError,
    BrokenChainError,
    ClockAheadError,
    ConflictError,
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
    """Return the sentence and the exit code for a failure; an unexpected one is named by its class."""
    code = Exit.ERROR
    match error:
        case KropotError():
            sentence, code = str(error), error.exit_code
        case LedgerError():
            sentence, code = _explain_ledger(error)
        case click.UsageError():
            sentence, code = _explain_usage(error), Exit.USAGE
        case click.ClickException():
            sentence = error.format_message()
        case KeyboardInterrupt() | click.Abort():
            sentence, code = "interrupted", Exit.INTERRUPTED
        case OSError() if error.errno is not None:
            sentence = _explain_os(error)
        case MemoryError():
            sentence = "there is not enough memory"
        case _:
            what = f"unexpected {type(error).__name__}: {error}"
            sentence = f"{what}; run the command again with --log-level debug to see where"
    return sentence, code


def is_unexpected(error: BaseException) -> bool:
    """Return whether a traceback would help: the failure is none of those that the program knows."""
    return not isinstance(error, KropotError | LedgerError | click.ClickException | click.Abort | KeyboardInterrupt)


def _explain_ledger(error: LedgerError) -> tuple[str, Exit]:
    """Return the sentence and the exit code for a failure of the ledger."""
    code = Exit.FINDINGS
    match error:
        case LedgerMissingError():
            code = Exit.NO_LEDGER
            sentence = (
                f"there is no ledger at {error.place}: `kropotcli collect` makes one; "
                "if there should be one, look at --db-string and the working directory"
            )
        case InstanceBusyError():
            code = Exit.LOCKED
            sentence = f"{error}: stop it, or give this one another name with --instance-name"
        case BadPlaceError():
            sentence, code = str(error), Exit.USAGE
        case BadCheckpointError():
            code = Exit.WRONG_KEY if error.kind == "key" else code
            sentence = str(error)
        case MalformedEventError() | BrokenChainError():
            sentence = f"the ledger is damaged: {error}; `kropotcli verify` tells how far"
        case MalformedSegmentError():
            sentence = (
                f"the stored history is damaged: {error}; what stands before it was recovered, "
                "and a database that still exists is not affected"
            )
        case UnknownCriticalEventError():
            sentence = f"{error}: install the version that wrote it"
        case _:
            code = Exit.ERROR
            sentence = _explain_database(error)
    return sentence, code


def _explain_database(error: LedgerError) -> str:
    """Return the sentence for a database that is not as it should be."""
    match error:
        case ForeignDatabaseError():
            sentence = (
                f"{error.place} holds tables of another program ({', '.join(error.tables)}) and was left as it is: "
                "name another database with --db-string, e.g. sqlite:///ledger.db"
            )
        case NewerLedgerError():
            program = error.program or "a newer version of this program"
            sentence = (
                f"the ledger at {error.place} was made by {program} (schema {error.needs}): install "
                f"{error.program or 'that version'} or a later one; nothing was changed"
            )
        case ConflictError():
            sentence = (
                "another process changed the same elements at the same moment: nothing of this was written, "
                "run the command again"
            )
        case ReadOnlyLedgerError():
            sentence = (
                f"the ledger cannot be written: {error}; look at the rights of the database, of the files beside it "
                "and of its user"
            )
        case LedgerUnavailableError():
            sentence = (
                f"the ledger cannot be reached just now ({error}): run the command again later, or look at the "
                "database, its disk and its rights"
            )
        case ClockAheadError():
            sentence = f"{error}: look at the clock of this machine"
        case _:
            sentence = str(error)
    return sentence


def _explain_usage(error: click.UsageError) -> str:
    """Return click's sentence, and where the help is."""
    message = error.format_message().rstrip(".")
    return message if error.ctx is None else f"{message} (see `{error.ctx.command_path} --help`)"


def _explain_os(error: OSError) -> str:
    """Return a sentence for an error of the operating system, with the file it is about."""
    reason = error.strerror or str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    hint = {
        errno.ENOSPC: "; free some space and run the command again, nothing acknowledged was lost",
        errno.EDQUOT: "; the quota is used up, nothing acknowledged was lost",
        errno.EACCES: "; look at the rights of the file and its folders",
        errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    }.get(error.errno or 0, "")
    return f"{where}{reason}{hint}"
