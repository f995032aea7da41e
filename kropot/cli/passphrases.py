"""Passphrases of locked kits, from files or the terminal, but never from the command line itself."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click

from kropot.cli.base import warn_if_exposed
from kropot.cli.output import is_terminal
from kropot.cli.paths import PATH, read_named
from kropot.errors import UsageError, WrongKeyError
from kropot.secret import guard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kropot.sc2.kit import OwnerKit
    from kropot.sc2.passphrase import LockedKit

_LONGEST: Final = 8192

passphrase_option = click.option(
    "--passphrase-file",
    "passphrase_files",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="Read the passphrase of a locked kit from this file, e.g. /dev/fd/3. Can be repeated: each kit is opened "
    "with the passphrase that fits. Default: ask on the terminal.",
)


class Passphrases:
    """The passphrases that this run knows. If none was given, it asks the user."""

    def __init__(self, files: Sequence[Path] = ()) -> None:
        """Read the passphrases in these files. Raises: UsageError."""
        self._given = tuple(map(read_passphrase, files))
        self._asked: list[str] = []

    def open(self, kit: LockedKit) -> OwnerKit:
        """Open a locked kit.

        Raises:
            WrongKeyError: none of the passphrases opens it.
            UsageError: none was given, and there is nobody to ask.
            IntegrityError: the kit was altered.
        """
        for each in (*self._given, *self._asked):
            with suppress(WrongKeyError):
                return kit.open(each)
        if self._given:
            which = "the given passphrase does not open" if len(self._given) == 1 else "none of the passphrases opens"
            raise WrongKeyError(f"{which} the kit {kit.name}: check --passphrase-file")
        self._asked.append(ask_passphrase(f"passphrase of the kit {kit.name}", f"the kit {kit.name} is locked"))
        return kit.open(self._asked[-1])


def read_passphrase(path: Path) -> str:
    """Return the passphrase in a file, which must be one line. Raises: UsageError."""
    data = read_named("the passphrase in", path, _LONGEST)
    warn_if_exposed("passphrase in", path)
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    guard(text)
    if not text or "\n" in text or len(data) == _LONGEST:
        raise UsageError(f"the file {path} does not hold a passphrase: write it there as one line of UTF-8")
    return text


def ask_passphrase(prompt: str, why: str, *, twice: bool = False, option: str = "--passphrase-file") -> str:
    """Ask for a passphrase on the terminal. Raises: UsageError without a terminal; it begins with `why`."""
    if not is_terminal(sys.stdin):
        raise UsageError(f"{why}, and there is no terminal to ask for its passphrase: give a file with {option}")
    passphrase: str = click.prompt(prompt, hide_input=True, err=True, confirmation_prompt=twice)
    guard(passphrase)
    return passphrase
