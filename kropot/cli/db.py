"""`kropotcli db`: make a ledger's database, upgrade it, tell about it, and move a ledger to another one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from kropot.cli.base import Settings, emit, emit_json, group, say, storage_of, warn
from kropot.cli.output import log
from kropot.cli.settings import database_password
from kropot.errors import PartialError, UsageError
from kropot.secret import guard
from kropot.wording import amount, moment, number

if TYPE_CHECKING:
    from collections.abc import Callable

_TELL_EVERY_S = 5.0

_OWNER = click.option(
    "--db-owner-url",
    metavar="URL",
    help="The same database as its owner sees it; --db-string is then of a user who cannot rewrite history.",
)
_SAID = {
    "triggers": (
        "triggers only, because this user {}: they stop accidents, not someone with this user's password; "
        "docs/operations.md says how to separate owner and collector"
    ),
    "rights": "this user has no right to change or remove what was recorded",
    "unknown": "cannot tell, because this user {}: ask who administers the database",
}
_SQLITE = "triggers only: they stop accidents, not someone who can write the file"


@group("db")
def command() -> None:
    """Make a ledger's database, upgrade it, tell about it, or move a ledger to another one."""


@command.command("init")
@_OWNER
def init(settings: Settings, *, db_owner_url: str | None) -> None:
    """Make an empty ledger, as `collect` does by itself; safe on one that exists.

    With --db-owner-url the tables belong to that user, and the user of --db-string is given only what collecting needs:
    to read, to append events, and to keep the projection.
    """
    from ledger.sql import migrate, parse_place
    from ledger.sql.rights import grant

    user, owner = parse_place(settings.db_string), parse_place(_owner_url(settings, db_owner_url))
    migrate(owner)
    grantee = None if db_owner_url is None else grant(owner, user)
    _tell(settings, {"place": str(user), "grantee": grantee}, f"the ledger at {user} is ready")
    if grantee is not None:
        say(f"{grantee} may read and append, and not change or remove what was recorded")


@command.command("upgrade")
@_OWNER
def upgrade(settings: Settings, *, db_owner_url: str | None) -> None:
    """Bring an older ledger's tables to this version's schema."""
    from ledger.errors import LedgerMissingError
    from ledger.sql import migrate, parse_place, schema_of
    from ledger.sql.rights import grant

    user, owner = parse_place(settings.db_string), parse_place(_owner_url(settings, db_owner_url))
    before = schema_of(owner)
    if before is None:
        raise LedgerMissingError(str(owner))
    migrate(owner)
    if db_owner_url is not None:
        grant(owner, user)
    after = schema_of(owner)
    sentence = f"schema {after}: nothing to do" if before == after else f"upgraded from schema {before} to {after}"
    _tell(settings, {"place": str(user), "before": before, "after": after}, sentence)


@command.command("info")
def info(settings: Settings) -> None:
    """Tell where the ledger is, how large, and what keeps its history from being rewritten."""
    from ledger.log import Ledger
    from ledger.sql import open_store, schema_of
    from ledger.sql.protection import protection
    from ledger.sql.rights import describe_server

    store = open_store(settings.db_string, read_only=True)
    try:
        head = Ledger(store).head()
        version, size = describe_server(store.place)
        kept = protection(store.place)
        schema = schema_of(store.place)
        place = store.place
    finally:
        store.close()
    if settings.json:
        emit_json(
            {
                "place": str(place),
                "database": version,
                "schema": schema,
                "position": head.position,
                "recorded_us": head.recorded_us,
                "root": head.frontier.root,
                "bytes": size,
                "protection": kept.kind,
                "ways_round": kept.ways,
            }
        )
        return
    each = f", {size // head.position} bytes an event" if head.position else ""
    emit(f"place       {place}")
    emit(f"database    {version}, schema {schema}")
    emit(f"events      {head.position}, the last recorded {moment(head.recorded_us or None)}")
    emit(f"root        {head.frontier.root.hex()}")
    emit(f"size        {amount(size)}{each}")
    said = _SQLITE if place.kind == "sqlite" else _SAID[kept.kind].format(_some(kept.ways))
    emit(f"protection  {said}")


