"""`kropotcli gateway`: serves a folder as a SecureCopy server that encrypts, and manages its tokens."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kropot.cli import base
from kropot.cli.base import emit, emit_json, say, warn, warn_if_exposed
from kropot.cli.gateway_book import book_options, kit_writer
from kropot.cli.gateway_check import check
from kropot.cli.gateway_scan import around_scans, commands_of, selecting, selection_of
from kropot.cli.gateway_vault import vault as vault_group
from kropot.cli.listening import address_options, client_options, ended_by_signals
from kropot.cli.masterkey import key_path, master_key
from kropot.cli.output import printing_beside_the_work
from kropot.cli.paths import PATH, read_named
from kropot.cli.sizes import FineSpan, ListenAddress
from kropot.errors import Exit, UsageError
from kropot.gc_tuning import look_for_cycles_rarely
from kropot.sc2.kits import STORED_SALT
from kropot.secret import hide_credentials
from kropot.securecopy.address import checked_base_url, is_this_machine
from kropot.wording import SECOND_US, instant

if TYPE_CHECKING:
    from kropot.cli.base import Settings
    from kropot.cli.gateway_book import BookPlace
    from kropot.gateway.server import Service
    from kropot.gateway.token import Token
    from kropot.gateway.tokens import Created

_LONGEST_SPEC = 64 * 1024
_WITHOUT_SPEC = {"roles": ["securecopy.stream"], "expires": "never"}


def _checked_url(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Return the base of URL templates. Raises: click.BadParameter if the value is not an address for clients."""
    if value is None:
        return None
    try:
        return checked_base_url(value)
    except UsageError:
        raise click.BadParameter(
            f"{hide_credentials(value)!r} is not a URL for clients: try https://files.example.org"
        ) from None


@base.group("gateway")
def command() -> None:
    """Serve a folder as a SecureCopy server that encrypts, and manage its tokens."""


@command.command("serve", cls=base.KropotCommand)
@click.option(
    "--source", type=PATH, required=True, metavar="DIR", help="The folder to serve. The gateway only reads it."
)
@selecting
@around_scans
@address_options(8080)
@book_options
@click.option(
    "--kits",
    type=PATH,
    metavar="DIR",
    help="The folder for the kits of tokens made over HTTP. Default: kits, beside the database.",
)
@click.option(
    "--base-url",
    metavar="URL",
    callback=_checked_url,
    help="The address at which clients reach this server. The URL templates in listings use it.",
)
@click.option(
    "--scan-every",
    type=FineSpan(least=0.1),
    default="30s",
    show_default=True,
    metavar="SPAN",
    help="How long to wait between two scans of the folder.",
)
@click.option(
    "--hash-up-to",
    type=click.IntRange(min=0),
    default=1 << 20,
    show_default=True,
    metavar="BYTES",
    help="Put the SHA-256 of files up to this size into their sealed forms.",
)
@client_options
@click.option(
    "--metrics",
    type=ListenAddress(),
    metavar="HOST:PORT",
    help="Serve metrics for Prometheus at http://HOST:PORT/metrics, apart from what clients reach. They need no token.",
)
@click.option(
    "--status-port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Show a page for the admin at this port of 127.0.0.1: what is served, what is not and why, and when each "
    "token last pulled. Every user of this machine can read it. It names no file.",
)
@click.option(
    "--moved", is_flag=True, help="Accept that the folder of this database has moved to --source. Needed once."
)
def serve(
    settings: Settings,
    *,
    source: Path,
    host: str,
    port: int,
    place: BookPlace,
    kits: Path | None,
    base_url: str | None,
    scan_every: float,
    hash_up_to: int,
    max_connections: int,
    max_per_address: int,
    trusted_proxies: tuple[str, ...],
    metrics: tuple[str, int] | None,
    moved: bool,
    status_port: int | None,
    **chosen: Any,
) -> Exit:
    """Serve a folder over the SecureCopy protocol, until stopped.

    The gateway seals every file with the key of the token that asks. It has no TLS, and every request carries the
    token. Keep it on this machine, behind a proxy with TLS, or inside a tunnel.
    """
    from kropot.cli.service_frame import metrics_of, reloadable, watchdog
    from kropot.gateway.kits import refuse_inside
    from kropot.gateway.pages import PageProcess
    from kropot.gateway.revocations import default_revocations
    from kropot.gateway.server import GatewayOptions, Service
    from kropot.gateway.sources import FolderSource
    from kropot.gateway.state import sqlite_file
    from kropot.service.systemd import ServiceManager
    from kropot.serving.guard import Bounds
    from kropot.serving.listening import address_of, allow_descriptors, listen

    commands = commands_of(chosen)
    state_url, key_file = place.state_url, key_path(place.state_url, place.master_key_file)
    root = Path(os.path.realpath(source))
    # Check this first. Otherwise a refused command would leave a new database behind.
    FolderSource(os.fsencode(root))
    refuse_inside(root, key_file, sqlite_file(state_url), kits)
    options = GatewayOptions(
        kits=kits or _beside(state_url, "kits"),
        revocations=place.revocations or default_revocations(),
        base_url=base_url,
        scan_every_s=scan_every,
        hash_up_to=hash_up_to,
        bounds=Bounds(connections=max_connections, per_address=max_per_address),
        trusted_proxies=trusted_proxies,
        moved=moved,
        commands=commands,
        selection=selection_of(source, **chosen),
    )
    allow_descriptors(max_connections)
    key = master_key(state_url, key_file)
    with PageProcess(state_url=state_url, master_key=key, revocations=options.revocations) as pages:
        service = Service(source=source, state_url=state_url, master_key=key, options=options, pages=pages)
        manager, counting = ServiceManager(), metrics_of(service, metrics)
        stop, server = threading.Event(), service.server()
        look_for_cycles_rarely()
        watchdog(server, manager, service.standing)
        caught = ended_by_signals(server, stop.set)
        scanner = threading.Thread(target=service.scan_forever, args=(stop,), name="scan")
        try:
            with ExitStack() as stack:
                reload = stack.enter_context(reloadable(manager))
                stack.enter_context(counting)
                listening = stack.enter_context(listen(host, port))
                if status_port is not None:
                    from kropot.gateway.statuspage import status_page

                    say(f"its status page is at {stack.enter_context(status_page(service, status_port))}")
                _warn_unencrypted(host)
                _tell_started(settings, service, source, address_of(listening))
                scanner.start()
                server.run([listening])
                manager.stopping()
        finally:
            stop.set()
            if scanner.ident is not None:
                scanner.join()
            service.close()
    if reload.is_wanted and signal.SIGINT not in caught:
        reload.begin_again()
    return Exit.INTERRUPTED if signal.SIGINT in caught else Exit.DONE


