"""Reads and writes the files of kits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kropot.cli.base import warn_if_exposed
from kropot.cli.paths import read_named
from kropot.durable.newfile import write_new
from kropot.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from kropot.sc2.kit import OwnerKit
    from kropot.sc2.passphrase import LockedKit

_MOST_BYTES: Final = 1 << 20


def read_kit_file(path: Path) -> tuple[bytes, OwnerKit | LockedKit]:
    """Return the bytes of a kit's file, and what they hold. Raises: UsageError."""
    from kropot.sc2.kits import parse_kit

    data = read_named("the kit", path, _MOST_BYTES)
    warn_if_exposed("kit", path)
    return data, parse_kit(data, name=str(path))


def write_secret(path: Path, data: bytes, option: str) -> None:
    """Write a new, durable file that only its owner can read. Raises: UsageError."""
    try:
        write_new(path, data)
    except FileExistsError:
        raise UsageError(f"{path} exists and was not overwritten: name a new file with {option}") from None
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): name another file with {option}") from None
