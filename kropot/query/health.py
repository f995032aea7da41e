"""The health of a replica: which alarms the facts about it raise (`kropot/query/facts.py`); pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from kropot.collect.decide.sources import TOO_MANY, is_cut_short
from kropot.collect.failed_run import NO_ANSWER, REFUSED
from kropot.query.alarm import Alarm
from kropot.query.further import BEHIND_S, further_alarms
from kropot.query.storage import StorageLimits, storage_alarms
from kropot.wording import SECOND_US, number
from ledger.clock import DAY_US

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.query.facts import Facts, SourceFacts

_WHOLE_START: Final = bytes(32)
_WHOLE_END: Final = b"\xff" * 32


class Limits(Struct, frozen=True, kw_only=True):
    """When to raise an alarm, in seconds: since a good listing, of failing fetches, since contents were read.

    `drill_s` is the time since copies were last opened with a kit, None if no drill is expected. If all elements fail,
    or more than the share `failing_share` of them and more than `failing_count`, an alarm is raised at once.
    `expected` are the labels of the sources that should be there. `behind_s` is the time since a further storage was in
    step.
    """

    listing_s: int = 900
    failing_s: int = 86_400
    audit_s: int = 30 * 86_400
    drill_s: int | None = None
    failing_share: float = 0.1
    failing_count: int = 5
    storage: StorageLimits = field(default_factory=StorageLimits)
    behind_s: int = BEHIND_S
    expected: tuple[str, ...] = ()


def health(now_us: int, facts: Facts, limits: Limits) -> list[Alarm]:
    """Return the alarms, none if the replica is healthy. The same facts give the same alarms."""
    alarms = []
    if not facts.sources:
        text = "nothing was collected into this ledger yet: run `kropotcli collect`"
        alarms.append(Alarm(name="never_collected", source=None, text=text))
    alarms.extend(_missing_source_alarms(facts, limits.expected))
    if facts.storage is not None:
        listed_us = max((each.source.listed_us or 0 for each in facts.sources), default=0) or None
        alarms.extend(storage_alarms(facts.storage, limits.storage, listed_us=listed_us))
    alarms.extend(further_alarms(now_us, facts.further, limits.behind_s))
    for each in facts.sources:
        if each.past is None:
            alarms.extend(_run_alarms(each))
            alarms.extend(_listing_alarms(now_us, each, limits))
            alarms.extend(_doubtful_change_alarms(each))
            alarms.extend(_drill_alarms(now_us, each, limits))
        alarms.extend(_copy_alarms(now_us, each, limits))
    stale_us = audited_since_us(facts)
    if stale_us > now_us + DAY_US:
        stale_us = 0  # a clock was far ahead, so the time is unknown
    has_copies = any(size for each in facts.sources for _, size in each.states.values())
    if has_copies and now_us - stale_us > limits.audit_s * SECOND_US:
        text = "some stored contents have not been read and compared for too long: run `kropotcli verify`"
        alarms.append(Alarm(name="audit_stale", source=None, text=text, since_us=stale_us))
    return alarms


def audited_since_us(facts: Facts) -> int:
    """Return the time since which `verify` has read every content. Return the ledger's beginning if it never has."""
    reached = _WHOLE_START
    oldest = None
    for part in sorted(facts.audit, key=lambda each: (each.start, each.end)):
        if part.start > reached:
            break
        if part.end < reached:
            continue
        oldest = part.at_us if oldest is None else min(oldest, part.at_us)
        if part.end == _WHOLE_END:
            return oldest
        reached = _next(part.end)
    return facts.began_us


# --- judging ---------------------------------------------------------------------------------------------------------


def _missing_source_alarms(facts: Facts, expected: tuple[str, ...]) -> Iterator[Alarm]:
    """Yield an alarm for each expected source that the ledger lacks, because a refused token leaves no trace there."""
    labels = {each.label.casefold() for each in facts.sources if each.label is not None}
    for label in expected:
        if label.casefold() not in labels:
            text = (
                f"nothing was ever collected from {label}, a source of the configuration file: look in the collector's "
                f"log, or run `kropotcli collect --once --source {label}`; if the ledger has it under another label, "
                "use the same name in both"
            )
            yield Alarm(name="never_collected", source=None, text=text)


def _run_alarms(each: SourceFacts) -> Iterator[Alarm]:
    """Yield the alarm about the last run, if it failed and nothing has gone well since."""
    failed = each.failed_run
    if failed is None:
        return
    texts = {
        REFUSED: "the server refused the token: have it accepted again, or collect with a new token",
        NO_ANSWER: "the server could not be listed: look in the collector's log for the reason",
    }
    text = texts.get(failed.reason, f"it ended with an error ({failed.reason}): look in the collector's log")
    text = f"the last run of collector {failed.instance} failed; {text}"
    yield Alarm(name="run_failed", source=each.id, text=text, since_us=failed.at_us)


