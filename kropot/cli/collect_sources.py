"""`kropotcli collect` with several sources in the configuration file: a collector for each, one exit code for all."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Exit, Settings, config_file_of, flags_of, warn
from kropot.cli.output import be_quiet, configure_logging, expect_results, say_failure, speak_for
from kropot.cli.source_tables import SourceTable, chosen_tables, policy_for, refuse_doubles, settings_for
from kropot.errors import UsageError
from kropot.processes import can_fork
from kropot.wording import number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kropot.collect.run.loop import Loop


def sources_to_collect(names: Sequence[str]) -> list[SourceTable]:
    """Return the tables of the sources to collect in this run; none if the file has none. Raises: UsageError."""
    ctx = click.get_current_context()
    file = config_file_of(ctx)
    tables = chosen_tables(file, names) if names or (file is not None and file.sources) else []
    if file is not None:
        refuse_doubles(tables, file)
    return tables


def source_at_work(table: SourceTable, options: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Return the settings and the options of `collect` for one source. Raises: UsageError."""
    ctx = click.get_current_context()
    file = config_file_of(ctx)
    if file is None:
        raise UsageError("there is no configuration file: name one with --config")
    settings = settings_for(table, flags_of(ctx), os.environ, file)
    return settings, policy_for(table, ctx, options)


def collect_each(
    settings: Settings,
    tables: Sequence[SourceTable],
    options: Mapping[str, Any],
    run: Callable[..., Exit],
) -> Exit:
    """Run a collector for each source, and return one exit code for all.

    `run(settings, options, label, stopping)` collects from one source. A source whose token or server is wrong fails
    alone. Raises: UsageError if processes cannot be forked.
    """
    from kropot.cli.failures import explain
    from kropot.cli.service_frame import reloadable
    from kropot.collect.many import Collectors, code_of_all
    from kropot.service.systemd import ServiceManager

    if not can_fork():
        raise UsageError(
            "several sources in one run need Linux: run `kropotcli collect --source NAME` for each of them instead"
        )
    jobs = {table.name: table for table in tables}
    ctx = click.get_current_context()

    def work(name: str, stopping: Callable[[Loop], Any]) -> int:
        """Collect from one source, in a process of its own."""
        configure_logging(settings.heard_level, settings.log_format)
        be_quiet(is_quiet=settings.quiet)
        expect_results(as_json=settings.json)
        speak_for(name)
        try:
            with ctx.scope(cleanup=False):
                own, policy = source_at_work(jobs[name], options)
                code = run(own, policy, label=name, stopping=stopping)
        except BaseException as error:  # noqa: BLE001 - the one place in this process that must explain every failure
            message, code = explain(error)
            say_failure(message, code)
        sys.stdout.flush()
        return int(code)

    manager = ServiceManager()
    ready: list[bool] = []

    def look(working: int, waiting: int) -> None:
        if not ready:
            ready.append(True)
            manager.ready()
        manager.beat()
        rest = f"; {number(waiting, 'source')} to be tried again" if waiting else ""
        manager.status(f"collecting from {number(working, 'source')}{rest}")

    with reloadable(manager, is_service=not options["once"]) as reload:
        collectors = Collectors(list(jobs), work, once=options["once"], warn=warn, look=look)
        codes = collectors.run()
        manager.stopping()
    if reload.is_wanted:
        reload.begin_again()
    if not options["once"] and collectors.stopped_by is not None:
        return Exit.INTERRUPTED if collectors.stopped_by == "int" else Exit.DONE
    code = code_of_all(list(codes.values()))
    failed = [f"{name} (exit code {each})" for name, each in codes.items() if each != Exit.DONE]
    if failed and code != Exit.INTERRUPTED:
        say_failure(f"not all of {len(codes)} sources were collected: {', '.join(failed)}; see above", code)
    return code
