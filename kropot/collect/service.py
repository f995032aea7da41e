"""Assembles a collector and runs it: the ledger, the storage, the server, the decisions, and the upkeep beside them.

`collect` is the only entry point. The command `collect` calls it, and so does `verify --repair`.
"""

from __future__ import annotations

import platform
import queue
import time
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.bandwidth import RateLimiter
from kropot.collect.binding import find_source
from kropot.collect.decide.plan import SECOND_US
from kropot.collect.decide.rules import LEASE_US, MOST_ENTRIES, MOST_GROWTH, CollectRules
from kropot.collect.decide.sources import Thresholds
from kropot.collect.decide.step import Collector
from kropot.collect.failed_run import REASONS, failure_recorded, record_failure
from kropot.collect.label import label_source
from kropot.collect.packing import gather
from kropot.collect.run.effects import LedgerEffects
from kropot.collect.run.loop import Loop
from kropot.collect.run.signals import stopped_by_signals
from kropot.collect.run.workers import Control, Crashed, Prefetching, Publisher, Transfer
from kropot.collect.transfer.choose import choose_engine
from kropot.collect.transfer.engine import Server
from kropot.collect.transfer.kept import read_note
from kropot.collect.transfer.prefetch import PrefetchThreads
from kropot.collect.transfer.process import TransferProcess
from kropot.durable.errors import StorageError
from kropot.errors import LockedError, UsageError
from kropot.gc_tuning import look_for_cycles_rarely
from kropot.objects.packs.packing import PackRule
from kropot.objects.packs.writer import PACK_BELOW
from kropot.processes import can_fork, processors
from kropot.storage_away import demand_objects
from kropot.upkeep import Upkeep, keep_checkpoints, keep_locked, keep_packed, keep_segments, keep_snapshots
from ledger.append import NewFact
from ledger.errors import InstanceBusyError
from ledger.events import InstanceBegan
from ledger.log import instance_key, utc_now_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from kropot.bandwidth import Timetable
    from kropot.collect.decide.progress import Progress
    from kropot.collect.run.loop import ProgressListener
    from kropot.collect.run.workers import Inbox, ObjectPublisher
    from kropot.collect.transfer.engine import TransferEngine
    from kropot.collect.transfer.prefetch import PrefetchEngine
    from kropot.errors import Exit
    from kropot.further.joining import Surroundings
    from kropot.objects.opening import Storage
    from kropot.objects.store import ObjectStore
    from kropot.objects.stores.address import StorageAddress
    from kropot.securecopy.client import SecureCopyClient, ServerAccess
    from kropot.segments import SegmentFolder
    from kropot.upkeep import Chore
    from ledger.events import Source
    from ledger.log import Ledger

SHORTEST_REFRESH_S: Final = 1
"""--refresh-time 0 lists again at once, as the first client did; this keeps it from asking in a tight loop."""

IN_STEP_S: Final = 10.0
"""How long a collector still updates further storages after it was asked to stop. The next start continues."""

IN_STEP_ONCE_S: Final = 600.0
"""The same at the end of `--once`, where nobody waits."""


class CollectOptions(Struct, frozen=True, kw_only=True):
    """What to collect, from where, into what, and how. Sizes are in bytes, times in seconds, shares in percent.

    `label` is what the configuration file calls the source. The storages at `also_store` are kept in step with
    `storage`, which `surroundings` name.
    """

    server: ServerAccess
    storage: Storage
    instance: str
    label: str | None = None
    refresh_time: int = 300
    once: bool = False
    full: bool = False
    new_source: bool = False
    min_free: int = 1 << 30
    full_every: int = 86_400
    pack_below: int = PACK_BELOW
    missing_percent: float = 10
    missing_count: int = 20
    surge_percent: float = 30
    surge_count: int = 5
    listing_entries: int = MOST_ENTRIES
    listing_growth: int = MOST_GROWTH
    segments: bool = True
    checkpoint_key: Path | None = None
    checkpoint_to: tuple[Path, ...] = ()
    checkpoint_every: int = 3600
    checkpoint_events: int = 100_000
    limit_rate: Timetable | None = None
    surroundings: Surroundings | None = None
    also_store: tuple[StorageAddress, ...] = ()