def _listing_alarms(now_us: int, each: SourceFacts, limits: Limits) -> Iterator[Alarm]:
    """Yield the alarms about the listings of a source."""
    listed_us = each.source.listed_us
    if listed_us is None:
        text = "no listing of the server has ever completed: check that the collector runs and reaches the server"
        yield Alarm(name="never_listed", source=each.id, text=text)
    elif now_us - listed_us > limits.listing_s * SECOND_US:
        text = (
            "the server has not been listed for too long: check that the collector runs, that the server answers, and "
            "that it accepts the token; if the server is gone or the token was replaced, run `kropotcli source retire`"
        )
        yield Alarm(name="listing_stale", source=each.id, text=text, since_us=listed_us)
    if each.unserved is not None and each.unserved.unreadable:
        text = (
            f"the server cannot read {number(each.unserved.unreadable, 'folder or file', 'folders or files')} of its "
            "source, so they are not backed up: give the gateway's user the right to read them (`kropotcli gateway "
            "check` names them)"
        )
        yield Alarm(name="unreadable", source=each.id, text=text)
    if each.unscanned_since is not None:
        text = (
            "the server has failed to scan its source, so nothing newer is backed up: the gateway's log says why (a "
            "command before or after the scan may fail, or the folder may not be mounted)"
        )
        yield Alarm(name="unscanned", source=each.id, text=text, since_us=each.unscanned_since * SECOND_US)
    if each.source.unlistable:
        seconds = number(len(each.source.unlistable), "second")
        text = (
            f"the server cannot list all files of {seconds}: copies that were already stored are kept, but nothing "
            f"else of that time is backed up: look for broken rows of these dates on the server"
        )
        yield Alarm(name="unlistable", source=each.id, text=text)


def _doubtful_change_alarms(each: SourceFacts) -> Iterator[Alarm]:
    """Yield the alarms about listings that were held back, and about surges of changes."""
    held, surge = each.source.held, each.source.surge
    if held is not None and is_cut_short(each.source):
        option = "--listing-entries" if held.reason == TOO_MANY else "--listing-growth"
        text = (
            f"the server's list is longer than {option} allows, so it is no longer requested: check the server, then "
            f"run `kropotcli source accept`, and collect with a larger {option} if the list is right"
        )
        yield Alarm(name="listing_too_long", source=each.id, text=text, since_us=held.since_us)
    elif held is not None and not held.is_accepted:
        text = (
            f"{held.missing} of {held.known} elements are missing on the server, so the listing was held back and "
            "nothing was marked as vanished: check the server, then run `kropotcli source accept`"
        )
        yield Alarm(name="vanishing_held", source=each.id, text=text, since_us=held.since_us)
    if surge is not None:
        text = (
            f"{surge.changed} of {surge.known} elements changed within 24 hours, as if something had encrypted them "
            "(the older copies are kept): check the server, then run `kropotcli source accept`"
        )
        yield Alarm(name="surge", source=each.id, text=text, since_us=surge.since_us)


def _drill_alarms(now_us: int, each: SourceFacts, limits: Limits) -> Iterator[Alarm]:
    """Yield the alarm about the drill of an encrypted source, if drills are expected."""
    if limits.drill_s is None or not each.needs_kit:
        return
    drill = each.drill
    if drill is None:
        text = (
            "no copy has ever been opened with a kit: run `kropotcli kit check` with the kit that you keep for a "
            "restore"
        )
        yield Alarm(name="drill_stale", source=each.id, text=text)
    elif drill.failed:
        text = (
            f"{drill.failed} of {drill.opened + drill.failed} copies did not open in the last drill: run `kropotcli kit"
            " check` again to see which, and `kropotcli verify`"
        )
        yield Alarm(name="drill_failed", source=each.id, text=text, since_us=drill.at_us)
    elif now_us - drill.at_us > limits.drill_s * SECOND_US:
        text = "no copy has been opened with a kit for too long: run `kropotcli kit check`"
        yield Alarm(name="drill_stale", source=each.id, text=text, since_us=drill.at_us)


def _copy_alarms(now_us: int, each: SourceFacts, limits: Limits) -> Iterator[Alarm]:
    """Yield the alarms about the copies of a source."""
    if each.beyond_help:
        copies = "1 copy is" if each.beyond_help == 1 else f"{each.beyond_help} copies are"
        text = (
            f"{copies} damaged or lost, and cannot be fetched again because the source no longer has the elements: "
            "run `kropotcli verify` to see which, and `kropotcli source dismiss` for those that are gone for good"
        )
        yield Alarm(name="beyond_help", source=each.id, text=text)
    oldest_us = each.failing_since_us
    if oldest_us is not None and now_us - oldest_us > limits.failing_s * SECOND_US:
        text = (
            f"{number(each.failing_count, 'element')} cannot be fetched, some for too long: run `kropotcli ls "
            "--failing` to see why, and `kropotcli source dismiss` for those that cannot be helped"
        )
        yield Alarm(name="failing", source=each.id, text=text, since_us=oldest_us)
        return
    present = sum(elements for state, (elements, _) in each.states.items() if state != "vanished")
    about = max(each.failing_count, each.failing_about)
    if about and (about >= present or (about > limits.failing_count and about > limits.failing_share * present)):
        text = (
            f"{about:,} of {number(present, 'element')} cannot be fetched: run `kropotcli ls --failing` to see why, "
            f"and check the server"
        )
        yield Alarm(name="many_failing", source=each.id, text=text, since_us=oldest_us)
    waiting_us = each.pending_since_us
    if waiting_us is not None and now_us - waiting_us > limits.failing_s * SECOND_US:
        text = (
            "some elements have waited for their first fetch for too long: check that the collector runs and that its "
            "storage has enough free space (--min-free)"
        )
        yield Alarm(name="waiting", source=each.id, text=text, since_us=waiting_us)


def _next(sha256: bytes) -> bytes:
    """Return the next 32 bytes in order. The largest value has no next one and MUST NOT be given."""
    return (int.from_bytes(sha256) + 1).to_bytes(32)
