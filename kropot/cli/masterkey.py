"""Where the gateway's master key is looked for, and made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from kropot.errors import UsageError, WrongKeyError
from kropot.secret import guard

if TYPE_CHECKING:
    from pathlib import Path

KEY_ENV: Final = "KROPOT_GATEWAY_MASTER_KEY"


def key_path(state_url: str, given: Path | None) -> Path | None:
    """Return the file the master key is in, None if it stands in the environment."""
    if given is not None:
        return given.expanduser()
    if os.environ.get(KEY_ENV):
        return None
    from kropot.gateway.state import sqlite_file

    file = sqlite_file(state_url)
    if file is None:
        raise UsageError(f"where is the master key? Name its file with --master-key-file, or set {KEY_ENV}")
    return file.with_name(file.name + ".key")


def master_key(state_url: str, path: Path | None) -> bytes:
    """Return the master key; a database that has none yet gets one.

    Raises:
        WrongKeyError: the database has one, and it is not where it should be.
        UsageError: what the file holds is not a key.
    """
    from kropot.gateway.keys import parse_key, read_key, write_new_key
    from kropot.gateway.state import open_state

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
                f"the master key {path} is missing, and what the database holds opens only with it: put it back, "
                "or name it with --master-key-file"
            )
        try:
            return write_new_key(path)
        except FileExistsError:
            # Another process was faster; its key is the one.
            return read_key(path)
    return read_key(path)
