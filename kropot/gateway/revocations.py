"""Keeps revoked tokens in a folder of their own, so that an older copy of the database brings none of them back.

There is one empty file for each revoked token, named after the keyed hash under which the database stores the token. A
vault's retired masters are kept here in the same way.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from kropot.durable.newfile import write_new
from kropot.errors import KropotError, UsageError
from kropot.user_folders import state_folder

if TYPE_CHECKING:
    from pathlib import Path


class RevocationsError(KropotError):
    """The folder of revoked tokens cannot be used. The message says why."""


class Revocations:
    """The revoked tokens of all gateways that use this folder."""

    def __init__(self, folder: Path | None) -> None:
        """Keep them in `folder`, which is created when it is needed. With None, keep nothing."""
        self._folder = folder

    def has(self, lookup: bytes) -> bool:
        """Whether the token with this keyed hash (32 bytes) was revoked here.

        Raises:
            RevocationsError: the folder cannot be read, so this is unknown.
        """
        if self._folder is None:
            return False
        try:
            os.lstat(self._path(self._folder, lookup))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RevocationsError(
                f"cannot read the folder of revoked tokens {self._folder} ({error.strerror}): make it readable for "
                "this user, or name another one with --revocations"
            ) from error
        return True

    def keep(self, lookup: bytes) -> None:
        """Record durably that the token with this keyed hash is revoked.

        Raises:
            RevocationsError: the folder cannot be read or written to.
        """
        if self._folder is None or self.has(lookup):
            return
        try:
            with suppress(FileExistsError):
                write_new(self._path(self._folder, lookup), b"")
        except OSError as error:
            raise RevocationsError(
                f"cannot write to the folder of revoked tokens {self._folder} ({error.strerror}), so an older copy of "
                "the database would bring back what was revoked: make the folder writable for this user, or name "
                "another one with --revocations"
            ) from error

    @staticmethod
    def _path(folder: Path, lookup: bytes) -> Path:
        return folder / f"{lookup.hex()}.revoked"


def default_revocations() -> Path:
    """Return this user's folder of revoked tokens. Raises: UsageError for a user without a home."""
    folder = state_folder()
    if folder is None:
        raise UsageError("this user has no home for the folder of revoked tokens: name a folder with --revocations")
    return folder / "revoked-tokens"
