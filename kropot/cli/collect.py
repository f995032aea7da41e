"""`kropotcli collect`: pulls everything new from the server into the replica."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec.structs import asdict

from kropot.cli.base import (
    Exit,
    Settings,
    collect_options,
    config_file_of,
    emit,
    emit_json,
    emit_summary,
    open_ledger,
    say,
    storage_of,
    warn,
    warn_of_frozen_time,
)
from kropot.cli.base import command as define
from kropot.cli.output import printing_beside_the_work, say_failure
from kropot.cli.paths import FURTHER
from kropot.cli.sizes import SIZE, SPAN, ListenAddress, RateTimetable
from kropot.errors import UsageError
from kropot.query.render import server_time
from kropot.securecopy.trouble import AT_A_CONTENT, AT_THE_NETWORK, sentence
from kropot.wording import amount, number

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from kropot.collect.run.loop import Loop
    from kropot.collect.service import Outcome

PROXIES: Final = ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY")
"""Variables that other programs obey. A proxy would see the token, or where it goes, so this program ignores them."""


@define("collect")
@click.option(
    "--source",
    "names",
    metavar="NAME",
    multiple=True,
    help="Collect only from this source, which is a table [source.NAME] of the configuration file. Can be repeated."
    " Default: all of them.",
)
@click.option(
    "--once",
    is_flag=True,
    help="Collect once, then stop. The exit code is 3 if an element could not be fetched or a listing was held back. If"
    " another collector is listing the server, wait until it has finished. Leave elements that other collectors are"
    " fetching to them.",
)
@click.option("--full", is_flag=True, help="Begin with a full listing. Only a full listing finds vanished elements.")
@click.option(
    "--new-source",
    is_flag=True,
    help="Begin a new source, although this token already has a source at another address. Use it if the two addresses"
    " are different servers.",
)
@click.option(
    "--min-free",
    type=SIZE,
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="Pause fetching while the storage, or the folder of an SQLite ledger, has less free space than this. Without"
    " space for the ledger, nothing new of a listing is recorded either.",
)
@click.option(
    "--pack-below",
    type=SIZE,
    default="1MiB",
    show_default=True,
    metavar="SIZE",
    help="Put objects smaller than this into packs, files of up to 64 MiB. 0 makes no packs.",
)
@click.option(
    "--also-store",
    type=FURTHER,
    multiple=True,
    help="Keep this further storage in step with the first: a folder, s3://BUCKET/PREFIX or sftp://USER@HOST/PATH. Can"
    " be repeated. One that is away or full does not stop the collector.",
)
@click.option(
    "--full-every",
    type=SPAN,
    default="24h",
    show_default=True,
    metavar="SPAN",
    help="Make a full listing at least this often.",
)
@click.option(
    "--missing-percent",
    type=click.FloatRange(min=0, max=100),
    default=10,
    show_default=True,
    help="Hold back a full listing if more than this percentage of the elements, and more than --missing-count of them,"
    " are missing.",
)
@click.option(
    "--missing-count",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Never hold back a listing if this many elements or fewer are missing.",
)
@click.option(
    "--surge-percent",
    type=click.FloatRange(min=0, max=100),
    default=30,
    show_default=True,
    help="Raise an alarm if more than this percentage of the elements, and more than --surge-count of them, change"
    " within 24 hours.",
)
@click.option(
    "--surge-count",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Never raise that alarm if this many elements or fewer change within 24 hours.",
)
@click.option(
    "--listing-entries",
    type=click.IntRange(min=1),
    default=20_000_000,
    show_default=True,
    help="Hold back a listing that shows more entries than this, until `source accept`.",
)
@click.option(
    "--listing-growth",
    type=SIZE,
    default="24GiB",
    show_default=True,
    metavar="SIZE",
    help="Hold back a listing that would add more than this to the ledger, until `source accept`.",
)
@click.option(
    "--segments/--no-segments",
    default=True,
    help="Also write the ledger's events to the storage, as segments. The storage alone is then a complete backup. On"
    " by default.",
)
@click.option(
    "--checkpoint-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign checkpoints with this key. Default: the key that `checkpoint init` made, if it exists.",
)
@click.option(
    "--checkpoint-to",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    help="Also write the checkpoints to this folder, which must exist. Can be repeated.",
)
@click.option(
    "--checkpoint-every",
    type=SPAN,
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="Sign a checkpoint this often, if there are new events.",
)
@click.option(
    "--checkpoint-events",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Sign a checkpoint at the latest after this many new events.",
)
@click.option(
    "--limit-rate",
    type=RateTimetable(),
    metavar="RATE",
    help="Receive no more contents than this a second, e.g. 2M for 2 MiB. As a timetable in local time, as in rclone:"
    " '08:00,512k 19:00,off'.",
)
@click.option(
    "--metrics",
    type=ListenAddress(),
    metavar="HOST:PORT",
    help="Serve metrics for Prometheus at http://HOST:PORT/metrics. They need no token.",
)
@click.option(
    "--metrics-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the metrics to this file once a minute, e.g. for the textfile collector of a node exporter.",
)
def command(
    settings: Settings,
    *,
    names: tuple[str, ...],
    metrics: tuple[str, int] | None,
    metrics_file: Path | None,
    **options: Any,
) -> Exit:
    """Pull everything new from the server into the replica.

    The server encrypts each file. The collector stores the encrypted content under its SHA-256 and records every change
    in the ledger. Without --once, it then waits for --refresh-time and begins again, until you stop it. SIGTERM or
    Ctrl-C stops it within seconds, and nothing that the ledger recorded is lost. SIGHUP makes a service reload its
    configuration.

    If the configuration file has tables [source.NAME], this collects from all of them at the same time. A source that
    fails does not stop the others: it is tried again after a minute, and later after up to an hour. With --once, the
    exit code is that of the sources if all ended alike, and 3 if only some could be collected.
    """
    from kropot.cli.collect_sources import collect_each, source_at_work, sources_to_collect

    tables = sources_to_collect(names)
    if not tables:
        return _collect(settings, options, metrics=metrics, metrics_file=metrics_file)
    if len(tables) == 1:
        settings, options = source_at_work(tables[0], options)
        return _collect(settings, options, label=tables[0].name, metrics=metrics, metrics_file=metrics_file)
    if metrics is not None or metrics_file is not None:
        raise UsageError(
            "--metrics and --metrics-file work with one source only: read the metrics of all sources from `kropotcli "
            "keeper serve`, or run `kropotcli collect --source NAME` for each source, with metrics of its own"
        )
    # Make the ledger, or refuse to, once for all sources.
    with open_ledger(settings, before_making=lambda: _demand_new(settings)):
        pass
    return collect_each(settings, tables, options, _collect)


def _collect(
    settings: Settings,
    options: dict[str, Any],
    *,
    label: str | None = None,
    stopping: Callable[[Loop], AbstractContextManager[None]] | None = None,
    metrics: tuple[str, int] | None = None,
    metrics_file: Path | None = None,
) -> Exit:
    """Collect from one source; return the exit code.

    With `stopping`, this is one of several processes, and their parent handles signals and the service manager.
    """
    from kropot.cli.limits import limits_beside
    from kropot.cli.service_frame import reloadable, told_failures
    from kropot.cli.watching import watching
    from kropot.collect.run.signals import ended_by_sigterm, stopped_by_signals
    from kropot.collect.service import collect
    from kropot.query.past import labels_of
    from kropot.service.systemd import ServiceManager

    began = time.monotonic()
    wanted = collect_options(settings, label=label, **options)
    is_alone = stopping is None
    manager, file = ServiceManager() if is_alone else ServiceManager({}), config_file_of(click.get_current_context())
    with (
        reloadable(manager, is_service=is_alone and not wanted.once) as reload,
        told_failures(None if file is None else file.notify) as notifier,
        ended_by_sigterm(Exit.PARTIAL if wanted.once else Exit.DONE) if is_alone else nullcontext(),
        open_ledger(settings, before_making=lambda: _demand_new(settings)) as ledger,
    ):
        warn_of_frozen_time(ledger.head().recorded_us, ledger.clock_us())
        _remember(settings)
        outcome = collect(
            ledger,
            wanted,
            show=lambda: watching(
                settings,
                is_alone=is_alone,
                manager=manager,
                notifier=notifier,
                labels=labels_of(ledger),
                limits=limits_beside(settings, wanted),
                address=metrics,
                metrics_file=metrics_file,
            ),
            say=say,
            warn=warn,
            stopping=stopping or stopped_by_signals,
        )
        manager.stopping()
    if reload.is_wanted and outcome.code == Exit.DONE:
        reload.begin_again()
    with printing_beside_the_work():
        _print_summary(settings, outcome, label=label, took=time.monotonic() - began)
    if outcome.trouble is not None and outcome.code not in {Exit.DONE, Exit.INTERRUPTED}:
        say_failure(_explain_trouble(wanted.server.url, outcome.trouble), outcome.code)
    for reason in sorted(AT_A_CONTENT & outcome.progress.reasons.keys()) if outcome.failing else ():
        warn(f"the server: {sentence(reason)}")
    return outcome.code


def _explain_trouble(url: str, trouble: str) -> str:
    """Return why the server stopped a run, and what to do now."""
    text = f"cannot collect any more from {url}: {sentence(trouble)}"
    proxies = [name for name in PROXIES if os.environ.get(name)]
    if trouble in AT_THE_NETWORK and proxies:
        text += f"; note that {proxies[0]} is ignored: this program connects to the server directly"
    return text


def _demand_new(settings: Settings) -> None:
    """Refuse to make a ledger in place of one that cannot be reached. Raises: ReplicaAwayError, IntegrityError."""
    from kropot.remembered import ForgetfulError, RememberedReplica

    with suppress(ForgetfulError):  # `_remember` is about to say so
        RememberedReplica.at(settings.db_string, settings.storage_path).demand_new()
    storage_of(settings).segments().check(None)


def _remember(settings: Settings) -> None:
    """Remember where this replica is, and warn if that fails."""
    from kropot.remembered import ForgetfulError, RememberedReplica

    try:
        RememberedReplica.at(settings.db_string, settings.storage_path).remember()
    except ForgetfulError as error:
        warn(str(error))


def _print_summary(settings: Settings, outcome: Outcome, *, label: str | None, took: float) -> None:
    """Print the result of the run as one JSON object or one line of text."""
    progress, source = outcome.progress, outcome.source
    if settings.json:
        emit_json(
            "collect_summary",
            {
                "source": outcome.source_id.hex(),
                "name": label,
                "exit": int(outcome.code),
                "listings": progress.listings,
                "seen": progress.seen,
                "new": progress.new,
                "changed": progress.changed,
                "reappeared": progress.reappeared,
                "vanished": progress.vanished,
                "rejected": progress.rejected,
                "unserved": None if progress.unserved is None else asdict(progress.unserved),
                "unscanned_since": None if (second := progress.unscanned_since) is None else server_time(second),
                "unlistable": len(source.unlistable),
                "copied": progress.copied,
                "bytes": progress.bytes,
                "failed": outcome.failing,
                "pending": outcome.pending,
                "reasons": progress.reasons,
                "zero_knowledge": source.opaque,
                "held": source.held is not None and not source.held.is_accepted,
                "surge": source.surge is not None,
                "seconds": round(took, 3),
            },
        )
        return
    text = "" if label is None else f"{label}: "
    text += f"copied {number(progress.copied, 'file')} ({amount(progress.bytes)}) in {took:.1f} s"
    text += f"; {progress.new} new, {progress.changed} changed, {progress.vanished} vanished"
    if outcome.pending > outcome.failing:
        text += f"; {outcome.pending - outcome.failing} still to copy"
    if outcome.failing:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(progress.reasons.items()))
        text += f"; {outcome.failing} failing (`kropotcli ls --failing` lists them)"
        text += f"; {number(progress.failed, 'failed attempt')}: {reasons}"
    (emit_summary if outcome.code == Exit.DONE else emit)(text)
