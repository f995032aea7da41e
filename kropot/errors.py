"""What the program refuses or cannot do; exit code and HTTP status live on the class (docs/tour.md, "Exit codes")."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """The exit codes, all of them; where several apply, FINDINGS beats ERROR beats PARTIAL."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    PARTIAL = 3
    FINDINGS = 4
    NO_LEDGER = 10
    LOCKED = 11
    REFUSED = 12
    WRONG_KEY = 13
    INTERRUPTED = 130


class KropotError(Exception):
    """A failure told to the user in one sentence: what, where, and what to do."""

    exit_code: ClassVar[Exit] = Exit.ERROR
    http_status: ClassVar[int] = 500


class UsageError(KropotError):
    """The request makes no sense as it was made."""

    exit_code = Exit.USAGE
    http_status = 400


class PartialError(KropotError):
    """Some of the work could not be done; the rest was."""

    exit_code = Exit.PARTIAL


class IntegrityError(KropotError):
    """Something is not what was recorded, or the program refuses to make it worse."""

    exit_code = Exit.FINDINGS


class NoLedgerError(KropotError):
    """There is no ledger where one was looked for."""

    exit_code = Exit.NO_LEDGER


class LockedError(KropotError):
    """Another living process holds what this one needs."""

    exit_code = Exit.LOCKED


class ServerRefusedError(KropotError):
    """The server does not accept the token (401 or 403)."""

    exit_code = Exit.REFUSED
    http_status = 403


class WrongKeyError(KropotError):
    """The key does not open what it should open."""

    exit_code = Exit.WRONG_KEY