class Outcome(Struct, frozen=True, kw_only=True):
    """What a run did: its exit code, its counts, the source as it is now, and how many elements still wait or fail.

    `trouble` is the stable word for why the server kept the run from its work, None if it did not.
    """

    code: Exit
    source_id: bytes
    source: Source
    progress: Progress
    pending: int
    failing: int
    trouble: str | None = None


def collect(
    ledger: Ledger,
    options: CollectOptions,
    *,
    show: Callable[[], AbstractContextManager[ProgressListener]],
    say: Callable[[str], None],
    warn: Callable[[str], None],
    stopping: Callable[[Loop], AbstractContextManager[None]] = stopped_by_signals,
) -> Outcome:
    """Run a collector until it is done or is asked to stop.

    `show` opens the progress display; `say` and `warn` take a sentence for the user. Within the block that `stopping`
    opens, the loop can be asked to stop.

    Raises:
        LockedError: another live process works under this instance's name.
        UsageError: the token is known from another server, or an option makes no sense.
        ServerRefusedError: the token is new, and the server refuses it.
        StorageAwayError: the ledger names objects, and the storage has no folder for them.
        IntegrityError: the storage holds a different history from the ledger.
    """
    with _locked_storage(options, ledger) as objects, options.server.client() as client:
        segments = options.storage.segments(writing=True)
        segments.check(ledger)
        with _enrolled(options, ledger):
            removed = objects.clean_own_leftovers(partial(_is_wanted, ledger))
            if removed:
                say(f"removed {removed:,} unfinished file{'' if removed == 1 else 's'} of an earlier run")
            source_id = find_source(options.server, ledger, new_source=options.new_source, say=say)
            if options.label is not None:
                label_source(ledger, source_id, options.label, warn=warn)
            rules = _rules(options)
            collector = Collector(source_id, ledger.sources()[source_id].source, rules)
            with _transfers(options, client, objects, warn) as movers, show() as listener:
                loop = _loop(
                    collector,
                    rules,
                    ledger=ledger,
                    client=client,
                    objects=objects,
                    movers=movers,
                    listener=listener,
                )
                look_for_cycles_rarely()
                with (
                    stopping(loop),
                    _in_step(options, ledger, loop, warn),
                    _upkeep(options, ledger, segments, loop, warn),
                    failure_recorded(ledger, source_id, options.instance),
                ):
                    code = loop.run()
                    if code in REASONS:
                        record_failure(ledger, source_id, options.instance, REASONS[code])
            return Outcome(
                code=code,
                source_id=source_id,
                source=collector.source,
                progress=collector.progress,
                pending=_pending(ledger, source_id),
                failing=collector.failing,
                trouble=collector.trouble,
            )


# --- what a collector needs ---------------------------------------------------------------------------------------


class _Movers(Struct, frozen=True, kw_only=True):
    """What moves contents: the factories of the engines, and the publisher."""

    engine: Callable[[], TransferEngine]
    publisher: ObjectPublisher
    prefetching: Callable[[], PrefetchEngine]


def _here(
    options: CollectOptions, client: SecureCopyClient, objects: ObjectStore, warn: Callable[[str], None]
) -> tuple[Callable[[], TransferEngine], Callable[[], PrefetchThreads]]:
    """Return the factories of the engines that move contents, for whichever process calls them."""
    choice = choose_engine()
    if choice.warning:
        warn(choice.warning)
    server = Server(
        base_url=client.base_url,
        headers=client.headers(),
        silence_s=options.server.content_silence_s,
        ca_file=None if options.server.ca_file is None else str(options.server.ca_file),
        limiter=None if options.limit_rate is None else RateLimiter(options.limit_rate),
    )
    return (
        lambda: choice.make(server, objects, keep_free=options.min_free),
        lambda: PrefetchThreads(server, objects, keep_free=options.min_free),
    )