def _tell_started(settings: Settings, service: Service, source: Path, url: str) -> None:
    with printing_beside_the_work():
        if settings.json:
            emit_json("gateway_started", {"url": url, "source": str(source), "state": service.state.place})
    say(f"serving {source} at {url}; press Ctrl-C to stop")


def _warn_unencrypted(host: str) -> None:
    """Warn that others on the network can read tokens and contents, unless the gateway listens on this machine only."""
    if not is_this_machine(host):
        warn(
            f"tokens and plain contents cross the network unencrypted, because the gateway listens on {host}: "
            "put a proxy with TLS in front of it, or use a tunnel"
        )


command.add_command(vault_group)
command.add_command(check)


@command.group("token", cls=base.KropotGroup)
def token() -> None:
    """Make, list and revoke the gateway's tokens."""


@token.command("create", cls=base.KropotCommand)
@click.argument("spec", type=click.Path(path_type=Path, allow_dash=True), required=False)
@book_options
@click.option(
    "--kit",
    type=PATH,
    metavar="FILE",
    help="Write the kit to this new file, even if SPEC holds the key or --vault is given. Default: if the gateway "
    "makes the key, a file in this folder, named after the vault or the token.",
)
@click.option(
    "--vault",
    metavar="VAULT",
    help="Seal with the keys of this vault, given as its id or the beginning of it. A collector with the new token "
    "goes on where the old one was, and the vault's kits open what it pulls. Default: a new vault.",
)
@click.option("--plain", is_flag=True, help="Encrypt nothing: whoever holds the token can read names and contents.")
def create(
    settings: Settings,
    *,
    spec: Path | None,
    place: BookPlace,
    kit: Path | None,
    vault: str | None,
    plain: bool,
) -> None:
    """Make a token and print it. Without SPEC, it pulls everything, from everywhere, until you revoke it.

    SPEC is a JSON file with the token's fields. Use - for standard input.

    The token seals by sc2, with the keys of a vault, so a restore can prove that it returns what was sealed. The
    gateway makes the vault and writes its kit. Keep the kit off-line. Only the kit opens the copies.

    A secureCopy field in SPEC overrides this: "aes-256-cbc" seals as the server of 2020 does. Without a key in SPEC,
    the gateway makes one and writes a kit. A key of your own needs at least 12 characters.
    """
    from kropot.gateway.tokenspec import asks_for_sealing, sealed_by_default

    value = dict(_WITHOUT_SPEC) if spec is None else _read_spec(spec)
    if plain and (asks_for_sealing(value) or vault is not None):
        raise UsageError("--plain encrypts nothing: remove either --plain, or --vault and the secureCopy... fields")
    if not plain:
        value = sealed_by_default(value)
    if spec is not None and str(spec) != "-" and _holds_key(value):
        warn_if_exposed("specification with a key", spec)
    with place.open(create=vault is None) as book:
        created = book.create(value, kit_writer(book, kit), keeps_given_key=kit is not None, vault=vault)
    held = created.token.held
    if settings.json:
        where = {} if created.kit_path is None else {"kit": str(created.kit_path.absolute())}
        where |= {} if held is None else {"vault": held.vault.id.hex()}
        emit_json("token_made", {"id": created.token.id, "number": created.token.number} | where)
    else:
        emit(created.token.id)
    _tell(created, kit)


