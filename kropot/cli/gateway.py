"""`kropotcli gateway`: serves a folder as a SecureCopy server that encrypts, and manages its tokens."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli import base
from kropot.cli.base import emit, emit_json, say, warn, warn_if_exposed
from kropot.cli.gateway_check import check
from kropot.cli.gateway_scan import around_scans, commands_of, selecting, selection_of
from kropot.cli.masterkey import KEY_ENV, key_path, master_key
from kropot.cli.output import printing_beside_the_work
from kropot.cli.paths import PATH
from kropot.durable.dirfd import open_named
from kropot.errors import Exit, UsageError
from kropot.secret import hide_credentials
from kropot.securecopy.address import checked_base_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.cli.base import Settings
    from kropot.gateway.tokens import Token, TokenBook

DEFAULT_STATE: Final = "sqlite:///gateway.db"

_LONGEST_SPEC = 64 * 1024
_LOOPBACK = ("127.", "localhost", "::1")

_state = click.option(
    "--state",
    "state_url",
    default=DEFAULT_STATE,
    show_default=True,
    metavar="URL",
    envvar="KROPOT_GATEWAY_STATE",
    help="The gateway's own database, as an SQLAlchemy URL.",
)
_revocations = click.option(
    "--revocations",
    type=PATH,
    metavar="DIR",
    envvar="KROPOT_GATEWAY_REVOCATIONS",
    help="The folder that records which tokens were revoked, so an older copy of the database cannot bring them back. "
    "Keep it apart from the database. Default: in this user's state folder.",
)
_key_file = click.option(
    "--master-key-file",
    type=PATH,
    metavar="FILE",
    envvar="KROPOT_GATEWAY_MASTER_KEY_FILE",
    help="The file with the master key. If the database is new, the gateway makes this file with mode 0600. Default: "
    f"the name of an SQLite database with .key added. You can also put the key (base64) in {KEY_ENV}.",
)


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


def _checked_proxies(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return addresses and networks of proxies. Raises: click.BadParameter for anything else, e.g. a host name."""
    for value in values:
        try:
            ip_network(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not an IP address or network: try 10.0.0.1 or 10.0.0.0/8") from None
    return values


@base.group("gateway")
def command() -> None:
    """Serve a folder as a SecureCopy server that encrypts, and manage its tokens."""


@command.command("serve", cls=base.KropotCommand)
@click.option(
    "--source", type=PATH, required=True, metavar="DIR", help="The folder to serve. The gateway only reads it."
)
@selecting
@around_scans
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="The port to listen on. 0 means any free port.",
)
@_state
@_key_file
@_revocations
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
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
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
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Refuse more connections than this at the same time.",
)
@click.option(
    "--max-per-address",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="The most connections for one address (for IPv6, one /64 network). Behind a trusted proxy: the most requests "
    "of one client at the same time.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    callback=_checked_proxies,
    help="A proxy (IP address or network) that adds the client to X-Forwarded-For. The last address there that is not a"
    " trusted proxy counts as the client. Can be repeated.",
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
    state_url: str,
    master_key_file: Path | None,
    revocations: Path | None,
    kits: Path | None,
    base_url: str | None,
    scan_every: float,
    hash_up_to: int,
    max_connections: int,
    max_per_address: int,
    trusted_proxies: tuple[str, ...],
    moved: bool,
    **chosen: Any,
) -> Exit:
    """Serve a folder over the SecureCopy protocol, until stopped.

    The gateway seals every file with the key of the token that asks. It has no TLS, and every request carries the
    token. Keep it on this machine, behind a proxy with TLS, or inside a tunnel.
    """
    from kropot.gateway.guard import Bounds
    from kropot.gateway.kits import refuse_inside
    from kropot.gateway.listening import address_of, allow_descriptors, listen
    from kropot.gateway.revocations import default_revocations
    from kropot.gateway.server import GatewayOptions, Service
    from kropot.gateway.sources import FolderSource
    from kropot.gateway.state import sqlite_file

    commands = commands_of(chosen)
    key_file = key_path(state_url, master_key_file)
    root = Path(os.path.realpath(source))
    # Check this first. Otherwise a refused command would leave a new database behind.
    FolderSource(os.fsencode(root))
    refuse_inside(root, key_file, sqlite_file(state_url), kits)
    options = GatewayOptions(
        kits=kits or _beside(state_url, "kits"),
        revocations=revocations or default_revocations(),
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
    service = Service(source=source, state_url=state_url, master_key=key, options=options)
    stop, server = threading.Event(), service.server()
    caught: list[int] = []

    def end(number: int, _frame: object) -> None:
        caught.append(number)
        stop.set()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    scanner = threading.Thread(target=service.scan_forever, args=(stop,), name="scan")
    try:
        with listen(host, port) as listening:
            if not host.startswith(_LOOPBACK):
                warn(
                    f"tokens and plain contents cross the network unencrypted, because the gateway listens on {host}: "
                    "put a proxy with TLS in front of it, or use a tunnel"
                )
            url = address_of(listening)
            with printing_beside_the_work():
                if settings.json:
                    emit_json({"url": url, "source": str(source), "state": service.state.place})
            say(f"serving {source} at {url}; press Ctrl-C to stop")
            scanner.start()
            server.run([listening])
    finally:
        stop.set()
        if scanner.ident is not None:
            scanner.join()
        service.close()
    return Exit.INTERRUPTED if signal.SIGINT in caught else Exit.DONE


command.add_command(check)


@command.group("token", cls=base.KropotGroup)
def token() -> None:
    """Make, list and revoke the gateway's tokens."""


@token.command("create", cls=base.KropotCommand)
@click.argument("spec", type=click.Path(path_type=Path, allow_dash=True))
@_state
@_key_file
@_revocations
@click.option(
    "--kit",
    type=PATH,
    metavar="FILE",
    help="Write the kit to this new file, also if SPEC holds the key. Default: a file in this folder, named after the "
    "token's id, if the gateway makes the key.",
)
def create(
    settings: Settings,
    *,
    spec: Path,
    state_url: str,
    master_key_file: Path | None,
    revocations: Path | None,
    kit: Path | None,
) -> None:
    """Make a token from the JSON file SPEC, and print it. Use - for standard input.

    If SPEC has no secureCopy field, the token is plain: nothing is encrypted. If SPEC has a method but no key, the
    gateway makes a random key of 256 bits and writes a kit. Keep the kit off-line. Only the kit opens the copies. A key
    of your own needs at least 12 characters.
    """
    from kropot.gateway.kits import keep_kit, refuse_inside, write_kit
    from kropot.gateway.tokenspec import STREAM_ROLE

    value = _read_spec(spec)
    if str(spec) != "-" and _holds_key(value):
        warn_if_exposed("specification with a key", spec)
    with _book(state_url, master_key_file, revocations, create=True) as book:
        root = book.source_root()
        if kit is not None and os.path.lexists(kit):
            raise UsageError(f"the file {kit} exists already, so no token was made: name a new file with --kit")
        if root is not None:
            refuse_inside(Path(os.fsdecode(root)), kit or Path.cwd() / "kit")
        created = book.create(
            value,
            lambda made: keep_kit(made, Path.cwd()) if kit is None else write_kit(made, kit),
            keeps_given_key=kit is not None,
        )
    if settings.json:
        where = {} if created.kit_path is None else {"kit": str(created.kit_path.absolute())}
        emit_json({"id": created.token.id, "number": created.token.number} | where)
    else:
        emit(created.token.id)
    if created.token.expires_s <= time.time():
        warn("this token has expired already, so it cannot be used: make another one with a later `expires`")
    if created.kit_path is not None:
        say(f"the key is in {created.kit_path}: move this file off-line; only it opens the copies")
    elif created.token.kit is None and created.token.may(STREAM_ROLE):
        warn(
            "this token is plain, so its holder can read names and contents: to encrypt, add "
            '"secureCopyEncryptionMethod" to the specification'
        )
    if kit is not None and created.kit_path is None:
        warn(f"this token has no key, so there is no kit and {kit} was not written")
    if created.warning is not None:
        warn(created.warning)


@token.command("list", cls=base.KropotCommand)
@_state
@_key_file
@_revocations
def list_(settings: Settings, *, state_url: str, master_key_file: Path | None, revocations: Path | None) -> None:
    """List the tokens. Only the beginning of each id is shown."""
    with _book(state_url, master_key_file, revocations, create=False) as book:
        rows = [_row(each, int(time.time())) for each in book.all()]
    if settings.json:
        emit_json(rows)
        return
    for row in rows:
        emit(
            f"{row['number']:>4}  {row['id']}  {row['status']:<8} until {row['expires']}  "
            f"{'sealed' if row['encrypted'] else 'plain':<6}  {' '.join(row['roles'])}"
        )


@token.command("revoke", cls=base.KropotCommand)
@click.argument("which", metavar="TOKEN")
@_state
@_key_file
@_revocations
def revoke(
    settings: Settings, *, which: str, state_url: str, master_key_file: Path | None, revocations: Path | None
) -> None:
    """Revoke TOKEN, given as its number in the list or as its id.

    A running gateway refuses the token within a second.
    """
    from kropot.gateway.tokens import censored

    with _book(state_url, master_key_file, revocations, create=False) as book:
        found = book.revoke(which)
    if settings.json:
        emit_json({"number": found.number, "id": censored(found.id), "status": "revoked"})
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
        "encrypted": each.kit is not None,
        "roles": sorted(each.roles),
    }


