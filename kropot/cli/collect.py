"""`kropotcli collect`: pull everything new from the server into the replica."""

from __future__ import annotations

import hmac
import platform
import secrets
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli.base import (
    Exit,
    Settings,
    emit,
    emit_json,
    need_server,
    open_client,
    open_ledger,
    open_objects,
    say,
    warn,
)
from kropot.cli.base import command as define
from kropot.cli.sizes import SIZE, SPAN
from kropot.cli.words import amount, number
from kropot.errors import LockedError, UsageError
from ledger.errors import InstanceBusyError, LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.checkpoints import CheckpointFolder
    from kropot.cli.progress import ProgressDisplay
    from kropot.collect.decide.rules import CollectRules
    from kropot.collect.decide.step import Collector
    from kropot.collect.run.loop import Loop
    from kropot.collect.transfer.engine import TransferEngine
    from kropot.objects.store import ObjectStore
    from kropot.securecopy.client import SecureCopyClient
    from kropot.segments import SegmentFolder
    from kropot.upkeep import Upkeep
    from ledger.log import Ledger
    from ledger.note import SigningKey

LONGEST_TRIAL_S: Final = 10
"""A server that is slower to say whether it knows a new token is asked by the collector, which has the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line wants beside the settings: see the options' help. Sizes are bytes, times seconds."""

    once: bool
    full: bool = False
    new_source: bool = False
    min_free: int = 1 << 30
    full_every: int = 86_400
    missing_percent: float = 10
    missing_count: int = 20
    surge_percent: float = 30
    surge_count: int = 5
    segments: bool = True
    checkpoint_key: Path | None = None
    checkpoint_to: tuple[Path, ...] = ()
    checkpoint_every: int = 3600
    checkpoint_events: int = 100_000


@define("collect")
@click.option(
    "--once",
    is_flag=True,
    help="Try everything that is wanted, then end; 3 if something could not be had or was not believed. While another"
    " collector lists the server, this one waits for the end of that; what another living one is fetching is left to"
    " it.",
)
@click.option("--full", is_flag=True, help="Begin with a listing of everything, which also finds what is gone.")
@click.option("--new-source", is_flag=True, help="The token is known from another server, and this is a different one.")
@click.option(
    "--min-free",
    type=SIZE,
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="Rest from fetching while less than this is free in the storage.",
)
@click.option(
    "--full-every",
    type=SPAN,
    default="24h",
    show_default=True,
    metavar="SPAN",
    help="List everything at least this often.",
)
@click.option(
    "--missing-percent",
    type=click.FloatRange(min=0, max=100),
    default=10,
    show_default=True,
    help="Believe no vanishing of more than this share of the elements and of more than --missing-count.",
)
@click.option(
    "--missing-count",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="So many may vanish at once whatever share of the elements they are.",
)
@click.option(
    "--surge-percent",
    type=click.FloatRange(min=0, max=100),
    default=30,
    show_default=True,
    help="Raise an alarm when more than this share of the elements and more than --surge-count change within 24 hours.",
)
@click.option(
    "--surge-count",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="So many may change within 24 hours whatever share of the elements they are.",
)
@click.option(
    "--segments/--no-segments",
    default=True,
    help="Write the ledger's events into the storage path, too, so that it alone is a whole backup; on by default.",
)
@click.option(
    "--checkpoint-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign checkpoints with this key; by default with the one that `checkpoint init` made, if there is one.",
)
@click.option(
    "--checkpoint-to",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    help="Write the checkpoints here too; may be repeated.",
)
@click.option(
    "--checkpoint-every",
    type=SPAN,
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="Sign a checkpoint this often while there are new events.",
)
@click.option(
    "--checkpoint-events",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Sign a checkpoint after so many new events at the latest.",
)
def command(settings: Settings, **options: Any) -> Exit:
    """Pull everything new from the server into the replica, again and again until it is stopped.

    Contents come as the server encrypts them and are stored under their SHA-256; what happened is recorded in the
    ledger. SIGTERM and Ctrl-C end it within seconds; nothing that was acknowledged is ever lost.
    """
    return collect(settings, Wish(**options))