def _tell(created: Created, kit: Path | None) -> None:
    """Say where the kit of a new token is, and what is weak about the token."""
    from kropot.gateway.tokenspec import STREAM_ROLE

    held = created.token.held
    if created.token.expires_s <= time.time():
        warn("this token has expired already, so it cannot be used: make another one with a later `expires`")
    if created.kit_path is not None:
        say(f"the key is in {created.kit_path}: move this file off-line; only it opens the copies")
    elif held is not None:
        say(f"the kits of the vault {held.vault.id.hex()} open the copies")
    elif created.token.is_plain and created.token.may(STREAM_ROLE):
        warn("this token is plain, so its holder can read names and contents: to encrypt, leave --plain out")
    if kit is not None and created.kit_path is None:
        warn(f"this token has no key, so there is no kit and {kit} was not written")
    if created.warning is not None:
        warn(created.warning)


@token.command("list", cls=base.KropotCommand)
@book_options
def list_(settings: Settings, *, place: BookPlace) -> None:
    """List the tokens. Only the beginning of each id is shown."""
    with place.open() as book:
        tokens = book.all()
    rows = [_row(each, int(time.time())) for each in tokens]
    if settings.json:
        for each, row in zip(tokens, rows, strict=True):
            emit_json("token", row | {"expires": instant(each.expires_s * SECOND_US)})
        return
    for row in rows:
        emit(
            f"{row['number']:>4}  {row['id']}  {row['status']:<8} until {row['expires']}  "
            f"{row['method'] or 'plain':<11}  {' '.join(row['roles'])}"
        )


@token.command("revoke", cls=base.KropotCommand)
@click.argument("which", metavar="TOKEN")
@book_options
def revoke(settings: Settings, *, which: str, place: BookPlace) -> None:
    """Revoke TOKEN, given as its number in the list or as its id.

    A running gateway refuses the token within a second.
    """
    from kropot.gateway.tokens import censored

    with place.open() as book:
        found = book.revoke(which)
    if settings.json:
        emit_json("token_revoked", {"number": found.number, "id": censored(found.id), "status": "revoked"})
    else:
        emit(f"revoked token {found.number} ({censored(found.id)})")


def _row(each: Token, now_s: int) -> dict[str, Any]:
    """Return a token as the list shows it."""
    from kropot.gateway.tokens import censored
    from kropot.gateway.tokenspec import shown_time

    status = "revoked" if each.revoked_s is not None else "expired" if now_s >= each.expires_s else "active"
    return {
        "number": each.number,
        "id": censored(each.id),
        "status": status,
        "expires": shown_time(each.expires_s),
        "encrypted": not each.is_plain,
        "method": each.method,
        "roles": sorted(each.roles),
    } | ({} if each.held is None else {"vault": each.held.vault.id.hex()})


def _read_spec(path: Path) -> Any:
    """Return the decoded JSON of a specification. Raises: UsageError if the file is not JSON."""
    text = read_named("the specification", path, _LONGEST_SPEC + 1, dash=True)
    if len(text) > _LONGEST_SPEC:
        raise UsageError(
            f"the specification {path} is larger than {_LONGEST_SPEC >> 10} KiB: see docs/gateway.md for an example"
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the specification {path} is not JSON: see docs/gateway.md for an example") from error
    # A kit is a specification, too. The stored salt in it is only for restoring.
    return {name: each for name, each in value.items() if name != STORED_SALT} if isinstance(value, dict) else value


def _holds_key(value: Any) -> bool:
    """Whether a specification holds a passphrase."""
    data = value.get("data") if isinstance(value, dict) else None
    return isinstance(data, dict) and bool(data.get("secureCopyEncryptionKey"))


def _beside(state_url: str, name: str) -> Path:
    """Return a path next to the SQLite database, or in the current folder."""
    from kropot.gateway.state import sqlite_file

    file = sqlite_file(state_url)
    return (Path.cwd() if file is None else file.parent) / name
