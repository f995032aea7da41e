"""The options `--from` and `--access-token-file`, and the keeper that they name."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from kropot.cli.base import Settings, say, warn
from kropot.cli.moments import read_note
from kropot.cli.paths import PATH
from kropot.errors import UsageError
from kropot.query.names import find_source
from kropot.query.past import labels_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.afar.cache import SealedCache
    from kropot.afar.replica import AfarReplica, RemoteSources, RemoteTree

FROM_HELP = (
    "Read an export, a folder that `replay --export` wrote, or a keeper at an address such as https://keeper.example. "
    "This needs no ledger and no storage. A keeper needs --access-token-file. It never gets a key."
)


class OriginType(click.ParamType["Path | str", Any]):
    """The folder of an export (a path), or the address of a keeper (a string)."""

    name = "origin"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """Return the path or the address. Raises: click.BadParameter."""
        from kropot.securecopy.address import checked_base_url

        if not isinstance(value, str) or not value.lower().startswith(("http://", "https://")):
            path = PATH.convert(value, param, ctx)
            return path if isinstance(path, Path) else Path(path)
        try:
            return checked_base_url(value)
        except UsageError:
            self.fail(
                "the address of a keeper looks like https://keeper.example, without user, password or query", param, ctx
            )


def from_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--from` and `--access-token-file` to a command, as `origin` and `token_file`."""
    for option in (
        click.option(
            "--access-token-file",
            "token_file",
            type=PATH,
            metavar="FILE",
            help="The file with the token for the keeper in --from. `keeper token create` printed the token.",
        ),
        click.option("--from", "origin", type=OriginType(), metavar="FROM", help=FROM_HELP),
    ):
        function = option(function)
    return function


class RemoteState(Struct, frozen=True, kw_only=True):
    """A keeper's replica at a moment: its tree, a position in it, and the sources there."""

    replica: AfarReplica
    tree: RemoteTree
    position: int
    sources: RemoteSources
    wanted: frozenset[bytes]

    @property
    def where(self) -> str:
        """The keeper's address."""
        return self.replica.client.base_url

    @contextmanager
    def cache(self) -> Iterator[SealedCache]:
        """Yield the cache of this ledger."""
        from kropot.afar.cache import sealed_cache
        from kropot.user_folders import cache_folder

        with sealed_cache(cache_folder(), self.where, self.tree.ledger_id) as cache:
            yield cache


@contextmanager
def keeper_at(settings: Settings, address: str, token_file: Path | None) -> Iterator[AfarReplica]:
    """Yield the replica at a keeper. Raises: UsageError without a token."""
    from kropot.afar.client import KeeperClient
    from kropot.afar.replica import AfarReplica
    from kropot.cli.settings import read_token
    from kropot.securecopy.address import sends_token_in_clear
    from kropot.securecopy.client import ServerAccess

    if token_file is None:
        raise UsageError(f"the keeper {address} needs a token: name the token's file with --access-token-file")
    if sends_token_in_clear(address):
        warn(f"the connection to {address} is not encrypted, so others on the network can read the token: use https")
    access = ServerAccess(
        url=address,
        token=read_token(token_file),
        ca_file=settings.ca_file,
        http_timeout=settings.http_timeout,
        user_agent=settings.user_agent,
        silence_timeout=settings.silence_timeout,
    )
    with KeeperClient(access) as client:
        yield AfarReplica(client)


def remote_state(replica: AfarReplica, until: str | None, source_names: tuple[str, ...] = ()) -> RemoteState:
    """Return the replica at a moment, and show the user the notes about it.

    Raises: UsageError if a named source is not there; BadAnswerError, and as `KeeperClient.get`.
    """
    moment = replica.moment(as_sent(until))
    for note in moment.notes:
        say(note)
    tree = replica.tree()
    if moment.position > tree.frontier.size:
        from kropot.afar.replica import BadAnswerError

        raise BadAnswerError("a moment")
    sources = replica.sources(moment.position)
    labels = labels_in(sources.known)
    wanted = frozenset(find_source(labels, name) for name in source_names)
    return RemoteState(replica=replica, tree=tree, position=moment.position, sources=sources, wanted=wanted)


def as_sent(until: str | None) -> str | None:
    """Return WHEN as a keeper accepts it: a checkpoint's file as its text, anything else as is. Raises: UsageError."""
    from kropot.replay.until import parse_when
    from ledger.checkpoint import Checkpoint
    from ledger.log import utc_now_us

    if until is None:
        return None
    when = parse_when(until, now_us=utc_now_us(), read=read_note)
    note = read_note(until) if isinstance(when, Checkpoint) else None
    return until if note is None else note.decode()


def refuse_token_alone(origin: Path | str | None, token_file: Path | None) -> None:
    """Refuse a token that was given without a keeper. Raises: UsageError."""
    if token_file is not None and not isinstance(origin, str):
        raise UsageError("--access-token-file is for a keeper: name its address with --from, or leave it out")
