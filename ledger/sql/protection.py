"""What keeps the user of a URL from rewriting history: missing rights, only the triggers, nothing, or unknown.

This knows only what the database shows, not who has the owner's password or can write to the server's files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.sql.dialects import writer_engine
from ledger.sql.errors import translated
from ledger.sql.rights import RIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from ledger.sql.dialects import Place


class Protection(Struct, frozen=True, kw_only=True):
    """What keeps a user from rewriting history.

    "rights": the user has no rights for it. "triggers": the user can get around them in these `ways`. "none": there are
    not even triggers, because the server refused them. "unknown": there is no certain way, but `ways` lists possible
    ones that cannot be examined.
    """

    kind: Literal["rights", "triggers", "none", "unknown"]
    ways: tuple[str, ...] = ()


def protection(place: Place) -> Protection:
    """Return what keeps the user of this URL from changing what was written."""
    if place.kind == "sqlite":
        return Protection(kind="triggers", ways=("SQLite has no users",))
    engine = writer_engine(place)
    try:
        with translated(engine.dialect), engine.connect() as connection:
            look = _postgresql if place.kind == "postgresql" else _mysql
            found = list(dict.fromkeys(look(connection)))
            has_triggers = place.kind == "postgresql" or _mysql_has_triggers(connection)
    finally:
        engine.dispose()
    ways = tuple(way for is_certain, way in found if is_certain)
    doubts = tuple(way for is_certain, way in found if not is_certain)
    if ways:
        # A server shows triggers only to a user with the right to create some.
        is_bare = not has_triggers and any("TRIGGER" in way or "ALL PRIVILEGES" in way for way in ways)
        return Protection(kind="none" if is_bare else "triggers", ways=ways)
    return Protection(kind="unknown", ways=doubts) if doubts else Protection(kind="rights")


# --- PostgreSQL ------------------------------------------------------------------------------------------------------

Way = tuple[bool, str]
"""Whether this certainly gets around the triggers, and a sentence whose subject is "this user"."""

_POWERFUL = ("pg_execute_server_program", "pg_write_server_files", "pg_create_subscription")
"""Built-in roles that can become a superuser, or write rows without the triggers."""

_CREATEROLE_NEEDS_ADMIN = 160_000
"""From this version on, CREATEROLE grants only roles held with ADMIN OPTION, which membership shows."""

_PARAMETER_RIGHTS = 150_000
"""From this version on, a right can let users other than superusers switch off triggers in their session."""

# MEMBER also covers roles that need SET ROLE first. The session's user is included: RESET ROLE goes back to it.
_MINE = """
    WITH mine AS (
        SELECT oid, rolname, rolsuper, rolcreaterole, rolname NOT IN (session_user, current_user) AS is_other
        FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER') OR pg_has_role(current_user, oid, 'MEMBER')
    ), tables AS (
        SELECT oid, relname, relowner, relnamespace FROM pg_class
        WHERE oid IN (SELECT to_regclass(quote_ident(name)) FROM unnest(CAST(:tables AS text[])) AS name)
    )
"""
_ROLES = f"{_MINE} SELECT rolname, rolsuper, rolcreaterole, is_other FROM mine ORDER BY is_other, rolname"
_TABLES = f"{_MINE} SELECT relname FROM tables"
_OWNED = f"""
    {_MINE}, owned AS (
        SELECT 'the table ' || relname AS what, relowner AS owner FROM tables
        UNION ALL SELECT 'the schema ' || nspname, nspowner FROM pg_namespace
            WHERE oid IN (SELECT relnamespace FROM tables)
        UNION ALL SELECT 'the database ' || datname, datdba FROM pg_database WHERE datname = current_database()
        UNION ALL SELECT 'the function ' || proname, proowner FROM pg_proc
            WHERE oid IN (SELECT tgfoid FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM tables))
    )
    SELECT what, rolname, is_other FROM owned JOIN mine ON mine.oid = owner ORDER BY is_other, rolname, what
"""
_HELD = f"""
    {_MINE}, held AS (
        SELECT mine.*, asked.name || ' on the table ' || relname AS what
        FROM mine, tables, unnest(CAST(:held_tables AS text[]), CAST(:held_rights AS text[])) AS asked(relation, name)
        WHERE relname = asked.relation AND (has_table_privilege(mine.oid, tables.oid, asked.name)
            OR (asked.name IN ('INSERT', 'UPDATE') AND has_any_column_privilege(mine.oid, tables.oid, asked.name)))
        UNION ALL SELECT mine.*, 'CREATE on the schema ' || nspname FROM mine, pg_namespace n
        WHERE n.oid IN (SELECT relnamespace FROM tables) AND has_schema_privilege(mine.oid, n.oid, 'CREATE')
        UNION ALL SELECT mine.*, 'CREATE on the database ' || current_database() FROM mine
        WHERE has_database_privilege(mine.oid, current_database(), 'CREATE')
    )
    SELECT what, rolname, is_other FROM held ORDER BY is_other, rolname, what
"""
_SWITCH = f"{_MINE} SELECT rolname FROM mine WHERE has_parameter_privilege(oid, 'session_replication_role', 'SET')"
_LENT = f"""
    {_MINE}
    SELECT DISTINCT n.nspname || '.' || proname, pg_get_userbyid(proowner)
    FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
    WHERE prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND proowner NOT IN (SELECT oid FROM mine)
      AND EXISTS (SELECT 1 FROM mine WHERE has_function_privilege(mine.oid, p.oid, 'EXECUTE')
        AND has_schema_privilege(mine.oid, n.oid, 'USAGE'))
