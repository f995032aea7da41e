"""The folders of the user who runs this program, if there are any.

A container's user or a service can be without a home. Then there is no default configuration file, no default key and
no memory of replicas, but everything that is named on the command line still works.
"""

from __future__ import annotations

import os
from pathlib import Path

from kropot.errors import UsageError

APP = "kropotcli"


def config_folder() -> Path | None:
    """Return this user's configuration folder for the program, None for a user without a home."""
    import platformdirs

    try:
        return platformdirs.user_config_path(APP)
    except RuntimeError:
        return None


def state_folder() -> Path | None:
    """Return this user's state folder for the program, None for a user without a home."""
    import platformdirs

    try:
        return platformdirs.user_state_path(APP)
    except RuntimeError:
        return None


def cache_folder() -> Path | None:
    """Return this user's cache folder for the program, None for a user without a home."""
    import platformdirs

    try:
        return platformdirs.user_cache_path(APP)
    except RuntimeError:
        return None


def is_credential(path: Path) -> bool:
    """Return whether a service manager gave this file to the service (LoadCredential=).

    Only the service can read it, through an access list that makes its mode look as if its group could read it too.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and path.absolute().parent == Path(folder or "/")


def expanded(path: Path) -> Path:
    """Return the path with `~` replaced by the home that it means. Raises: UsageError if that home is unknown."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"cannot tell which folder ~ means in {path}: set HOME, or write the full path") from None