@contextmanager
def _transfers(
    options: CollectOptions, client: SecureCopyClient, objects: ObjectStore, warn: Callable[[str], None]
) -> Iterator[_Movers]:
    """Open the engine factories and the publisher, in a process of their own if that pays, else in this one."""
    make, make_prefetching = _here(options, client, objects, warn)
    if not can_fork() or processors() == 1:
        yield _Movers(engine=make, publisher=objects, prefetching=make_prefetching)
        return
    process = TransferProcess(make, objects, make_prefetching)
    try:
        yield _Movers(engine=lambda: process, publisher=process, prefetching=lambda: process.prefetching)
    finally:
        process.end()


@contextmanager
def _locked_storage(options: CollectOptions, ledger: Ledger) -> Iterator[ObjectStore]:
    """Hold the instance's name in the storage, and leave nothing unfinished there."""
    demand_objects(options.storage, ledger)
    # Without the ledger's places, because contents are stored in a fork, which must not use our connections.
    objects = options.storage.objects(pack=PackRule(below=options.pack_below))
    objects.lock()
    try:
        yield objects
        # No transfer runs any more. Remove what was broken off now, because the next start may be far away.
        with suppress(StorageError):
            objects.clean_own_leftovers(partial(_is_wanted, ledger))
    finally:
        objects.close()


def _is_wanted(ledger: Ledger, note: bytes) -> bool:
    """Whether the bytes of a transfer that broke off are still wanted: its element is present and has no sound copy."""
    kept = read_note(note)
    entry = None if kept is None else ledger.entries({kept.stream}).get(kept.stream)
    element = None if entry is None else entry.element
    return element is not None and element.present and (element.copy is None or element.damage is not None)


@contextmanager
def _enrolled(options: CollectOptions, ledger: Ledger) -> Iterator[None]:
    """Hold the instance's name in the ledger. Raises: LockedError while another live process holds it."""
    ledger.begin()
    try:
        ledger.work.enroll(options.instance, place=options.storage.place, lease_us=LEASE_US, here=True)
        _record_instance(options, ledger)
        yield
    except InstanceBusyError as error:
        raise LockedError(
            f"instance {options.instance} is already running ({error.place}): stop it first, or give this one another "
            f"--instance-name; if it crashed, its name is free after {LEASE_US // 60_000_000} minutes"
        ) from error
    finally:
        # This ends only this session; another process that has the name keeps it.
        ledger.work.retire(options.instance)


def _record_instance(options: CollectOptions, ledger: Ledger) -> None:
    """Record that this instance runs here with this version, unless its last run said the same."""
    key = instance_key(options.instance)
    fact = InstanceBegan(program=f"kropotcli {version('kropotcli')}", host=platform.node())
    last = next(ledger.history(key, newest_first=True), None)
    if last is None or last.fact != fact:
        ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.clock_us())])


# --- the collector and what runs beside it ---------------------------------------------------------------------------


def _pending(ledger: Ledger, source_id: bytes) -> int:
    """Return how many elements of the source wait for their copies, failing or not."""
    tallies = ledger.tallies()
    return sum(each.elements for each in tallies if each.source == source_id and each.state == "pending")


def _rules(options: CollectOptions) -> CollectRules:
    return CollectRules(
        instance=options.instance,
        once=options.once,
        full=options.full,
        refresh_us=max(options.refresh_time, SHORTEST_REFRESH_S) * SECOND_US,
        full_every_us=options.full_every * SECOND_US,
        thresholds=Thresholds(
            missing_share=options.missing_percent / 100,
            missing_count=options.missing_count,
            changed_share=options.surge_percent / 100,
            changed_count=options.surge_count,
        ),
        min_free=options.min_free,
        most_entries=options.listing_entries,
        most_growth=options.listing_growth,
    )