def _read_spec(path: Path) -> Any:
    """Return the decoded JSON of a specification. Raises: UsageError if the file is not JSON."""
    try:
        with click.open_file("-", "rb") if str(path) == "-" else open_named(path) as file:
            text = file.read(_LONGEST_SPEC + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the specification {path} ({error.strerror}): check the path and its permissions"
        ) from error
    if len(text) > _LONGEST_SPEC:
        raise UsageError(
            f"the specification {path} is larger than {_LONGEST_SPEC >> 10} KiB: see docs/gateway.md for an example"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the specification {path} is not JSON: see docs/gateway.md for an example") from error


def _holds_key(value: Any) -> bool:
    """Whether a specification holds a passphrase."""
    data = value.get("data") if isinstance(value, dict) else None
    return isinstance(data, dict) and bool(data.get("secureCopyEncryptionKey"))


@contextmanager
def _book(state_url: str, key_file: Path | None, revocations: Path | None, *, create: bool) -> Iterator[TokenBook]:
    """Open the database and yield its tokens."""
    from kropot.gateway.keys import MasterKey
    from kropot.gateway.revocations import Revocations, default_revocations
    from kropot.gateway.state import open_state
    from kropot.gateway.tokens import TokenBook

    path = key_path(state_url, key_file)
    state = open_state(state_url, create=create)
    try:
        kept = Revocations(revocations or default_revocations())
        yield TokenBook(state, MasterKey(master_key(state_url, path)), revocations=kept)
    finally:
        state.close()


def _beside(state_url: str, name: str) -> Path:
    """Return a path beside the SQLite database, or in the current folder."""
    from kropot.gateway.state import sqlite_file

    file = sqlite_file(state_url)
    return (Path.cwd() if file is None else file.parent) / name
