"""`kropotcli browse`: shows a replica to its owner, in the owner's own browser and on the owner's own machine."""

from __future__ import annotations

import signal
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kropot.cli.afar import from_options, keeper_at, refuse_token_alone, remote_state
from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger, say, storage_of
from kropot.cli.base import command as define
from kropot.cli.copies import read_kits
from kropot.cli.limits import listing_limit_s
from kropot.cli.listening import ended_by_signals
from kropot.cli.output import printing_beside_the_work
from kropot.cli.passphrases import passphrase_option
from kropot.cli.paths import PATH
from kropot.cli.restore_origin import RestoreWish, origin_of
from kropot.cli.restore_trust import Trust, trust_options
from kropot.errors import UsageError
from kropot.secret import hide_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.browse.files import CopyOrigin
    from kropot.page.window import Window
    from kropot.replay.copies import HeldCopy
    from kropot.restore.opener import Key
    from ledger.events import StreamKey

_CODE_S: Final = 24 * 3600.0


@define("browse")
@from_options
@click.option(
    "--key", "kits", type=PATH, multiple=True, metavar="KIT.json", help="The kit. It stays here. Can be repeated."
)
@passphrase_option
@trust_options
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default="any free port",
    help="The port to listen on, on this machine alone.",
)
def command(
    settings: Settings,
    *,
    origin: Path | str | None,
    token_file: Path | None,
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
    against: tuple[Path, ...],
    public_key: str | None,
    require: frozenset[str],
    accept_older: bool,
    port: int,
) -> Exit:
    """Look at a replica in a browser: its health, its history, its files by name, its space and its proofs.

    The page is served to this machine alone, until you stop it. Names and contents are opened in this process, and only
    what you save is written. Open the printed address, which works once. With --from, sealed bytes come from a keeper,
    which gets no key.
    """
    from concurrent.futures import ThreadPoolExecutor

    from kropot.browse.files import OwnerFiles
    from kropot.browse.screens import OwnerScreens
    from kropot.page.app import PageApp
    from kropot.page.doors import OneTimeCodes, OwnDoor
    from kropot.serving.guard import Bounds
    from kropot.serving.listening import address_of, http_server, listen

    if isinstance(origin, Path):
        raise UsageError(
            "browse cannot read an export: give the address of a keeper with --from, or leave --from out to read the "
            "ledger"
        )
    if require:
        raise UsageError("browse does not accept --require: leave it out, and see the screen Proof")
    refuse_token_alone(origin, token_file)
    keys = read_kits(kits, passphrase_files)

    def trust() -> Trust:
        return Trust.of(kits, against=against, public_key=public_key, require=frozenset(), accept_older=accept_older)

    trust()
    with ExitStack() as stack:
        replica = OwnersReplica(settings, origin, token_file, keys, trust)
        window = stack.enter_context(replica.window())
        files = OwnerFiles(replica, keys)
        stack.callback(files.close)
        pool = ThreadPoolExecutor(16, thread_name_prefix="page")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        listening = stack.enter_context(listen("127.0.0.1", port))
        url = address_of(listening)
        host = url.partition("://")[2]
        codes = OneTimeCodes(code_s=_CODE_S)
        app = PageApp(
            OwnDoor(window, codes),
            pool,
            owner=OwnerScreens(files, replica.command(kits)),
            place=replica.place,
            claimed=isinstance(origin, str),
            hosts=frozenset({host, host.replace("127.0.0.1", "localhost")}),
        )
        server = http_server(app, Bounds(connections=64, per_address=64), ())
        caught = ended_by_signals(server)
        address = f"{url}/page/enter?code={codes.code()}"
        with printing_beside_the_work():
            if settings.json:
                emit_json("browse_started", {"url": address, "place": replica.place})
            else:
                emit(address)
        say("open this address in a browser on this machine (it works once); press Ctrl-C to stop")
        server.run([listening])
    return Exit.INTERRUPTED if signal.SIGINT in caught else Exit.DONE


class OwnersReplica:
    """The replica that the owner looks at: a keeper's, or the one on this machine. `place` names it."""

    def __init__(
        self,
        settings: Settings,
        origin: str | None,
        token_file: Path | None,
        keys: Sequence[Key],
        trust: Callable[[], Trust],
    ) -> None:
        """Take the keeper's address, or None for this machine. Nothing is read yet."""
        self._settings, self._origin, self._token_file, self._keys = settings, origin, token_file, keys
        self._trust = trust
        self.place = origin if origin is not None else str(settings.storage_path)

    @contextmanager
    def window(self) -> Iterator[Window]:
        """Yield the window into the replica. Raises: KropotError."""
        if self._origin is not None:
            with keeper_at(self._settings, self._origin, self._token_file) as replica:
                replica.moment(None)  # as every screen does first: refuses a token that cannot see any screen
                yield replica.client
            return
        from kropot.keeper.answering import KeeperAnswers
        from kropot.keeper.visitor import Role, Visitor
        from kropot.keeper.window import ReplicaWindow
        from kropot.query.health import Limits

        with open_ledger(self._settings, read_only=True) as ledger:
            limits = Limits(listing_s=listing_limit_s(self._settings))
            answers = KeeperAnswers(ledger, storage_of(self._settings), limits)
            with closing(answers):
                yield ReplicaWindow(ledger, answers, Visitor(number=0, role=Role.OWNER))

    @contextmanager
    def at(self, position: int) -> Iterator[tuple[CopyOrigin, list[str]]]:
        """Yield the copies at a position, and what is proved about the history. Raises: KropotError."""
        trust: Trust = self._trust()
        wish = RestoreWish(
            origin=self._origin, token_file=self._token_file, until=f"@{position}", vanished=True, past=True
        )
        said: list[str] = []
        with origin_of(self._settings, wish, self._keys, trust) as found:
            if trust.checkpoint is not None:
                said.append(f"included under checkpoint {trust.checkpoint:,} of {trust.total:,} events")
            else:
                said.append(f"not compared: {trust.why_not}")
            said += trust.seen
            yield found, said

    def version(self, key: StreamKey, position: int) -> HeldCopy | None:
        """Return one element's copy as it was at a position. Raises: KropotError."""
        if self._origin is None:
            from kropot.restore.element_copy import held_of

            with open_ledger(self._settings, read_only=True) as ledger:
                return held_of(ledger, key, position)
        from kropot.afar.client import NotAtKeeperError
        from kropot.afar.proved import ProvedTree

        with keeper_at(self._settings, self._origin, self._token_file) as replica:
            state = remote_state(replica, f"@{position}")
            tree = ProvedTree(replica, state.tree, ())
            try:
                held, paths = replica.element(key, position, tree.size)
            except NotAtKeeperError:
                return None
            return tree.judged(held, paths)

    def command(self, kits: Sequence[Path]) -> list[str]:
        """Return the beginning of a `kropotcli restore` command for this replica and these kits."""
        parts = ["kropotcli", "restore"]
        if self._origin is not None:
            parts += ["--from", self._origin, "--access-token-file", str(self._token_file)]
        else:
            parts += [
                "--db-string",
                hide_credentials(self._settings.db_string),
                "--storage-path",
                str(self._settings.storage_path),
            ]
        return [*parts, *(part for kit in kits for part in ("--key", str(kit)))]
