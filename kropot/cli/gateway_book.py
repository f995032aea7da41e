"""The options that name a gateway's database and keys, and the tokens behind them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct

from kropot.cli.masterkey import KEY_ENV, key_path, master_key
from kropot.cli.paths import PATH
from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.gateway.tokens import TokenBook
    from kropot.sc2.kit import OwnerKit

DEFAULT_STATE: Final = "sqlite:///gateway.db"

_state_option = click.option(
    "--state",
    "state_url",
    default=DEFAULT_STATE,
    show_default=True,
    metavar="URL",
    envvar="KROPOT_GATEWAY_STATE",
    help="The gateway's own database, as an SQLAlchemy URL.",
)
_revocations_option = click.option(
    "--revocations",
    type=PATH,
    metavar="DIR",
    envvar="KROPOT_GATEWAY_REVOCATIONS",
    help="The folder that records which tokens were revoked, so an older copy of the database cannot bring them back. "
    "Keep it apart from the database. Default: in this user's state folder.",
)
_key_file_option = click.option(
    "--master-key-file",
    type=PATH,
    metavar="FILE",
    envvar="KROPOT_GATEWAY_MASTER_KEY_FILE",
    help="The file with the master key. If the database is new, the gateway makes this file with mode 0600. Default: "
    f"the name of an SQLite database with .key added. You can also put the key (base64) in {KEY_ENV}.",
)


class BookPlace(Struct, frozen=True, kw_only=True):
    """Where a gateway keeps its tokens: its database, and the paths of its master key and revocations if named.

    `book_options` gives it to a command as `place`.
    """

    state_url: str
    master_key_file: Path | None
    revocations: Path | None

    @contextmanager
    def open(self, *, create: bool = False) -> Iterator[TokenBook]:
        """Open the database and yield its tokens."""
        from kropot.gateway.keys import MasterKey
        from kropot.gateway.revocations import Revocations, default_revocations
        from kropot.gateway.state import open_state
        from kropot.gateway.tokens import TokenBook

        path = key_path(self.state_url, self.master_key_file)
        state = open_state(self.state_url, create=create)
        try:
            kept = Revocations(self.revocations or default_revocations())
            yield TokenBook(state, MasterKey(master_key(self.state_url, path)), revocations=kept)
        finally:
            state.close()


def book_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a gateway's database and keys to a command, which takes them together as `place`."""

    @wraps(function)
    def command(
        *args: Any, state_url: str, master_key_file: Path | None, revocations: Path | None, **values: Any
    ) -> Any:
        place = BookPlace(state_url=state_url, master_key_file=master_key_file, revocations=revocations)
        return function(*args, place=place, **values)

    for option in (_revocations_option, _key_file_option, _state_option):
        command = option(command)
    return command


def kit_writer(book: TokenBook, kit: Path | None) -> Callable[[dict[str, Any] | OwnerKit], Path]:
    """Return a function that writes a kit to the new file `kit`, or to a new file in this folder.

    Raises:
        UsageError: the file exists, or it would be in the served folder.
    """
    from kropot.gateway.kits import keep_kit, refuse_inside, write_kit

    root = book.source_root()
    if kit is not None and os.path.lexists(kit):
        raise UsageError(f"the file {kit} already exists, so nothing was done: name a new file with --kit")
    if root is not None:
        refuse_inside(Path(os.fsdecode(root)), kit or Path.cwd() / "kit")
    return lambda made: keep_kit(made, Path.cwd()) if kit is None else write_kit(made, kit)
