"""`kropotcli status`: shows the state of the replica, and whether it is healthy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from kropot.cli.base import (
    Exit,
    Settings,
    config_file_of,
    emit,
    emit_json,
    open_ledger,
    storage_of,
    surroundings_of,
    table_of,
    warn,
    warn_of_frozen_time,
)
from kropot.cli.base import command as define
from kropot.cli.calls import call_about_alarms, note_counts
from kropot.cli.limits import listing_limit_s
from kropot.cli.sizes import SIZE, SPAN, span_of
from kropot.coverage import foreseen_us, never_read, share
from kropot.durable.errors import StorageError
from kropot.errors import UsageError
from kropot.query.facts import gather
from kropot.query.health import Limits, health
from kropot.query.locks import locks_json, locks_of, locks_text, waiting_text
from kropot.query.names import short_name
from kropot.query.space import space_of, space_text
from kropot.query.storage import StorageLimits
from kropot.securecopy.trouble import AT_A_CONTENT, sentence
from kropot.wording import SECOND_US, amount, counts, moment, number, one_line, span

if TYPE_CHECKING:
    from kropot.objects.stores.versioned import LockShare
    from kropot.query.alarm import Alarm
    from kropot.query.facts import Facts, SourceFacts
    from kropot.query.further import FurtherFacts
    from kropot.query.storage import LongTransfer, StorageFacts
    from ledger.events import AuditRange
    from ledger.log import Ledger

_MOST_RANGES = 16
_MOST_SECONDS = 5
_SHOWN = 2
"""How many bytes of a SHA-256 are shown for each end of a range."""
_MISSED_RUNS = 2
"""`status` raises an alarm after this many periods of --expect-every without a good listing."""


@define("status")
@click.option("--check", is_flag=True, help="For monitoring: the exit code is 3 if the replica is not healthy.")
@click.option(
    "--nagios",
    is_flag=True,
    help="With --check, as a monitoring plugin: one line with performance data; the exit code is 0 (ok), 1 (warning), 2"
    " (critical) or 3 (unknown).",
)
@click.option(
    "--failing",
    "shown",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many failing elements to show for each source. Those that have failed longest come first.",
)
@click.option(
    "--expect-every",
    type=SPAN,
    metavar="SPAN",
    help="How often you start a run, e.g. 1h for an hourly `collect --once`. Raise an alarm if the last good listing "
    "is older than twice this. Default: three times --refresh-time is the limit.",
)
@click.option(
    "--min-free",
    type=SIZE,
    metavar="SIZE",
    envvar=["KROPOT_STATUS_MIN_FREE", "KROPOT_COLLECT_MIN_FREE"],
    help="Raise an alarm if the storage, or the folder of an SQLite ledger, has less free space than this. Default: "
    "the value for `collect` in the environment or the configuration file, else 1GiB.",
)
@click.option(
    "--max-failing-percent",
    type=click.FloatRange(min=0, max=100),
    default=10,
    show_default=True,
    help="Raise an alarm at once if more than this percentage of the elements fail.",
)
@click.option(
    "--max-failing-hours",
    "failing_s",
    type=span_of("h", least=1),
    default="24h",
    metavar="SPAN",
    show_default=True,
    help="Raise an alarm if an element has failed, or has waited for its first fetch, for longer than this.",
)
@click.option(
    "--max-audit-days",
    "audit_s",
    type=span_of("d", least=1),
    default="30d",
    metavar="SPAN",
    show_default=True,
    help="Raise an alarm if `verify` has not read some contents for longer than this.",
)
@click.option(
    "--max-behind-days",
    "behind_s",
    type=span_of("d", least=1),
    default="2d",
    metavar="SPAN",
    show_default=True,
    help="Raise an alarm if a further storage (--also-store) has not been in step for longer than this.",
)
@click.option(
    "--max-drill-days",
    "drill_s",
    type=span_of("d", least=1),
    metavar="SPAN",
    help="Raise an alarm if `kit check` has not opened copies of an encrypted source for longer than this, e.g. 400."
    " Default: no alarm.",
)
@click.option(
    "--space",
    "everything",
    is_flag=True,
    help="Count every copy and object, to show what fills the storage and when it will be full. Default: only if "
    "there are at most 100,000 elements.",
)
def command(
    settings: Settings,
    *,
    check: bool,
    nagios: bool,
    shown: int,
    expect_every: int | None,
    min_free: int | None,
    max_failing_percent: float,
    failing_s: int,
    audit_s: int,
    behind_s: int,
    drill_s: int | None,
    everything: bool,
) -> Exit:
    """Show the state of the replica, and whether it is healthy.

    The replica is not healthy if one of these is true:

    \b
    - The storage is away, nearly full, or out of inodes, or lacks objects.
    - `collect` would refuse this ledger, or writes no segments to the storage.
    - A further storage was not in step for two days.
    - The last run failed, e.g. because the server refused the token.
    - The last good listing is too old: see --expect-every.
    - More than a tenth of the elements fail, or all of them.
    - An element has failed, or has waited for its first fetch, for a day.
    - A listing is held back because too many elements are missing.
    - There is a surge: too many elements changed within 24 hours.
    - A copy is damaged or lost, and the source no longer has the element.
    - There are seconds that the server cannot list.
    - The server cannot read a part of its source, or fails to scan it.
    - Some contents were not read and compared for 30 days.
    - With --max-drill-days: the last `kit check` is too old, or a copy did not open.
    """  # noqa: D301 - click needs the character \b, which keeps the list's line breaks
    if nagios and (settings.json or not check):
        raise UsageError("--nagios prints the line of a monitoring plugin: give it with --check, and without --json")
    file = config_file_of(click.get_current_context())
    limits = Limits(
        expected=() if file is None else tuple(file.sources),
        listing_s=listing_limit_s(settings) if expect_every is None else _MISSED_RUNS * expect_every,
        failing_share=max_failing_percent / 100,
        storage=StorageLimits(min_free=_min_free_of_collect() if min_free is None else min_free),
        failing_s=failing_s,
        audit_s=audit_s,
        behind_s=behind_s,
        drill_s=drill_s,
    )
    with open_ledger(settings, read_only=True) as ledger:
        facts = gather(ledger, storage_of(settings), surroundings=surroundings_of(settings), shown=shown)
        ledger_id = ledger.identity().ledger_id if facts.position else None
        free = None if facts.storage is None else facts.storage.room.bytes
        space = space_of(ledger, storage_of(settings), free=free, everything=True if everything else None)
        locks = _locks(settings, ledger, everything=everything)
    # If this clock is behind, old events must not look new. The ledger's own time can be stuck, years ahead.
    clock_us = time.time_ns() // 1000
    warn_of_frozen_time(facts.recorded_us, clock_us)
    now_us = max(clock_us, facts.observed_us)
    alarms = health(now_us, facts, limits)
    file = config_file_of(click.get_current_context())
    if check:
        note_counts(alarms=len(alarms))
        if ledger_id is not None and file is not None:
            call_about_alarms(file.notify, ledger_id, facts, alarms)
    if nagios:
        from kropot.cli.nagios import plugin_line, plugin_state

        emit(plugin_line(now_us, facts, alarms, limits))
        return Exit(plugin_state(alarms))
    if settings.json:
        from kropot.query.render import status_json

        emit_json("status", status_json(now_us, facts, alarms) | {"space": space.json, "locks": locks_json(locks)})
    elif alarms or not (check and settings.quiet):
        lines = as_text(now_us, facts, alarms)
        at = lines.index("")  # after the storage, before the first source
        for line in [*lines[:at], *space_text(space), *locks_text(locks), *lines[at:]]:
            emit(line)
    return Exit.PARTIAL if check and alarms else Exit.DONE


def _locks(settings: Settings, ledger: Ledger, *, everything: bool) -> LockShare | None:
    """Return what is locked in the bucket, None if the storage keeps no versions, or if they cannot be read."""
    try:
        return locks_of(ledger, storage_of(settings), everything=everything)
    except StorageError as error:
        warn(f"cannot tell what is locked in the bucket: {error}")
        return None


def _min_free_of_collect() -> int:
    """Return how much space `collect` leaves free, from the configuration file. Raises: click.BadParameter."""
    ctx = click.get_current_context()
    return SIZE.convert(table_of(ctx, ["collect"]).get("min_free", "1GiB"), None, ctx)


def as_text(now_us: int, facts: Facts, alarms: list[Alarm]) -> list[str]:
    """Return the status as lines of text."""
    lines = [f"ledger   position {facts.position}, last event {moment(facts.recorded_us or None)}"]
    if facts.erased:
        lines.append(f"erased   {facts.erased}")
    if facts.storage is not None:
        lines.append(_storage_text(facts.storage))
        lines += [_transfer_text(now_us, each) for each in facts.storage.transfers]
    for each in facts.further:
        lines += [_further_text(facts.position, each), *waiting_text(each.waiting)]
    for source in facts.sources:
        lines += _source_text(now_us, source)
    if any(size for each in facts.sources for _, size in each.states.values()):
        lines += ["", *_audit_text(facts.audit)]
    if alarms:
        lines += ["", f"NOT HEALTHY: {number(len(alarms), 'alarm')}"]
        lines += [_alarm_text(alarm, _name_in(facts, alarm)) for alarm in alarms]
    else:
        lines += ["", "healthy"]
    return lines


def _storage_text(storage: StorageFacts) -> str:
    """Return the storage as a line of text."""
    if storage.away is not None or storage.trouble is not None:
        return f"storage  {storage.place} (missing, or not readable)"
    held = f", {number(storage.copies, 'copy', 'copies')} ({amount(storage.copied_bytes)})"
    if storage.packs.packs:
        held += f", {number(storage.packs.objects, 'object')} in {number(storage.packs.packs, 'pack')}"
    free = "" if storage.room.bytes is None else f", {amount(storage.room.bytes)} free"
    free += "" if storage.room.files is None else f", {number(storage.room.files, 'inode')} free"
    to = "" if storage.segments_to is None else f", history up to event {storage.segments_to}"
    return f"storage  {storage.place}{held}{free}{to}"


def _further_text(position: int, each: FurtherFacts) -> str:
    """Return a further storage as a line of text."""
    row = each.row
    there = "" if each.why_away is None else f" (away: {one_line(each.why_away)})"
    behind = "nothing yet" if not row.position else f"up to event {row.position}"
    behind += f" of {position}" if row.position < position else ""
    return f"also in  {one_line(row.address)}{there}, {behind}, in step at {moment(row.kept_us)}, id {row.id.hex()}"


def _transfer_text(now_us: int, each: LongTransfer) -> str:
    """Return a long transfer as a line of text."""
    share_ = each.received / each.length if each.length else 0
    return (
        f"receives {one_line(each.key.id)}  {amount(each.received)} of {amount(each.length)} ({share_:.0%}), the last"
        f" bytes {span(now_us - each.heard_us)} ago (collector {one_line(each.instance)})"
    )


def _audit_text(ranges: tuple[AuditRange, ...]) -> list[str]:
    """Return which contents `verify` read, and when, as lines of text."""
    if not ranges:
        return ["contents never read and compared: run `kropotcli verify`"]
    by_us, never = foreseen_us(ranges), never_read(ranges)
    oldest = min(each.at_us for each in ranges)
    if never:
        lines = [f"contents {1 - never:.1%} read and compared, {never:.1%} never"]
    else:
        lines = [f"contents all read and compared since {moment(oldest)}"]
    if len(ranges) > 1:
        lines += [
            f"  {each.start[:_SHOWN].hex()}..{each.end[:_SHOWN].hex()}  {share(each.start, each.end):6.1%}"
            f"  read {moment(each.at_us)}"
            for each in ranges[:_MOST_RANGES]
        ]
        if len(ranges) > _MOST_RANGES:
            lines.append(f"  and {number(len(ranges) - _MOST_RANGES, 'part')} more, read later (--json shows them)")
    if by_us is not None:
        what = "the rest will be read" if never else "everything will be read again"
        lines.append(f"  at this pace, {what} by {moment(by_us)}")
    elif never:
        lines.append("  too early to estimate when the rest will be read: run `kropotcli verify` again")
    return lines


def _source_text(now_us: int, each: SourceFacts) -> list[str]:
    """Return one source as lines of text."""
    source = each.source
    label = "" if each.label is None else f"{each.label}  "
    lines = ["", f"source   {each.id.hex()}  {label}{source.url}"]
    if each.past is not None:
        lines.append(f"         past: {each.past.text}; the copies of this source stay")
    if source.opaque is False:
        lines.append("         not zero-knowledge: the token is plain, so this replica can read names and contents")
    lines += [] if each.vault is None else [f"  vault    {each.vault.hex()}"]
    for state, (elements, size) in sorted(each.states.items()):
        if elements:
            lines.append(f"  {state:<9}{number(elements, 'element')}, {amount(size)}")
    cursor = "-" if source.cursor is None else f"{moment(source.cursor * SECOND_US)} (server's clock)"
    lines.append(f"  cursor   {cursor}")
    lag = "" if source.listed_us is None else f", {span(now_us - source.listed_us)} ago"
    lines.append(f"  listed   {moment(source.listed_us)}{lag} (last full listing {moment(source.full_listed_us)})")
    lines += _drill_text(each)
    if source.unlistable:
        shown = ", ".join(moment(second * SECOND_US) for second in source.unlistable[:_MOST_SECONDS])
        more = len(source.unlistable) - _MOST_SECONDS
        lines.append(f"  unlisted {shown}{f' and {more} more (--json shows them)' if more > 0 else ''}")
    if each.failed_run is not None:
        lines.append(f"  failed   the last run, at {moment(each.failed_run.at_us)}: {each.failed_run.reason}")
    if each.unserved is not None:
        lines.append(f"  unserved {counts(asdict(each.unserved))} (as the server says)")
    if each.pending_since_us is not None:
        lines.append(f"  waiting  longest since {moment(each.pending_since_us)}")
    lines += _failing_text(each)
    if each.dismissed:
        lines.append(f"  dismissed {number(each.dismissed, 'element')} (`kropotcli ls` shows which)")
    return lines


def _drill_text(each: SourceFacts) -> list[str]:
    """Return when copies of a source were last opened with a kit, as a line of text; no line if it needs no kit."""
    drill = each.drill
    if not each.needs_kit:
        return []
    if drill is None:
        return ["  drill    no copy has ever been opened with a kit: run `kropotcli kit check`"]
    opened = "1 copy" if drill.opened == 1 else f"{drill.opened:,} copies"
    failed = f", and {drill.failed:,} did not open" if drill.failed else ""
    return [f"  drill    {opened} opened with a kit at {moment(drill.at_us)}{failed}"]


def _failing_text(each: SourceFacts) -> list[str]:
    """Return the failing elements of a source as lines of text."""
    if not each.failing_count:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in each.reasons.items())
    about = f"about {each.failing_about:,}, e.g. " if each.is_sampled else ""
    return [
        f"  failing  {about}{number(each.failing_count, 'element')}: {reasons}",
        *(f"           the server: {sentence(why)}" for why in sorted(AT_A_CONTENT & each.reasons.keys())),
        *(
            f"           {one_line(failing.key.id)}  {failing.reason}, {number(failing.attempts, 'attempt')}, "
            f"next try {moment(failing.next_try_us)}"
            for failing in each.failing
        ),
    ]


def _name_in(facts: Facts, alarm: Alarm) -> str | None:
    """Return the name of the alarm's source, None if it has no source, or if there is only one source."""
    labels = {each.id: each.label for each in facts.sources}
    return None if alarm.source is None or len(labels) == 1 else short_name(labels, alarm.source)


def _alarm_text(alarm: Alarm, source: str | None) -> str:
    """Return one alarm as a line of text, with the name of its source."""
    name = alarm.name if source is None else f"{alarm.name} ({source})"
    since = "" if alarm.since_us is None else f" (since {moment(alarm.since_us)})"
    return f"  {name}: {alarm.text}{since}"
