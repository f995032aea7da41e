"""`kropotcli prune`: releases what the policy does not keep, and frees the bytes after a grace period."""

from __future__ import annotations

import getpass
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import (
    Settings,
    config_file_of,
    emit,
    emit_json,
    emit_summary,
    open_ledger,
    say,
    storage_of,
    surroundings_of,
)
from kropot.cli.base import command as define
from kropot.cli.calls import note_counts
from kropot.cli.sizes import SPAN
from kropot.errors import UsageError
from kropot.query.names import short_name
from kropot.query.past import labels_of
from kropot.wording import SECOND_US, amount, instant, number, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kropot.query.names import Labels
    from kropot.retention.freeing import FreedSum
    from kropot.retention.releasing import ReleaseSum
    from ledger.log import Ledger
    from ledger.note import SigningKey
    from ledger.retaining import Decided
    from ledger.retention import KeepRules

_FILE = click.Path(dir_okay=False, path_type=Path)
_WHY = {"replaced": "older versions", "vanished": "vanished elements"}


@define("prune")
@click.option("--dry-run", is_flag=True, help="Show what the policy would release, and change nothing.")
@click.option("--undo", is_flag=True, help="Take back every release whose bytes have not been freed yet.")
@click.option(
    "--grace",
    type=SPAN,
    default="7d",
    show_default=True,
    metavar="SPAN",
    help="How long a release waits before its bytes are freed. Until then, --undo takes it back.",
)
@click.option(
    "--key",
    "key_file",
    type=_FILE,
    help="The key for checkpoints, which signs a new policy. Default: a file for this ledger in your configuration "
    "folder.",
)
@click.option(
    "--max-unused",
    type=click.IntRange(0, 100),
    metavar="PERCENT",
    help="Rewrite every pack in which more than this percentage is unused. Default: 50, and only packs that lose "
    "objects now.",
)
def command(
    settings: Settings, *, dry_run: bool, undo: bool, grace: int, key_file: Path | None, max_unused: int | None
) -> None:
    """Release what the policy does not keep, and free the bytes after a grace period.

    The policy is in the table [retention] of the configuration file, e.g. with `keep-daily = 30`, and in
    [retention.LABEL] for one source. It selects restore points. A version of an element is kept if it was current at
    one of them, if it is the newest sound one, or if it was replaced less than `min-age` ago (30d).

    Each run releases what the policy no longer keeps, and frees the bytes of what was released at least --grace ago. It
    does neither while an alarm is open (exit code 3), or while the clock, the ledger and a source are more than a day
    apart. If there is a key for checkpoints, a checkpoint must cover a release before its bytes are freed.
    """
    if dry_run and undo:
        raise UsageError("give either --dry-run or --undo")
    if undo:
        _undo(settings)
        return
    policy = _policy()
    with open_ledger(settings, read_only=dry_run) as ledger:
        from kropot.retention.policy import bound

        labels = labels_of(ledger)
        rules = bound(policy, labels)
        if dry_run:
            _dry_run(settings, ledger, labels, rules)
        else:
            _prune(
                settings, ledger, labels, rules, grace_us=grace * SECOND_US, key_file=key_file, max_unused=max_unused
            )


def _policy() -> Mapping[str | None, KeepRules]:
    """Return the policy in the configuration file. Raises: UsageError if there is none."""
    from kropot.retention.policy import parse_policy

    file = config_file_of(click.get_current_context())
    if file is None or file.retention is None:
        raise UsageError(
            "there is no policy, so nothing is released: write a table [retention] into the configuration file, e.g. "
            "with keep-daily = 30"
        )
    try:
        return parse_policy(file.retention)
    except UsageError as error:
        raise UsageError(f"the configuration file {file.path}: {error}") from None


# --- work ------------------------------------------------------------------------------------------------------------


def _dry_run(settings: Settings, ledger: Ledger, labels: Labels, rules: tuple[KeepRules, ...]) -> None:
    from kropot.retention.conditions import demand_quiet, time_of
    from kropot.retention.deciding import Decider
    from kropot.retention.releasing import would_release
    from ledger.retaining import decided_of
    from ledger.retention import Retention

    at_us = time_of(ledger)
    demand_quiet(ledger)
    retention = Retention(rules=rules, pins=decided_of(ledger).retention.pins, signature=None)
    decider = Decider(ledger=ledger, retention=retention, position=ledger.head().position, at_us=at_us)
    found = would_release(decider)
    if settings.json:
        emit_json(
            "prune",
            {"dry_run": True, **_released_json(found, labels), "at": instant(at_us), "position": decider.position},
        )
        return
    for line in _released_text(found, labels, "would be released"):
        emit(line)


