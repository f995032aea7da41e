"""`kropotcli db`: makes, upgrades and describes a ledger's database, copies a ledger, and recovers one."""

from __future__ import annotations

import platform

import click

from kropot.cli.base import (
    MISSING_GUARDS,
    Settings,
    emit,
    emit_json,
    emit_summary,
    group,
    open_ledger,
    say,
    storage_of,
    warn_unguarded,
)
from kropot.errors import PartialError, UsageError
from kropot.wording import amount, instant, moment, number

_OWNER = click.option(
    "--db-owner-url",
    metavar="URL",
    help="The same database, with the login of its owner. The user in --db-string then cannot rewrite history.",
)
_PROTECTION = {
    "triggers": (
        "triggers only, because this user {}: they stop accidents, but not a person with this user's password; "
        "docs/operations.md says how to separate owner and collector"
    ),
    "rights": "the database does not allow this user to change or delete events",
    "none": "nothing: this database server refused the triggers that guard the ledger; " + MISSING_GUARDS,
    "unknown": "cannot tell, because this user {}: ask the administrator of the database",
}
_SQLITE_PROTECTION = "triggers only: they stop accidents, but not a person who can write to the file"


@group("db")
def command() -> None:
    """Make, upgrade or describe a ledger's database. Copy a ledger, or recover one."""


@command.command("init")
@_OWNER
def init(settings: Settings, *, db_owner_url: str | None) -> None:
    """Make an empty ledger.

    `collect` also does this by itself. You can safely run this on an existing ledger. With --db-owner-url, the tables
    belong to the user in that URL. The user in --db-string can then read, append events and update the projection, and
    nothing else.
    """
    from ledger.sql import migrate, parse_place
    from ledger.sql.rights import grant

    user, owner = parse_place(settings.db_string), parse_place(db_owner_url or settings.db_string)
    is_guarded = migrate(owner, demand_guards=db_owner_url is not None)
    grantee = None if db_owner_url is None else grant(owner, user)
    _print_result(
        settings, "database_ready", {"place": str(user), "grantee": grantee}, f"the ledger at {user} is ready"
    )
    if not is_guarded:
        warn_unguarded()
    if grantee is not None:
        say(f"{grantee} can read and append events, but cannot change or delete them")


@command.command("upgrade")
@_OWNER
def upgrade(settings: Settings, *, db_owner_url: str | None) -> None:
    """Upgrade the tables of an older ledger to this version's schema.

    Back up the database first: an older version of the program cannot use it afterwards. Running it again continues an
    upgrade that was cut short.
    """
    from ledger.errors import LedgerMissingError
    from ledger.sql import migrate, parse_place, schema_of
    from ledger.sql.protection import protection
    from ledger.sql.rights import grant

    user, owner = parse_place(settings.db_string), parse_place(db_owner_url or settings.db_string)
    before = schema_of(owner)
    if before is None:
        raise LedgerMissingError(str(owner))
    was_bare = protection(owner).kind == "none"
    is_guarded = migrate(owner, demand_guards=db_owner_url is not None)
    if db_owner_url is not None:
        grant(owner, user)
    after = schema_of(owner)
    text = (
        f"made the missing triggers; the ledger has schema {after}"
        if was_bare and is_guarded
        else f"nothing to do: the ledger already has schema {after}"
        if before == after
        else f"upgraded the ledger from schema {before} to schema {after}"
    )
    _print_result(settings, "database_upgraded", {"place": str(user), "before": before, "after": after}, text)
    if not is_guarded:
        warn_unguarded()


@command.command("info")
def info(settings: Settings) -> None:
    """Show the ledger's place, its size and its protection."""
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
            "database",
            {
                "place": str(place),
                "database": version,
                "schema": schema,
                "position": head.position,
                "recorded_at": instant(head.recorded_us) if head.position else None,
                "root": head.frontier.root,
                "bytes": size,
                "protection": kept.kind,
                "ways_round": kept.ways,
            },
        )
        return
    each = f", {size // head.position} bytes per event" if head.position else ""
    emit(f"place       {place}")
    emit(f"database    {version}, schema {schema}")
    emit(f"events      {head.position}, last recorded {moment(head.recorded_us or None)}")
    emit(f"root        {head.frontier.root.hex()}")
    emit(f"size        {amount(size)}{each}")
    said = _SQLITE_PROTECTION if place.kind == "sqlite" else _PROTECTION[kept.kind].format(_some(kept.ways))
    emit(f"protection  {said}")


