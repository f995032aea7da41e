"""The errors that the program raises. Each class has an exit code and an HTTP status (docs/tour.md, "Exit codes")."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """All exit codes. Where several apply, FINDINGS beats ERROR, and ERROR beats PARTIAL."""

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
    """An error with a one-line message for the user: what failed, on what, and what to do now."""

    exit_code: ClassVar[Exit] = Exit.ERROR
    http_status: ClassVar[int] = 500


class UsageError(KropotError):
    """The command line, the configuration or the request is not valid."""

    exit_code = Exit.USAGE
    http_status = 400


class PartialError(KropotError):
    """A part of the work could not be done. The rest was done."""

    exit_code = Exit.PARTIAL


class IntegrityError(KropotError):
    """Data differs from the record, or the program refuses an action to protect the data."""

    exit_code = Exit.FINDINGS


class UnacceptedErasureError(KropotError):
    """The ledger has erasures that nobody accepted with the signing key. It is still possible to collect into it."""

    exit_code = Exit.FINDINGS


class NoLedgerError(KropotError):
    """No ledger exists at the given place."""

    exit_code = Exit.NO_LEDGER


class LockedError(KropotError):
    """Another running process holds what this one needs."""

    exit_code = Exit.LOCKED


class ServerRefusedError(KropotError):
    """The server does not accept the token (401 or 403)."""

    exit_code = Exit.REFUSED
    http_status = 403


class WrongKeyError(KropotError):
    """The key does not open the data."""

    exit_code = Exit.WRONG_KEY
