"""The parameter types of options that take a file, a folder or a storage, and the reading of named files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kropot.durable.dirfd import open_named
from kropot.errors import UsageError

if TYPE_CHECKING:
    from kropot.objects.stores.address import StorageAddress


class NamedPath(click.Path):
    """A path that is not empty: an unset variable in a script (`--to "$DIR"`) must not mean the working directory."""

    def __init__(self) -> None:
        """Convert to `pathlib.Path`. The command itself checks whether the path exists."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises: click.BadParameter if it is empty."""
        if value == "":
            self.fail("it is empty: write . for the working directory", param, ctx)
        return super().convert(value, param, ctx)


PATH = NamedPath()


class StoragePlace(click.ParamType["StorageAddress", "StorageAddress | str"]):
    """A folder, or the address of a storage on another machine."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StorageAddress:
        """Return the address. Raises: click.BadParameter, without the text, which can contain a password."""
        from kropot.objects.stores.address import BucketAddress, SftpAddress, parse_storage

        if isinstance(value, (BucketAddress, SftpAddress)):
            return value
        try:
            address = parse_storage(os.fsdecode(value))
        except UsageError as error:
            raise click.BadParameter(str(error), ctx, param) from None
        if isinstance(address, Path):
            return Path(PATH.convert(value, param, ctx))
        return address


STORAGE = StoragePlace()


class FurtherStoragePlace(StoragePlace):
    """The address of a further storage. `~` is the user's home."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StorageAddress:
        """Return the address. Raises: click.BadParameter."""
        from kropot.user_folders import expanded

        found = super().convert(value, param, ctx)
        return expanded(found) if isinstance(found, Path) else found


FURTHER = FurtherStoragePlace()


def read_named(what: str, path: Path, most: int = -1, *, dash: bool = False) -> bytes:
    """Return at most `most` bytes of a file that the user named. With `dash`, - is standard input.

    `what` is what the file should hold, with the article. Raises: UsageError if it cannot be read.
    """
    try:
        with click.open_file("-", "rb") if dash and str(path) == "-" else open_named(path) as file:
            return file.read(most)
    except OSError as error:
        raise UsageError(f"cannot read {what} {path} ({error.strerror}): check the path and its permissions") from error