@command.command("accept-clock")
def accept_clock(settings: Settings) -> None:
    """Accept this machine's clock although the last event is years ago.

    Recorded time never goes back, so a clock that is years ahead would stop it. Therefore nothing is recorded until you
    accept the clock. Check the clock first.
    """
    from ledger.clock import MOST_LEAP_US
    from ledger.events import InstanceBegan
    from ledger.log import NewFact, instance_key, program

    with open_ledger(settings) as ledger:
        last_us, now_us = ledger.head().recorded_us, ledger.clock_us()
        is_leap = now_us - last_us > MOST_LEAP_US
        if is_leap:
            ledger.most_leap_us = None
            fact = InstanceBegan(program=program(), host=platform.node())
            key = instance_key(settings.instance_name)
            ledger.append([NewFact(key=key, fact=fact, observed_us=now_us)])
    text = (
        f"accepted: the ledger's time goes on from {moment(now_us)}"
        if is_leap
        else f"nothing to do: the clock says {moment(now_us)}, and the last event was recorded {moment(last_us)}"
    )
    _print_result(
        settings, "clock_accepted", {"accepted": is_leap, "clock": instant(now_us), "last": instant(last_us)}, text
    )


@command.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def copy(settings: Settings, *, source: str, target: str) -> None:
    """Copy a ledger to another database, and check the copy.

    FROM and TO are database URLs. TO must be empty or hold the beginning of the same ledger. If a copy was interrupted,
    run the command again to continue it. Stop all collectors that use FROM first. If you do not, the copy lacks the
    events that they record meanwhile, until you run the command again.
    """
    from kropot.cli.work_progress import work_progress
    from ledger.sql import open_store
    from ledger.transfer.copy import copy_ledger

    origin = open_store(source, read_only=True)
    try:
        destination = open_store(target, create=True)
        if not destination.is_guarded:
            warn_unguarded()
        try:
            with work_progress(settings, "copy", noun="event") as progress:
                report = copy_ledger(origin, destination, progress=lambda done, of: progress.reached(done, of=of))
        finally:
            destination.close()
        result = {
            "from": str(origin.place),
            "to": str(destination.place),
            "events": report.events,
            "position": report.position,
            "root": report.root,
            "state": report.state,
        }
        text = (
            f"copied {number(report.events, 'event')} to {destination.place}; both ledgers end at position "
            f"{report.position} with root {report.root.hex()}"
        )
        _print_result(settings, "database_copied", result, text)
    finally:
        origin.close()


@command.command("recover")
@click.option(
    "--from-storage",
    is_flag=True,
    required=True,
    help="Read the segments that collectors write to --storage-path.",
)
def recover(settings: Settings, *, from_storage: bool) -> None:  # noqa: ARG001 - the one place to recover from so far
    """Recover a lost ledger from the segments in the storage.

    This writes the events into an empty database, checks the ledger, and shows how far the segments reach. Events of
    the last minute before the database was lost may be missing. The next `collect` observes those changes again. If a
    recovery was interrupted, run the command again to continue it.
    """
    from kropot.cli.work_progress import work_progress
    from kropot.objects.packs.reindex import reindex
    from ledger.sql import open_store
    from ledger.transfer.recover import recover_ledger

    storage = storage_of(settings).reading()
    folder = storage.segments()
    reach = folder.newest()
    if reach is None:
        raise UsageError(
            f"there are no segments in {folder.folder}, so no ledger can be recovered: use --storage-path to name the"
            " storage that your collectors wrote to"
        )
    store = open_store(settings.db_string, create=True)
    if not store.is_guarded:
        warn_unguarded()
    try:
        with work_progress(settings, "recover", noun="event", count=reach.last) as progress:
            report = recover_ledger(folder.events(), store, progress=progress.reached)
        indexed = reindex(storage.packs(), store.places)
        last_us = store.log.head().recorded_us
        until = moment(last_us)
        place = store.place
    finally:
        store.close()
    result = {
        "place": str(place),
        "events": report.events,
        "position": report.position,
        "root": report.root,
        "state": report.state,
        "recorded_at": instant(last_us),
        "complete": report.position >= reach.last,
        "packs": indexed.packs,
        "packed_objects": indexed.objects,
        "damaged_packs": indexed.damaged,
    }
    text = (
        f"recovered {number(report.events, 'event')} into {place}; the ledger ends at event {report.position}, "
        f"recorded {until}, with root {report.root.hex()}"
    )
    _print_result(settings, "database_recovered", result, text)
    for line in indexed.told:
        say(line, level="error")
    if indexed.damaged:
        raise PartialError(
            f"the ledger does not know the contents of {number(indexed.damaged, 'damaged pack')}: put sound ones back "
            "from another copy of the storage and run `kropotcli storage index`; otherwise what they held is lost, "
            "and `kropotcli verify` lists it"
        )
    if report.position < reach.last:
        raise PartialError(
            f"events {report.position + 1} to {reach.last} could not be recovered, because a segment in "
            f"{folder.folder} is missing or damaged: put it back from another copy of the storage and run the command "
            "again"
        )


def _some(ways: tuple[str, ...]) -> str:
    """Return the first three ways; `--json` gives all of them."""
    more = f", and {number(len(ways) - 3, 'more reason')}" if len(ways) > 3 else ""  # noqa: PLR2004  # as said
    return ", ".join(ways[:3]) + more


def _print_result(settings: Settings, message_type: str, result: dict[str, object], text: str) -> None:
    if settings.json:
        emit_json(message_type, result)
    else:
        emit_summary(text)
