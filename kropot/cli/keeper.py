"""`kropotcli keeper`: serves a replica for reading, and manages its tokens."""

from __future__ import annotations

import re
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli import base
from kropot.cli.base import Exit, emit, emit_json, open_ledger, say, storage_of, warn
from kropot.cli.limits import listing_limit_s
from kropot.cli.listening import address_options, client_options, ended_by_signals
from kropot.cli.output import printing_beside_the_work
from kropot.cli.paths import PATH
from kropot.errors import UsageError
from kropot.securecopy.address import is_this_machine
from kropot.wording import SECOND_US, instant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.cli.base import Settings
    from kropot.keeper.state import KeeperTokenRow
    from kropot.keeper.tokens import KeeperTokens

_ROLES: Final = ("owner", "auditor", "monitor")
_SPAN: Final = re.compile(r"([0-9]+)([hdw])")
_MOST_DIGITS: Final = 5
_SPAN_S: Final = {"h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_LABEL: Final = 64


def state_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--state` to a command."""
    return click.option(
        "--state",
        type=PATH,
        metavar="FILE",
        envvar="KROPOT_KEEPER_STATE",
        help="The keeper's own database, an SQLite file with the tokens. The key of their hashes is in the file beside"
        " it, with .key added to its name. Default: keeper.db beside the ledger, if that is an SQLite file.",
    )(function)


@base.group("keeper")
def command() -> None:
    """Serve a replica to its owner over the network, and manage the tokens for it.

    A keeper keeps somebody else's copies. With a token, the owner lists and restores files over the network, and never
    sends a kit.
    """


@command.command("serve", cls=base.KropotCommand)
@address_options(8081)
@state_option
@click.option("--tls-cert", type=PATH, metavar="FILE", help="The certificate with its chain (PEM), to serve over TLS.")
@click.option("--tls-key", type=PATH, metavar="FILE", help="The key of the certificate (PEM, without a passphrase).")
@client_options
def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    state: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    trusted_proxies: tuple[str, ...],
    max_connections: int,
    max_per_address: int,
) -> Exit:
    """Serve the replica read-only to everyone with a token, until stopped.

    Nothing is written to the ledger or the storage. `keeper token create` makes the tokens. Every request carries one,
    so use TLS if other machines connect: --tls-cert and --tls-key, or a proxy.
    """
    from kropot.cli.service_frame import reloadable, watchdog
    from kropot.keeper.server import KeeperOptions, KeeperService
    from kropot.keeper.tokens import open_tokens
    from kropot.query.health import Limits
    from kropot.service.systemd import ServiceManager
    from kropot.serving.guard import Bounds
    from kropot.serving.listening import TlsFiles, address_of, allow_descriptors, listen

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together: give both, or neither")
    tls = None if tls_cert is None or tls_key is None else TlsFiles(certificate=tls_cert, key=tls_key)
    options = KeeperOptions(
        limits=Limits(listing_s=listing_limit_s(settings)),
        bounds=Bounds(connections=max_connections, per_address=max_per_address),
        trusted_proxies=trusted_proxies,
        tls=tls,
    )
    allow_descriptors(max_connections)
    storage, manager = storage_of(settings), ServiceManager()
    with reloadable(manager) as reload, open_ledger(settings, read_only=True) as ledger:
        service = KeeperService(ledger, storage, open_tokens(_state_of(settings, state), create=True), options)
        try:
            server = service.server()
            watchdog(server, manager)
            caught = ended_by_signals(server)
            with listen(host, port) as listening:
                if tls is None and not is_this_machine(host):
                    warn(
                        f"tokens cross the network unencrypted, because the keeper listens on {host} without TLS: give "
                        "--tls-cert and --tls-key, or put a proxy with TLS in front of it"
                    )
                url = address_of(listening, "http" if tls is None else "https")
                with printing_beside_the_work():
                    if settings.json:
                        emit_json("keeper_started", {"url": url, "storage": storage.objects_place})
                say(f"serving this replica at {url}; press Ctrl-C to stop")
                say(f"its page, once and within 10 minutes: {url}/page/enter?code={service.codes.code()}")
                server.run([listening])
                manager.stopping()
        finally:
            service.close()
    if reload.is_wanted and signal.SIGINT not in caught:
        reload.begin_again()
    return Exit.INTERRUPTED if signal.SIGINT in caught else Exit.DONE


@command.group("token", cls=base.KropotGroup)
def token() -> None:
    """Make, list and revoke the tokens of a keeper."""


@token.command("create", cls=base.KropotCommand)
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    required=True,
    help="owner: everything, including sealed forms and contents. auditor: the status, headers of events, proofs and "
    "checkpoints. monitor: the metrics.",
)
@click.option("--label", metavar="LABEL", help="Who has this token. `token list` shows it.")
@click.option(
    "--expires",
    metavar="WHEN",
    help="When the token ends: a date (2027-05-01 means 00:00 UTC that day), a time (2027-05-01T14:30Z), or how long it"
    " lasts (36h, 7d, 2w). Default: never.",
)
@click.option(
    "--source",
    "source_names",
    metavar="SOURCE",
    multiple=True,
    help="Limit an owner's token to this source, given as its label or the beginning of its id. Can be repeated. "
    "Default: all sources, including later ones.",
)
@state_option
def create(
    settings: Settings,
    *,
    role: str,
    label: str | None,
    expires: str | None,
    source_names: tuple[str, ...],
    state: Path | None,
) -> None:
    """Make a token and print it. It is shown only once: the database keeps a keyed hash of it."""
    from kropot.keeper.tokens import open_tokens
    from kropot.keeper.visitor import Role
    from kropot.query.names import find_source
    from kropot.query.past import labels_of

    if label is not None and not (label.isprintable() and 0 < len(label) <= _LONGEST_LABEL):
        most = _LONGEST_LABEL
        raise UsageError(f"{label[:most]!a} cannot be a label: use 1 to {most} printable characters")
    now_s = int(time.time())
    expires_s = None if expires is None else _expires_s(expires, now_s)
    if source_names and role != "owner":
        raise UsageError(f"only an owner's token is bound to sources, and this role is {role}: leave out --source")
    sources: tuple[bytes, ...] | None = None
    if source_names:
        with open_ledger(settings, read_only=True) as ledger:
            labels = labels_of(ledger)
            sources = tuple(dict.fromkeys(find_source(labels, name) for name in source_names))
    tokens = open_tokens(_state_of(settings, state), create=True)
    made = tokens.make(Role(role), label=label, expires_s=expires_s, sources=sources)
    if settings.json:
        emit_json("keeper_token_made", {"token": made.text, "number": made.row.number, "role": role})
    else:
        emit(made.text)


@token.command("list", cls=base.KropotCommand)
@state_option
def list_(settings: Settings, *, state: Path | None) -> None:
    """List the tokens. The tokens themselves are not stored."""
    from kropot.keeper.tokens import open_tokens

    tokens = open_tokens(_state_of(settings, state))
    for row in tokens.all():
        shown = _shown(tokens, row)
        if settings.json:
            emit_json("keeper_token", shown, flush=False)
            continue
        ends = "never ends" if row.expires_s is None else f"until {shown['expires']}"
        bound = "" if row.sources is None else f"  sources {' '.join(each.hex()[:8] for each in row.sources)}"
        emit(f"{row.number:>4}  {row.role:<8} {shown['status']:<8} {ends}  {row.label or '-'}{bound}", flush=False)


@token.command("revoke", cls=base.KropotCommand)
@click.argument("number", type=click.IntRange(min=1))
@state_option
def revoke(settings: Settings, *, number: int, state: Path | None) -> None:
    """Revoke the token with this NUMBER in the list, for good. A running keeper refuses it at once."""
    from kropot.keeper.tokens import open_tokens

    tokens = open_tokens(_state_of(settings, state))
    row = tokens.revoke(number)
    if settings.json:
        emit_json("keeper_token_revoked", _shown(tokens, row))
    else:
        emit(f"revoked token {number}")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _shown(tokens: KeeperTokens, row: KeeperTokenRow) -> dict[str, Any]:
    """Return a token as the list shows it."""
    return {
        "number": row.number,
        "role": row.role,
        "label": row.label,
        "status": tokens.status(row),
        "created": instant(row.created_s * SECOND_US),
        "expires": None if row.expires_s is None else instant(row.expires_s * SECOND_US),
        "sources": None if row.sources is None else [each.hex() for each in row.sources],
    }


def _state_of(settings: Settings, given: Path | None) -> Path:
    """Return the file of the keeper's database. Raises: UsageError if it is not named and the ledger is not a file."""
    from ledger.sql.dialects import parse_place

    if given is not None:
        return given.expanduser()
    ledger = parse_place(settings.db_string).path
    if ledger is None:
        raise UsageError("the ledger is not an SQLite file, so name a file for the keeper's tokens with --state")
    return ledger.with_name("keeper.db")


def _expires_s(text: str, now_s: int) -> int:
    """Return when a token ends, in seconds since 1970. Raises: UsageError if it is not understood or is past."""
    from kropot.replay.until import At, parse_when

    span = _SPAN.fullmatch(text)
    when = ends_s = None
    if span is None:
        with suppress(UsageError):
            # Its own message would suggest positions and ages, at which no token ends.
            when = parse_when(text, now_us=now_s * SECOND_US, read=lambda _: None)
        ends_s = when.us // SECOND_US if isinstance(when, At) else None
    elif len(span[1]) <= _MOST_DIGITS:
        ends_s = now_s + int(span[1]) * _SPAN_S[span[2]]
    if ends_s is None:
        raise UsageError(f"--expires does not understand {text[:40]!a}: try 2027-05-01, 2027-05-01T14:30Z or 30d")
    if ends_s <= now_s:
        raise UsageError(f"--expires {text!a} is over already, so no token was made: give a later time, or e.g. 30d")
    return ends_s