def _prune(
    settings: Settings,
    ledger: Ledger,
    labels: Labels,
    rules: tuple[KeepRules, ...],
    *,
    grace_us: int,
    key_file: Path | None,
    max_unused: int | None,
) -> None:
    from kropot.cli.repacking import repacking
    from kropot.cli.storage_further import step_each
    from kropot.objects.freeing import CanFree
    from kropot.retention.conditions import demand_quiet, time_of
    from kropot.retention.deciding import Decider
    from kropot.retention.freeing import FreeingRun, last_to_free
    from kropot.retention.keys import covered_by, key_for
    from kropot.retention.releasing import release
    from kropot.storage_away import demand_objects
    from ledger.retaining import decided_of, freeing_of

    storage = storage_of(settings)
    demand_objects(storage, ledger)
    at_us = time_of(ledger)
    demand_quiet(ledger)
    key = key_for(ledger, key_file)
    objects = storage.objects(places=ledger.places)
    try:
        before = decided_of(ledger)
        policy = before.position if rules == before.retention.rules else _set_policy(ledger, rules, before, key)
        decided = decided_of(ledger)
        decider = Decider(ledger=ledger, retention=decided.retention, position=ledger.head().position, at_us=at_us)
        released = release(decider, policy=policy, by=_who(), allowed=lambda: demand_quiet(ledger))
        covered = covered_by(ledger, None if key is None else key.verifier)
        if covered is None:
            say(
                "there is no key for checkpoints, so no signature shows which releases you wanted; prune goes on "
                "without one"
            )
        until = last_to_free(ledger, before_us=time_of(ledger) - grace_us, covered=covered)
        if not isinstance(objects, CanFree):
            raise UsageError("this kind of storage cannot free bytes")
        with repacking(ledger, storage, until=until, max_unused=max_unused) as packs:
            run = FreeingRun(
                ledger=ledger,
                objects=objects.freeing(),
                allowed=lambda: demand_quiet(ledger),
                repacking=packs,
                every_pack=packs is not None and max_unused is not None,
            )
            freed = run.released(until)
        waits = _waiting(ledger, freeing_of(ledger).freed.to)
        step_each(ledger, surroundings_of(settings))
    finally:
        objects.close()
    _tell(settings, released, freed, labels, waits=waits, grace_us=grace_us, covered=covered)


def _set_policy(ledger: Ledger, rules: tuple[KeepRules, ...], before: Decided, key: SigningKey | None) -> int:
    """Record the policy, signed if there is a key, and return its position. Raises: UsageError."""
    from kropot.retention.keys import covered_by
    from kropot.retention.signature import signed
    from ledger.retaining import decide
    from ledger.retention import PolicySet, Retention

    retention = Retention(rules=rules, pins=before.retention.pins, signature=None)
    if key is not None:
        retention = signed(retention, ledger.identity().ledger_id, key)
    elif covered_by(ledger, None) is not None:
        raise UsageError(
            "the policy is new, and a key signs the checkpoints of this ledger: name the key with --key, so that its "
            "signature shows that you want this policy"
        )
    return decide(ledger, PolicySet(retention=retention), before)


def _undo(settings: Settings) -> None:
    from kropot.retention.releasing import undo
    from kropot.storage_away import demand_objects

    storage = storage_of(settings)
    with open_ledger(settings) as ledger:
        demand_objects(storage, ledger)
        objects = storage.objects(places=ledger.places)
        try:
            done = undo(ledger, objects)
        finally:
            objects.close()
    if settings.json:
        emit_json("prune_undo", {"taken_back": done.copies, "bytes": done.bytes, "gone": done.gone})
        return
    emit(f"took back {number(done.copies, 'release')} ({amount(done.bytes)})")
    if done.gone:
        emit(f"{number(done.gone, 'release')} cannot be taken back: the object is gone or damaged")


def _who() -> str:
    """Return the user and the machine, as `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "?"
    return f"{user}@{platform.node()}"[:200]


def _waiting(ledger: Ledger, after: int) -> int:
    from kropot.retention.needed import releases_after

    return sum(1 for _ in releases_after(ledger, after, ledger.head().position))


# --- reports ---------------------------------------------------------------------------------------------------------


def _tell(
    settings: Settings,
    released: ReleaseSum,
    freed: FreedSum,
    labels: Labels,
    *,
    waits: int,
    grace_us: int,
    covered: int | None,
) -> None:
    copies, size = released.total
    note_counts(released=copies, released_bytes=size, freed=freed.objects, freed_bytes=freed.bytes, waiting=waits)
    if settings.json:
        row = _released_json(released, labels) | {"moved": released.moved, "waiting": waits, "covered": covered}
        emit_json(
            "prune",
            {
                "dry_run": False,
                **row,
                "freed": {"objects": freed.objects, "bytes": freed.bytes, "locked": freed.locked},
            },
        )
        return
    for line in _released_text(released, labels, "released"):
        emit_summary(line)
    emit_summary(f"freed {amount(freed.bytes)} of {number(freed.objects, 'object')}")
    if freed.locked:
        emit_summary(f"{amount(freed.locked)} stay in the bucket until their locks end")
    if waits:
        until = "" if covered is None else " and until a checkpoint covers them"
        emit_summary(f"{number(waits, 'release')} can be taken back with --undo: they wait for {span(grace_us)}{until}")


def _released_json(found: ReleaseSum, labels: Labels) -> dict[str, Any]:
    copies, size = found.total
    rows = [
        {"source": id_.hex(), "label": labels.get(id_), "reason": reason, "copies": count, "bytes": size_}
        for (id_, reason), (count, size_) in sorted(found.copies.items())
    ]
    return {"sources": rows, "copies": copies, "bytes": size}


def _released_text(found: ReleaseSum, labels: Labels, what: str) -> Iterator[str]:
    for (id_, reason), (count, size) in sorted(found.copies.items()):
        yield f"{short_name(labels, id_)}  {_WHY[reason]}: {_copies(count)}, {amount(size)}"
    copies, size = found.total
    verb = what if copies else f"nothing {what}: the policy keeps everything"
    yield f"{_copies(copies)} ({amount(size)}) {verb}" if copies else verb


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count:,} copies"
