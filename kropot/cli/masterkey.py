"""Find the gateway's master key, or make it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from kropot.errors import UsageError, WrongKeyError
from kropot.secret import guard
from kropot.user_folders import expanded

if TYPE_CHECKING:
    from pathlib import Path

KEY_ENV: Final = "KROPOT_GATEWAY_MASTER_KEY"


def key_path(state_url: str, given: Path | None) -> Path | None:
    """Return the file of the master key, or None if the key is in the environment."""
    if given is not None:
        return expanded(given)
    if os.environ.get(KEY_ENV):
        return None
    from kropot.gateway.state import sqlite_file

    file = sqlite_file(state_url)
    if file is None:
        raise UsageError(
            f"no master key was given for this database: name its file with --master-key-file, or set {KEY_ENV}"
        )
    return file.with_name(file.name + ".key")


def master_key(state_url: str, path: Path | None) -> bytes:
    """Return the master key. Make one if the database has none yet.

    Raises:
        WrongKeyError: the database has a key, but its file is missing.
        UsageError: the file does not hold a key.
    """
    from kropot.gateway.state import open_state
    from kropot.serving.keyfile import parse_key, read_key, write_new_key

    if path is None:
        text = os.environ[KEY_ENV]
        guard(text)
        return parse_key(text.encode(), KEY_ENV)
    if not path.exists():
        state = open_state(state_url, create=True)
        try:
            has_key = state.key_check() is not None
        finally:
            state.close()
        if has_key:
            raise WrongKeyError(
                f"the master key {path} is missing, and only it opens this database: put the file back, or name it "
                "with --master-key-file"
            )
        try:
            return write_new_key(path)
        except FileExistsError:
            # Another process was faster, so use its key.
            return read_key(path)
    return read_key(path)
