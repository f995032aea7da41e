"""The observers of a running `collect`, which cannot stop it: display, service manager, calls, and metrics."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from kropot.cli.base import storage_of, warn
from kropot.cli.progress import progress_display
from kropot.metrics.rounds import RoundWatch
from kropot.metrics.text import MetricSample, metrics_in_text
from kropot.notify.message import Message
from kropot.query.names import short_name
from kropot.securecopy.trouble import sentence
from kropot.wording import SECOND_US, amount, number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kropot.cli.base import Settings
    from kropot.cli.progress import ProgressDisplay
    from kropot.collect.decide.actions import Say
    from kropot.collect.decide.step import Collector
    from kropot.metrics.rounds import RoundEnd
    from kropot.metrics.watch import ReplicaLook, ReplicaWatch
    from kropot.notify.notifier import Notifier
    from kropot.query.health import Limits
    from kropot.query.names import Labels
    from kropot.service.systemd import ServiceManager
    from ledger.log import Ledger

CALL_EVERY_S: Final = 60.0
"""Rounds can follow each other closely, so rounds with the same result are reported only once in this many seconds."""

STATUS_EVERY_S: Final = 1.0

_ABOUT_LISTINGS: Final = frozenset({"never_listed", "never_collected", "listing_stale", "run_failed"})
"""Alarms that the first round of a run might end. They are sent only if it does not."""


class CollectWatch:
    """Passes the loop's messages and progress on to the observers."""

    def __init__(
        self,
        *,
        display: ProgressDisplay,
        manager: ServiceManager,
        notifier: Notifier,
        labels: Labels,
        metrics_file: Path | None = None,
    ) -> None:
        """Pass them to these observers."""
        self.rounds = RoundWatch(began=self._round_began, ended=self._round_ended)
        self.watch: ReplicaWatch | None = None
        self._labels = labels
        self._display = display
        self._manager = manager
        self._notifier = notifier
        self._metrics_file = metrics_file
        self._collector: Collector | None = None
        self._status_at = self._called_at = 0.0
        self._called: str | None = None
        self._has_warned = False

    def hear(self, say: Say) -> None:
        """Show a message, and take it as a sign of life."""
        self._display.hear(say)
        self._manager.beat()

    def look(self, collector: Collector) -> None:
        """Examine the collector after each of its steps."""
        if self._collector is None:
            self._collector = collector
            self._manager.ready()
        self._display.look(collector)
        was_open = self.rounds.is_open
        self.rounds.look(collector)
        now = time.monotonic()
        if was_open and not self.rounds.is_open:
            self._manager.status(self._status(collector), at_once=True)
        if now - self._status_at >= STATUS_EVERY_S:
            self._status_at = now
            self._manager.beat()
            self._manager.status(self._status(collector))

    def metrics(self) -> str:
        """Return all metrics as text. Any thread may call this."""
        return metrics_in_text(self._samples())

    def seen(self, look: ReplicaLook) -> None:
        """Report alarms that began or ended, and write the metrics file. The watch's thread calls this."""
        from kropot.notify.alarms import ToldAlarms

        if not self._notifier.is_empty:
            names = {each.id: each.label or each.id.hex()[:8] for each in look.facts.sources}
            told = ToldAlarms(look.ledger_id)
            is_first = not (self.rounds.good or self.rounds.bad)
            not_yet = _ABOUT_LISTINGS if is_first else frozenset()
            for message in told.news(look.alarms, names, command="collect", warn=self._warn_once, not_yet=not_yet):
                self._notifier.send(message)
        self.write_metrics()

    def write_metrics(self) -> None:
        """Write the metrics file, if one was requested."""
        from kropot.metrics.serving import write_metrics

        if self._metrics_file is None:
            return
        try:
            write_metrics(self._metrics_file, self.metrics())
        except OSError as error:
            self._warn_once(f"the metrics cannot be written to {self._metrics_file} ({error.strerror}): check the path")

    def _samples(self) -> Iterator[MetricSample]:
        from importlib.metadata import version

        from kropot.metrics.replica import replica_samples

        yield MetricSample(name="kropot_build_info", value=1, labels={"version": version("kropotcli")})
        look = None if self.watch is None else self.watch.latest
        if look is not None:
            yield MetricSample(name="kropot_health_timestamp_seconds", value=look.at_us / SECOND_US)
            yield from replica_samples(look.facts, look.alarms)
        if self._collector is not None:
            yield from self.rounds.samples(self._collector)

    def _status(self, collector: Collector) -> str:
        progress = collector.progress
        text = f"{number(progress.copied, 'copy').replace('copys', 'copies')} ({amount(progress.bytes)}) in this run"
        if collector.is_refused:
            return f"the server refuses the token; {text}"
        if self.rounds.is_open:
            return f"{collector.stage}; {text}"
        return f"waiting for the next listing; {text}" + ("" if collector.trouble is None else f"; {collector.trouble}")

    # --- calls ---

    def _round_began(self) -> None:
        if time.monotonic() - self._called_at >= CALL_EVERY_S or self._called is None:
            self._notifier.send(Message(command="collect", state="start", source=self._source, text="a round began"))

    def _round_ended(self, end: RoundEnd) -> None:
        if self.watch is not None:
            self.watch.hurry()
        state = "success" if end.trouble is None else "fail"
        if state == self._called and time.monotonic() - self._called_at < CALL_EVERY_S:
            return
        self._called, self._called_at = state, time.monotonic()
        counts: dict[str, int | float | str | bool | None] = {**end.counts, "seconds": round(end.seconds, 3)}
        if end.trouble is None:
            text = "the round is complete"
            self._notifier.send(
                Message(command="collect", state="success", source=self._source, text=text, counts=counts)
            )
            return
        text = f"the round failed: {sentence(end.trouble)}"
        counts["trouble"] = end.trouble
        self._notifier.send(Message(command="collect", state="fail", source=self._source, text=text, counts=counts))

    @property
    def _source(self) -> str | None:
        """The label of the source, or the beginning of its id."""
        if self._collector is None:
            return None
        return short_name(self._labels, self._collector.source_id)

    def _warn_once(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warn(text)


@contextmanager
def watching(
    settings: Settings,
    *,
    is_alone: bool = True,
    manager: ServiceManager,
    notifier: Notifier,
    labels: Labels,
    limits: Limits,
    address: tuple[str, int] | None,
    metrics_file: Path | None,
) -> Iterator[CollectWatch]:
    """Yield the watch to which a loop reports. This starts threads, so the helper processes MUST be forked before.

    Raises: KropotError if the address for metrics cannot be used.
    """
    with ExitStack() as stack:
        display = stack.enter_context(progress_display(settings, is_alone=is_alone))
        watch = CollectWatch(
            display=display, manager=manager, notifier=notifier, labels=labels, metrics_file=metrics_file
        )
        if not notifier.is_empty or address is not None or metrics_file is not None:
            from kropot.metrics.watch import ReplicaWatch

            if address is not None:
                from kropot.metrics.serving import MetricsServer

                stack.enter_context(MetricsServer(address, watch.metrics))
            watch.watch = stack.enter_context(
                ReplicaWatch(
                    opened=partial(_opened, settings.db_string),
                    storage=storage_of(settings),
                    limits=limits,
                    seen=watch.seen,
                )
            )
        yield watch


@contextmanager
def _opened(db_string: str) -> Iterator[Ledger]:
    """Open the ledger for reading, without the warnings that the command has already printed."""
    from ledger.log import Ledger
    from ledger.sql import open_store

    store = open_store(db_string, read_only=True)
    try:
        yield Ledger(store)
    finally:
        store.close()
