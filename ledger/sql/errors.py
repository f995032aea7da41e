"""Translates exceptions of SQLAlchemy and the drivers into the ledger's own."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import exc

from ledger.errors import LedgerError, LedgerUnavailableError, ReadOnlyLedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Dialect

_SQLITE_AWAY = re.compile("locked|busy|unable to open|disk I/O", re.IGNORECASE)
_SQLITE_READ_ONLY = re.compile("readonly|query_only", re.IGNORECASE)

# SQLSTATE classes and codes: connection gone, out of resources or connections, shut down, deadlock, lock timeout, idle.
_POSTGRESQL_AWAY = ("08", "53", "57P", "40", "55P03", "25P03")
_POSTGRESQL_READ_ONLY = ("25006", "42501")

# A row changed, too many connections, shutdown, killed, lock wait timeout, deadlock; 2000 and up are lost connections,
# as the client reports them.
_MYSQL_AWAY = frozenset(
    {1020, 1040, 1053, 1077, 1078, 1079, 1080, 1129, 1152, 1158, 1159, 1160, 1161, 1205, 1213, 1927, 4031}
)
_MYSQL_READ_ONLY = frozenset({1044, 1142, 1143, 1227, 1290, 1792})
_MYSQL_CLIENT = range(2000, 3000)
_MYSQL_NO_TRIGGERS = 1419

_MYSQL_STATEMENTS_LOGGED = 1665

_MYSQL_SENTENCES = {
    (_MYSQL_NO_TRIGGERS,): (
        "the database server writes a binary log, and only a user with the right SUPER may create the triggers that "
        "guard the ledger: name such a user with --db-owner-url, or have "
        "log_bin_trust_function_creators = 1 set on the server "
        '(docs/operations.md, "Servers with a binary log")'
    ),
    (_MYSQL_STATEMENTS_LOGGED,): (
        "the database server writes a binary log of statements, which cannot record a ledger's transactions: have "
        'binlog_format = ROW or MIXED set on the server (docs/operations.md, "Servers with a binary log")'
    ),
}


@contextmanager
def translated(dialect: Dialect) -> Iterator[None]:
    """Raise the ledger's errors, which callers can act on, instead of those of the driver or SQLAlchemy.

    Raises:
        LedgerUnavailableError: if the database cannot be reached or is busy. The same call may succeed later.
        ReadOnlyLedgerError: if this user may not write.
        LedgerError: for anything else. The message is the database's own, without the statement and its values.
    """
    try:
        yield
    except exc.DBAPIError as error:
        raise _meaning(dialect, error.orig or error) from None
    except exc.SQLAlchemyError as error:
        raise LedgerUnavailableError(_sentence(error)) from None
    except dialect.loaded_dbapi.Error as error:
        raise _meaning(dialect, error) from None


def is_trigger_refusal(error: BaseException) -> bool:
    """Return whether a server with a binary log refuses a trigger, because this user has no right to make one."""
    return error.args[:1] == (_MYSQL_NO_TRIGGERS,)


def _meaning(dialect: Dialect, error: BaseException) -> LedgerError:
    if dialect.name in {"mysql", "mariadb"} and error.args[:1] in _MYSQL_SENTENCES:
        return LedgerError(_MYSQL_SENTENCES[error.args[:1]])
    kinds = {"sqlite": _sqlite, "postgresql": _postgresql}
    return kinds.get(dialect.name, _mysql)(error)(f"the database says: {_sentence(error)}")


def _sentence(error: BaseException) -> str:
    """Return only the first line, because the rest of a driver's message can quote statements and values."""
    words = error.args[1] if len(error.args) > 1 and isinstance(error.args[0], int) else error
    return (str(words).strip().splitlines() or [type(error).__name__])[0]


def _sqlite(error: BaseException) -> type[LedgerError]:
    if _SQLITE_READ_ONLY.search(str(error)):
        return ReadOnlyLedgerError
    return LedgerUnavailableError if _SQLITE_AWAY.search(str(error)) else LedgerError


def _postgresql(error: BaseException) -> type[LedgerError]:
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:  # the server did not answer: the connection was lost or never made
        lost = type(error).__name__ in {"OperationalError", "InterfaceError", "ConnectionTimeout"}
        return LedgerUnavailableError if lost else LedgerError
    if state in _POSTGRESQL_READ_ONLY:
        return ReadOnlyLedgerError
    return LedgerUnavailableError if state.startswith(_POSTGRESQL_AWAY) else LedgerError


def _mysql(error: BaseException) -> type[LedgerError]:
    code = error.args[0] if error.args else None
    if code in _MYSQL_READ_ONLY:
        return ReadOnlyLedgerError
    # PyMySQL raises InterfaceError(0, "") on a connection that it has closed itself.
    away = code in _MYSQL_AWAY or (isinstance(code, int) and (code == 0 or code in _MYSQL_CLIENT))
    return LedgerUnavailableError if away else LedgerError
