"""The folders of the user who runs this: where they are, and that there may be none.

A container's user or a service can be without a home. Then there is no default configuration file, no default key and
no memory of replicas, and whatever is named on the command line works all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

APP = "kropotcli"


def config_folder() -> Path | None:
    """Return this user's configuration folder of the program, None for a user without a home."""
    import platformdirs

    try:
        return platformdirs.user_config_path(APP)
    except RuntimeError:
        return None


def state_folder() -> Path | None:
    """Return this user's state folder of the program, None for a user without a home."""
    import platformdirs

    try:
        return platformdirs.user_state_path(APP)
    except RuntimeError:
        return None


def cache_folder() -> Path | None:
    """Return this user's cache folder of the program, None for a user without a home."""
    import platformdirs

    try:
        return platformdirs.user_cache_path(APP)
    except RuntimeError:
        return None


def expanded(path: Path) -> Path:
    """Return the path with `~` replaced by the home that it means. Raises: UsageError if nobody knows that home."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"nobody knows which folder ~ means in {path}: set HOME, or write the whole path") from None