def collect(settings: Settings, wish: Wish, *, tell: bool = True) -> Exit:
    """Collect as wished, and with `tell` say on stdout what it came to; also what a repair does when it fetches.

    Raises: LockedError while another living process works under this instance's name, UsageError for a moved server.
    """
    need_server(settings)
    began = time.monotonic()
    with (
        _ended_by_signal(Exit.PARTIAL if wish.once else Exit.DONE),
        open_ledger(settings, create=True) as ledger,
        _claimed(settings, ledger) as objects,
        open_client(settings) as client,
        _unforked(settings, ledger) as segments,
        _enrolled(settings, ledger),
    ):
        removed = objects.clean_own_leftovers()
        if removed:
            say(f"removed {number(removed, 'unfinished file')} of an earlier run")
        source_id = _find_source(settings, ledger, wish)
        ready = _Ready(
            settings=settings,
            wish=wish,
            ledger=ledger,
            objects=objects,
            client=client,
            engine=_engine(settings, wish, client, objects),
            source_id=source_id,
            segments=segments,
            tell=tell,
        )
        return ready.collect(began)


@contextmanager
def _claimed(settings: Settings, ledger: Ledger) -> Iterator[ObjectStore]:
    """Hold the instance's name in the storage, and leave nothing unfinished there.

    Raises: LockedError while another living process holds it, StorageAwayError where the ledger's objects are away.
    """
    from kropot.objects.absent import demand_objects
    from kropot.objects.store import StorageError

    demand_objects(settings.storage_path, ledger)
    objects = open_objects(settings)
    objects.claim()
    try:
        yield objects
        # Nobody moves contents any more: what was broken off is not left for the next start, which may be long to come.
        with suppress(StorageError):
            objects.clean_own_leftovers()
    finally:
        objects.close()


def _engine(
    settings: Settings, wish: Wish, client: SecureCopyClient, objects: ObjectStore
) -> Callable[[], TransferEngine]:
    """Return what makes the engine that moves contents."""
    from kropot.collect.transfer.choose import choose_engine
    from kropot.collect.transfer.engine import Server

    choice = choose_engine()
    if choice.warning:
        warn(choice.warning)
    server = Server(
        base_url=client.base_url,
        headers=client.headers(),
        total_s=settings.http_timeout,
        ca_file=None if settings.ca_file is None else str(settings.ca_file),
    )
    return lambda: choice.make(server, objects, keep_free=wish.min_free)


def _segments(settings: Settings) -> SegmentFolder:
    from kropot.objects.layout import Layout
    from kropot.segments import SegmentFolder

    scratch = Layout(str(settings.storage_path.absolute())).instance(settings.instance_name)
    return SegmentFolder(settings.storage_path.absolute(), scratch=Path(scratch))


@contextmanager
def _unforked(settings: Settings, ledger: Ledger) -> Iterator[SegmentFolder]:
    """Go on only if the storage knows no other history than this ledger's. Raises: IntegrityError."""
    segments = _segments(settings)
    segments.check(ledger)
    yield segments


@contextmanager
def _enrolled(settings: Settings, ledger: Ledger) -> Iterator[None]:
    """Hold the instance's name in the ledger. Raises: LockedError while another living process holds it."""
    from kropot.collect.decide.rules import LEASE_US

    ledger.begin()
    place = f"{platform.node()}:{settings.storage_path.resolve()}"
    try:
        ledger.work.enroll(settings.instance_name, place=place, lease_us=LEASE_US, here=True)
        _record_instance(settings, ledger)
        yield
    except InstanceBusyError as error:
        raise LockedError(
            f"instance {settings.instance_name} is running already ({error.place}): stop it first, or give this one"
            f" another --instance-name; if it died, its name is free {LEASE_US // 60_000_000} minutes later"
        ) from error
    finally:
        # Of this session alone: nothing of another process that has the name is touched.
        ledger.work.retire(settings.instance_name)


def _record_instance(settings: Settings, ledger: Ledger) -> None:
    """Record that this instance runs here with this version, unless that was so the last time."""
    from ledger.events import InstanceBegan
    from ledger.log import NewFact, instance_key

    key = instance_key(settings.instance_name)
    fact = InstanceBegan(program=f"kropotcli {version('kropotcli')}", host=platform.node())
    last = None
    for record in ledger.history(key):
        last = record.fact
    if last != fact:
        ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.now_us())])