"""
_TABLE_RIGHTS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER")


def _postgresql(connection: Connection) -> Iterator[Way]:
    version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    beyond = [(table, right) for table, given in RIGHTS.items() for right in _TABLE_RIGHTS if right not in given]
    values = {
        "tables": list(RIGHTS),
        "held_tables": [table for table, _ in beyond],
        "held_rights": [right for _, right in beyond],
    }

    def rows(question: str) -> list[tuple[str, ...]]:
        used = {name: value for name, value in values.items() if f":{name}" in question}
        return [tuple(row) for row in connection.execute(text(question), used)]

    for role, is_super, makes_roles, is_other in rows(_ROLES):
        as_other = f"can become the role {role}, which " if is_other else ""
        if is_super:
            # A superuser can do everything, so the other queries would just return everything.
            yield True, f"{as_other}is a superuser"
            return
        if makes_roles and version < _CREATEROLE_NEEDS_ADMIN:
            yield True, f"{as_other}has CREATEROLE, and can join the owner's role"
        if role in _POWERFUL:
            yield True, f"can become the role {role}"
    seen = {name for (name,) in rows(_TABLES)}
    yield from ((False, f"cannot see the table {name}") for name in RIGHTS if name not in seen)
    for what, role, is_other in rows(_OWNED):
        yield True, f"can become the role {role}, which owns {what}" if is_other else f"owns {what}"
    for what, role, is_other in rows(_HELD):
        yield True, f"can become the role {role}, which has the right {what}" if is_other else f"has the right {what}"
    if version >= _PARAMETER_RIGHTS and rows(_SWITCH):
        yield True, "can switch triggers off with session_replication_role"
    for function, owner in rows(_LENT):
        yield False, f"can call the function {function}, which runs with the rights of {owner}"


# --- MySQL and MariaDB -----------------------------------------------------------------------------------------------

_NAME = r"`(?:[^`]|``)*`"
_ON = re.compile(
    rf"GRANT (?P<rights>.+) ON (?P<routine>(?:PROCEDURE|FUNCTION|PACKAGE|PACKAGE BODY) )?"
    rf"(?P<database>\*|{_NAME})\.(?P<table>\*|{_NAME}) TO .+",
    re.DOTALL,
)
_ROLE = re.compile(rf"GRANT (?P<role>{_NAME}) TO .+", re.DOTALL)
_PROXY = re.compile(r"GRANT PROXY ON .+", re.DOTALL)
_DEFAULT_ROLE = re.compile(r"SET DEFAULT ROLE .+", re.DOTALL)
_HARMLESS = frozenset(
    {"USAGE", "SELECT", "SHOW VIEW", "SHOW DATABASES", "PROCESS", "REFERENCES", "LOCK TABLES"}
    | {"REPLICATION CLIENT", "BINLOG MONITOR"}
)
"""Rights that change nothing, wherever they apply. All others beyond `RIGHTS` count as a way around the triggers."""


def _mysql(connection: Connection) -> Iterator[Way]:
    database = str(connection.execute(text("SELECT database()")).scalar_one())
    lines = _grants(connection)
    if not lines:
        yield False, "cannot see its own rights"
    roles = dict.fromkeys(found["role"] for line in lines if (found := _ROLE.fullmatch(line)))
    for role in roles:
        # While the role is active, SHOW GRANTS lists its rights, and those of the roles that it has.
        try:
            connection.exec_driver_sql(f"SET ROLE {role}".replace("%", "%%"))
        except DBAPIError:
            yield False, f"has the role {role}, whose rights it cannot see"
            continue
        lines += _grants(connection)
    for line in dict.fromkeys(lines):
        yield from _ways_of(line, database)


def _mysql_has_triggers(connection: Connection) -> bool:
    question = "SELECT count(*) FROM information_schema.triggers WHERE event_object_schema = database()"
    return bool(connection.execute(text(question)).scalar_one())


def _grants(connection: Connection) -> list[str]:
    return [str(row[0]) for row in connection.execute(text("SHOW GRANTS"))]


def _ways_of(line: str, database: str) -> Iterator[Way]:
    found = _ON.fullmatch(line)
    if found is not None:
        yield from _ways_by(found, database)
    elif _PROXY.fullmatch(line):
        yield True, "may act as another user (PROXY)"
    elif not _ROLE.fullmatch(line) and not _DEFAULT_ROLE.fullmatch(line):
        yield False, "has rights that this version does not understand"


def _ways_by(grant: re.Match[str], database: str) -> Iterator[Way]:
    is_here, is_system = _covers(grant["database"], database), grant["database"] == "`mysql`"
    table = grant["table"].strip("`").lower()
    if not is_here and not is_system:
        return
    if grant["routine"] is not None:
        yield False, f"may run the routine {grant['table']}, which may run with its creator's rights"
        return
    if is_here and table != "*" and table not in RIGHTS:
        return
    allowed = RIGHTS.get(table, ()) if is_here else ()
    where = f"on {grant['database']}.{grant['table']}".replace("`", "")
    rights = set(re.split(r",\s*", re.sub(r" \([^)]*\)", "", grant["rights"])))
    for right in sorted(rights - _HARMLESS - set(allowed)):
        if right == "EXECUTE":
            yield False, f"has the right EXECUTE {where}, and routines may run with their creator's rights"
        else:
            yield True, f"has the right {right} {where}"


def _covers(pattern: str, database: str) -> bool:
    """Whether a grant's database pattern matches this one. `_` and `%` are wildcards unless after a backslash."""
    if pattern == "*":
        return True
    parts = re.split(r"(\\.|[%_])", pattern[1:-1].replace("``", "`"))
    wild = {"%": ".*", "_": "."}
    regex = "".join(wild.get(part) or re.escape(part.removeprefix("\\")) for part in parts)
    return re.fullmatch(regex, database, re.DOTALL | re.IGNORECASE) is not None
