"""The frame of a long-running command: SIGHUP, calls about failures, the service manager's watchdog, and metrics."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from kropot.cli.base import config_file_of, warn
from kropot.cli.config_check import mistakes
from kropot.cli.settings import find_config, resolve
from kropot.errors import UsageError
from kropot.notify.message import Message
from kropot.notify.notifier import Notifier
from kropot.service.reload import reloaded_by_hangup
from kropot.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import uvicorn

    from kropot.gateway.server import Service
    from kropot.gateway.standing import ServiceStanding
    from kropot.notify.rules import NotifyRules
    from kropot.service.reload import Reload
    from kropot.service.systemd import ServiceManager

_SELDOM_S = 3600


@contextmanager
def reloadable(manager: ServiceManager, *, is_service: bool = True) -> Iterator[Reload]:
    """Yield the state that SIGHUP sets: a service restarts with its current configuration, if that is valid."""
    from kropot.service.reload import Reload

    if not is_service:
        yield Reload()
        return
    ctx = click.get_current_context()

    def said(why: str | None) -> None:
        if why is None:
            manager.reloading()
        else:
            warn(f"SIGHUP changes nothing: {why}")

    with reloaded_by_hangup(lambda: _check_configuration(ctx), said) as reload:
        yield reload


def _check_configuration(ctx: click.Context) -> None:
    """Read the configuration as it is now. Raises: UsageError if it is not valid."""
    file = config_file_of(ctx)
    now = find_config(None if file is None else file.path, os.environ)
    resolve({}, os.environ, now)
    root = ctx.find_root()
    found = mistakes(root.command, root, now, os.environ) if isinstance(root.command, click.Group) else []
    if found:
        raise UsageError(found[0])


@contextmanager
def told_failures(rules: NotifyRules | None) -> Iterator[Notifier]:
    """Yield the notifier. If the block fails, send a call about that too."""
    notifier = Notifier(rules, warn)
    with notifier:
        try:
            yield notifier
        except (SystemExit, KeyboardInterrupt):
            # Somebody stopped it. A monitor that expects heartbeats notices that.
            raise
        except BaseException as error:
            from kropot.cli.failures import explain

            code = explain(error)[1]
            text = f"the run ended with exit code {int(code)}: see the collector's log"
            notifier.send(Message(command="collect", state="fail", text=text, counts={"exit": int(code)}))
            raise


def watchdog(server: uvicorn.Server, manager: ServiceManager, standing: ServiceStanding | None = None) -> None:
    """Make a server tell the service manager when it is ready, and from then on that its loop runs."""
    has_begun: list[bool] = []

    async def beat() -> None:
        if not has_begun:
            has_begun.append(True)
            manager.ready()
        manager.beat()
        if standing is not None:
            manager.status(_scan_text(standing))

    server.config.callback_notify = beat
    server.config.timeout_notify = 0 if manager.is_there else _SELDOM_S


def _scan_text(standing: ServiceStanding) -> str:
    if standing.unscanned_since is not None:
        return "scans fail: see the log"
    return "first scan" if standing.files is None else f"serving {number(standing.files, 'file')}"


def metrics_of(service: Service, address: tuple[str, int] | None) -> AbstractContextManager[object]:
    """Count a gateway's answers, and return a server for its metrics at this address. Without one, do nothing.

    Raises: KropotError if the address cannot be used.
    """
    if address is None:
        return nullcontext()
    from importlib.metadata import version

    from kropot.gateway.metrics import GatewayMetrics
    from kropot.metrics.serving import MetricsServer

    metrics = GatewayMetrics(service.app, service.standing, version("kropotcli"))
    service.app = metrics
    return MetricsServer(address, metrics.text)