def _find_source(settings: Settings, ledger: Ledger, wish: Wish) -> bytes:
    """Return the id of the source of this token, which is begun if it is new.

    Raises: UsageError if the token is known, but from another address; ServerRefusedError if it would begin a source,
    and the server does not accept it.
    """
    from kropot.collect.decide.sources import begin, match_source, source_key
    from ledger.log import NewFact

    url, token = settings.need_server_url(), settings.need_token()
    known = {entry.id: entry.source for entry in ledger.sources().values()}
    match = match_source(known, token.reveal(), url)
    if match.kind == "known" and match.id is not None:
        return match.id
    if match.kind == "moved" and match.id is not None and not wish.new_source:
        name = match.id.hex()
        raise UsageError(
            f"this token is known from {known[match.id].url}, not from {url}: if the server moved, say so with"
            f" `kropotcli source alias {name[:8]} --server-url {url}`, and nothing is fetched again; if it is another"
            " server, collect with --new-source"
        )
    _try_token(settings)
    source_id = secrets.token_bytes(16)
    fact = begin(salt=secrets.token_bytes(32), token=token.reveal(), url=url)
    new = NewFact(key=source_key(source_id), fact=fact, observed_us=ledger.now_us(), expected=0)
    # Several collectors may meet a new token at the same moment: the first one's append counts for all of them.
    once = hmac.digest(ledger.identity().salt, b"begin\0" + token.reveal().encode() + b"\0" + url.encode(), "sha256")
    ledger.append([new], batch_key=once)
    begun = match_source({entry.id: entry.source for entry in ledger.sources().values()}, token.reveal(), url)
    if begun.kind != "known" or begun.id is None:
        raise LedgerError("a source that was begun just now is not to be found")
    if known:
        say(f"this token is new: it begins source {begun.id.hex()}, and nothing of the others is taken for gone")
    return begun.id