def _loop(
    collector: Collector,
    rules: CollectRules,
    *,
    ledger: Ledger,
    client: SecureCopyClient,
    objects: ObjectStore,
    movers: _Movers,
    listener: ProgressListener,
) -> Loop:
    inbox: Inbox = queue.SimpleQueue()
    effects = LedgerEffects(
        ledger=ledger,
        source_id=collector.source_id,
        instance=rules.instance,
        lease_us=rules.lease_us,
        free_bytes=objects.free_bytes,
        holds=objects.holds,
    )
    return Loop(
        collector=collector,
        effects=effects,
        control=Control(client, inbox),
        transfer=Transfer(movers.engine, inbox),
        publisher=Publisher(movers.publisher, inbox),
        prefetching=Prefetching(movers.prefetching, inbox),
        inbox=inbox,
        listener=listener,
        clock=utc_now_us,
        rest=time.sleep,
    )


def _upkeep(
    options: CollectOptions, ledger: Ledger, segments: SegmentFolder, loop: Loop, warn: Callable[[str], None]
) -> Upkeep:
    """Return the upkeep of the ledger that runs beside the loop."""
    chores = [keep_snapshots(ledger)]
    if options.pack_below:
        rule = PackRule(below=options.pack_below)
        chores.append(keep_packed(lambda: gather(ledger, options.storage, rule, only_if_worth=True)))
    if options.segments:
        chores.append(keep_segments(ledger, segments))
    versioned = options.storage.versioned()
    if versioned is not None:
        chores.append(keep_locked(ledger, versioned))
    key_file = _signing_key_file(options, ledger)
    if key_file is not None:
        from kropot.checkpoints.folder import CheckpointFolder
        from kropot.checkpoints.keys import read_signing_key

        key = read_signing_key(key_file)
        folders = [CheckpointFolder(folder) for folder in options.checkpoint_to]
        every_s, every_events = options.checkpoint_every, options.checkpoint_events
        chores.append(keep_checkpoints(ledger, key, key_file, folders, every_s=every_s, every_events=every_events))

    def told(chore: str, error: Exception) -> None:
        warn(f"the upkeep of the replica's {chore} failed: {error}; the collector tries again")

    return Upkeep(chores, told=told, crashed=lambda error: loop.inbox.put(Crashed(error)))


@contextmanager
def _in_step(options: CollectOptions, ledger: Ledger, loop: Loop, warn: Callable[[str], None]) -> Iterator[None]:
    """Keep the further storages in step on a separate thread, because the first copy of everything takes long."""
    if options.surroundings is None or not options.also_store:
        yield
        return
    from kropot.further.keeping import InStep

    chores: list[Chore] = []
    upkeep = Upkeep(
        chores,
        told=lambda _, error: warn(f"the further storages are behind: {error}; the collector tries again"),
        crashed=lambda error: loop.inbox.put(Crashed(error)),
        patience=lambda: IN_STEP_ONCE_S if options.once and not loop.is_stopping else IN_STEP_S,
    )
    in_step = InStep(
        ledger,
        options.surroundings,
        options.also_store,
        segments=options.segments,
        warn=warn,
        stopped=lambda: upkeep.is_out_of_time,
    )
    chores.append(in_step.chore)
    with upkeep:
        yield


def _signing_key_file(options: CollectOptions, ledger: Ledger) -> Path | None:
    """Return the key file for checkpoints, None if none are signed.

    Raises: UsageError for folders without a key.
    """
    from kropot.checkpoints.paths import default_key_path

    file = options.checkpoint_key or default_key_path(ledger.identity().ledger_id)
    if file is None or (options.checkpoint_key is None and not file.exists()):
        if options.checkpoint_to:
            raise UsageError("--checkpoint-to needs a key: make one with `kropotcli checkpoint init`")
        return None
    return file