@command.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def copy(settings: Settings, *, source: str, target: str) -> None:
    """Copy the ledger at the URL FROM to the URL TO, byte by byte, and check the copy.

    TO must be empty, or hold the beginning of the same ledger: a copy that was cut short goes on. Nobody should collect
    into FROM meanwhile, or what they record is missing until the command is run again.
    """
    from ledger.sql import open_store
    from ledger.transfer.copy import copy_ledger

    for url in (source, target):
        guard(database_password(url) or "")
        if database_password(url):
            warn("other users of this machine can read a password on a command line: prefer ~/.pgpass or a socket")
    origin = open_store(source, read_only=True)
    try:
        destination = open_store(target, create=True)
        try:
            report = copy_ledger(origin, destination, progress=_progress())
        finally:
            destination.close()
        said = {
            "from": str(origin.place),
            "to": str(destination.place),
            "events": report.events,
            "position": report.position,
            "root": report.root,
            "state": report.state,
        }
        sentence = (
            f"copied {number(report.events, 'event')} to {destination.place}: both ledgers stand at position "
            f"{report.position} with root {report.root.hex()}"
        )
        _tell(settings, said, sentence)
    finally:
        origin.close()


@command.command("recover")
@click.option(
    "--from-storage",
    is_flag=True,
    required=True,
    help="Read the history that collectors keep beside the objects, in --storage-path.",
)
def recover(settings: Settings, *, from_storage: bool) -> None:  # noqa: ARG001 - the one place to recover from so far
    """Make the ledger anew, in an empty database, from the history in the storage path, and check it.

    Says how far that history reaches: what was recorded in the last minute before the database was lost may be missing,
    and the next `collect` finds it out again. A recovery that was cut short goes on.
    """
    from ledger.sql import open_store
    from ledger.transfer.recover import recover_ledger

    folder = storage_of(settings).segments()
    reach = folder.newest()
    if reach is None:
        raise UsageError(
            f"{folder.folder} holds no history of a ledger: name the storage path that collectors wrote to with"
            " --storage-path"
        )
    store = open_store(settings.db_string, create=True)
    try:
        tell = _progress()
        report = recover_ledger(folder.events(), store, progress=lambda position: tell(position, reach.last))
        until = moment(store.log.head().recorded_us)
        place = store.place
    finally:
        store.close()
    said = {
        "place": str(place),
        "events": report.events,
        "position": report.position,
        "root": report.root,
        "state": report.state,
        "recorded_at": until,
        "complete": report.position >= reach.last,
    }
    sentence = (
        f"recovered {number(report.events, 'event')} into {place}: the ledger reaches to event {report.position}, "
        f"recorded {until}, with root {report.root.hex()}"
    )
    _tell(settings, said, sentence)
    if report.position < reach.last:
        raise PartialError(
            f"the stored history goes on to event {reach.last}, but a segment before that is missing or damaged: "
            f"everything after event {report.position} could not be recovered"
        )


def _some(ways: tuple[str, ...]) -> str:
    """Return the first three ways; `--json` gives all of them."""
    more = f", and {number(len(ways) - 3, 'more reason')}" if len(ways) > 3 else ""  # noqa: PLR2004  # as said
    return ", ".join(ways[:3]) + more


def _owner_url(settings: Settings, db_owner_url: str | None) -> str:
    if db_owner_url is None:
        return settings.db_string
    guard(database_password(db_owner_url) or "")
    return db_owner_url


def _progress() -> Callable[[int, int], None]:
    """Return what tells now and then how far a copy has come."""
    told = time.monotonic()

    def tell(copied: int, whole: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            log.info("ledger_copying", copied=copied, of=whole)

    return tell


def _tell(settings: Settings, said: dict[str, object], sentence: str) -> None:
    if settings.json:
        emit_json(said)
    else:
        emit(sentence)