def _try_token(settings: Settings) -> None:
    """Ask the server for one entry, for a source is never forgotten, and a mistyped token must not begin one.

    Whatever else the server answers is for the collector to judge. Raises: ServerRefusedError.
    """
    from kropot.securecopy.client import ServerTroubleError

    with open_client(settings, longest_s=LONGEST_TRIAL_S) as client, suppress(ServerTroubleError):
        client.list(None, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """Everything that a run needs, opened and claimed."""

    settings: Settings
    wish: Wish
    ledger: Ledger
    objects: ObjectStore
    client: SecureCopyClient
    engine: Callable[[], TransferEngine]
    source_id: bytes
    segments: SegmentFolder
    tell: bool

    def collect(self, began: float) -> Exit:
        """Run the loop to its end, and say what it came to."""
        from kropot.cli.progress import audience_for
        from kropot.collect.decide.step import Collector
        from kropot.collect.run.garbage import look_rarely

        source = self.ledger.sources()[self.source_id].source
        rules = self._rules()
        collector = Collector(self.source_id, source, rules)
        with audience_for(self.settings) as audience:
            loop = self._loop(rules, collector, audience)
            look_rarely()
            with _signals(loop), self._upkeep(loop):
                code = loop.run()
        if self.tell:
            took = time.monotonic() - began
            _summarise(self.settings, collector, self.source_id, code, pending=self._pending(), took=took)
        return code

    def _pending(self) -> int:
        """Return how many elements of the source wait for their copies, failing or not."""
        tallies = self.ledger.tallies()
        return sum(each.elements for each in tallies if each.source == self.source_id and each.state == "pending")

    def _upkeep(self, loop: Loop) -> Upkeep:
        """Put what is done for the ledger beside the loop."""
        from kropot.collect.run.workers import Crashed
        from kropot.upkeep import Upkeep, keep_checkpoints, keep_segments, keep_snapshots

        wish, chores = self.wish, [keep_snapshots(self.ledger)]
        if wish.segments:
            chores.append(keep_segments(self.ledger, self.segments))
        signing = self._signing()
        if signing is not None:
            key, folders = signing
            every, events = wish.checkpoint_every, wish.checkpoint_events
            chores.append(keep_checkpoints(self.ledger, key, folders, every_s=every, every_events=events))

        def told(chore: str, error: Exception) -> None:
            warn(f"the ledger's {chore} could not be written: {error}; that is tried again")

        return Upkeep(chores, told=told, crashed=lambda error: loop.inbox.put(Crashed(error)))

    def _signing(self) -> tuple[SigningKey, list[CheckpointFolder]] | None:
        """Return the key and the folders of checkpoints, None if none are to be signed.

        Raises: UsageError if folders are named and there is no key.
        """
        from kropot.cli.checkpoint import default_key

        file = self.wish.checkpoint_key or default_key(self.ledger)
        if self.wish.checkpoint_key is None and not file.exists():
            if self.wish.checkpoint_to:
                raise UsageError("--checkpoint-to needs a key: make one with `kropotcli checkpoint init`")
            return None
        from kropot.checkpoints import CheckpointFolder, read_signing_key

        return read_signing_key(file), [CheckpointFolder(folder) for folder in self.wish.checkpoint_to]

    def _rules(self) -> CollectRules:
        from kropot.collect.decide.plan import SECOND_US
        from kropot.collect.decide.rules import CollectRules
        from kropot.collect.decide.sources import Thresholds

        wish = self.wish
        return CollectRules(
            instance=self.settings.instance_name,
            once=wish.once,
            full=wish.full,
            refresh_us=self.settings.refresh_time * SECOND_US,
            full_every_us=wish.full_every * SECOND_US,
            thresholds=Thresholds(
                missing_share=wish.missing_percent / 100,
                missing_count=wish.missing_count,
                changed_share=wish.surge_percent / 100,
                changed_count=wish.surge_count,
            ),
            min_free=wish.min_free,
        )

    def _loop(self, rules: CollectRules, collector: Collector, audience: ProgressDisplay) -> Loop:
        """Put real hands to the collector's decisions."""
        import queue

        from kropot.collect.run.effects import LedgerEffects
        from kropot.collect.run.loop import Loop
        from kropot.collect.run.workers import Control, Inbox, Publisher, Transfer
        from ledger.log import utc_now_us

        inbox: Inbox = queue.SimpleQueue()
        hand = LedgerEffects(
            ledger=self.ledger,
            source_id=self.source_id,
            instance=rules.instance,
            lease_us=rules.lease_us,
            free_bytes=self.objects.free_bytes,
        )
        return Loop(
            collector=collector,
            hand=hand,
            control=Control(self.client, inbox),
            transfer=Transfer(self.engine, inbox),
            publisher=Publisher(self.objects, inbox),
            inbox=inbox,
            audience=audience,
            clock=utc_now_us,
            rest=time.sleep,
        )


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, in the guise that database drivers know how to be interrupted by."""


@contextmanager
def _ended_by_signal(code: Exit) -> Iterator[None]:
    """Have SIGTERM end the process in order, with this code, while there is no loop yet to be asked.

    It would otherwise leave its name in the ledger as if it lived, for as long as a lease lasts.
    """

    def end(_number: int, _frame: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except _TerminatedError:
        raise SystemExit(int(code)) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _signals(loop: Loop) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a wish to stop; a second one ends the process as it always would."""
    from kropot.collect.decide.inputs import StopRequested

    before: dict[signal.Signals, Any] = {}

    def ask(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        loop.request_stop(StopRequested(how="term" if number == signal.SIGTERM else "int"))

    for wish in (signal.SIGTERM, signal.SIGINT):
        before[wish] = signal.signal(wish, ask)
    try:
        yield
    finally:
        for wish, handler in before.items():
            signal.signal(wish, handler)


def _summarise(
    settings: Settings, collector: Collector, source_id: bytes, code: Exit, *, pending: int, took: float
) -> None:
    """Say what the run came to: one JSON object, or a sentence."""
    progress, source = collector.progress, collector.source
    if settings.json:
        emit_json(
            {
                "source": source_id.hex(),
                "exit": int(code),
                "listings": progress.listings,
                "seen": progress.seen,
                "new": progress.new,
                "changed": progress.changed,
                "reappeared": progress.reappeared,
                "vanished": progress.vanished,
                "rejected": progress.rejected,
                "unlistable": len(source.unlistable),
                "copied": progress.copied,
                "bytes": progress.bytes,
                "failed": collector.failing,
                "pending": pending,
                "reasons": progress.reasons,
                "zero_knowledge": source.opaque,
                "held": source.held is not None and not source.held.is_accepted,
                "surge": source.surge is not None,
                "seconds": round(took, 3),
            }
        )
        return
    text = f"copied {number(progress.copied, 'file')} ({amount(progress.bytes)}) in {took:.1f} s"
    text += f"; {progress.new} new, {progress.changed} changed, {progress.vanished} gone"
    if pending > collector.failing:
        text += f"; {pending - collector.failing} still to be copied"
    if collector.failing:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(progress.reasons.items()))
        text += f"; {collector.failing} failing, which `kropotcli ls --failing` names"
        text += f"; {number(progress.failed, 'failed attempt')}: {reasons}"
    emit(text)
