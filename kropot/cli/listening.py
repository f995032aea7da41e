"""The options that all servers of this program share: the address, the limits for clients, and the end by signals."""

from __future__ import annotations

import signal
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn

    Command = Callable[..., Any]


def address_options(port: int) -> Callable[[Command], Command]:
    """Add `--host` and `--port` to a command, with this default port."""

    def add(function: Command) -> Command:
        function = click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=port,
            show_default=True,
            help="The port to listen on. 0 means any free port.",
        )(function)
        return click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")(
            function
        )

    return add


def client_options(function: Command) -> Command:
    """Add `--max-connections`, `--max-per-address` and `--trusted-proxy` to a command."""
    for option in (
        click.option(
            "--trusted-proxy",
            "trusted_proxies",
            multiple=True,
            metavar="ADDRESS",
            callback=_checked_proxies,
            help="A proxy (IP address or network) that adds the client to X-Forwarded-For. The last address there that "
            "is not a trusted proxy counts as the client. Can be repeated.",
        ),
        click.option(
            "--max-per-address",
            type=click.IntRange(min=1),
            default=64,
            show_default=True,
            help="The most connections for one address (for IPv6, one /64 network). Behind a trusted proxy: the most "
            "requests of one client at the same time.",
        ),
        click.option(
            "--max-connections",
            type=click.IntRange(min=1),
            default=1024,
            show_default=True,
            help="Refuse more connections than this at the same time.",
        ),
    ):
        function = option(function)
    return function


def ended_by_signals(server: uvicorn.Server, also: Callable[[], None] | None = None) -> list[int]:
    """Let SIGTERM and SIGINT end a server and call `also`. Return the list that collects the signals."""
    caught: list[int] = []

    def end(number: int, _frame: object) -> None:
        caught.append(number)
        server.should_exit = True
        if also is not None:
            also()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return caught


def _checked_proxies(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return addresses and networks of proxies. Raises: click.BadParameter for anything else, e.g. a host name."""
    for value in values:
        try:
            ip_network(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not an IP address or network: try 10.0.0.1 or 10.0.0.0/8") from None
    return values
