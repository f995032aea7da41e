"""Remembers, outside of ledger and storage, where replicas were made: a missing ledger can mean an unmounted disk.

`collect` makes the ledger and the storage on its first run. If their disk is not mounted one night, it must not
make them again below the empty mount point. So it leaves a marker in this user's state folder, named after the two
places. A marker holds no secret, only where the ledger and the storage are.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from kropot.durable.newfile import write_new
from kropot.errors import KropotError
from kropot.secret import hide_credentials
from kropot.user_folders import state_folder
from ledger.sql.dialects import parse_place

if TYPE_CHECKING:
    from kropot.objects.stores.address import StorageAddress

FOLDER = "replicas"


class ReplicaAwayError(KropotError):
    """A ledger that this user has collected into cannot be found. Nothing was made in its place."""


class ForgetfulError(KropotError):
    """There is no state folder, or it cannot be read or written, so nothing is remembered."""

    def __init__(self, why: str) -> None:
        """Put the reason into the message."""
        super().__init__(
            f"cannot remember where this replica is ({why}), so `collect` would begin a new one if its disk is not "
            f"mounted one day: set XDG_STATE_HOME to a folder that this user can write"
        )


class RememberedReplica(Struct, frozen=True, kw_only=True):
    """The two places of a replica, without any credentials."""

    database: str
    storage: str

    @classmethod
    def at(cls, db_string: str, storage: StorageAddress) -> Self:
        """Return the replica that the two options name. Raises: BadPlaceError, LedgerError."""
        place = parse_place(db_string)
        database = hide_credentials(db_string) if place.path is None else os.path.normpath(place.path)
        shown = os.path.normpath(storage.absolute()) if isinstance(storage, Path) else str(storage)
        return cls(database=database, storage=shown)

    def remember(self) -> None:
        """Leave a marker, unless there is one. Raises: ForgetfulError."""
        content = {"database": self.database, "storage": self.storage}
        path = _folder() / f"{_name(self.database)}-{_name(self.storage)}.json"
        try:
            if not path.exists():
                write_new(path, json.dumps(content).encode())
        except OSError as error:
            if not path.is_file():  # else another collector of this replica was faster
                raise ForgetfulError(f"{path}: {error.strerror}") from error

    def demand_new(self) -> None:
        """Return if no marker names this database or this storage. Call it if there is no ledger.

        Raises: ReplicaAwayError; ForgetfulError.
        """
        ends = f"-{_name(self.storage)}.json"
        for name in _names():
            if name.startswith(f"{_name(self.database)}-"):
                raise ReplicaAwayError(
                    f"there is no ledger at {self.database}, although this user has collected into one there, so "
                    "nothing was made: mount its disk, or start its database; if the ledger is lost for good, make it "
                    "again with `kropotcli db recover --from-storage`, or begin a new one with `kropotcli db init`"
                )
            if name.endswith(ends):
                raise ReplicaAwayError(
                    f"there is no ledger at {self.database}, and the storage {self.storage} belongs to another one "
                    f"({_database_of(name)}), so nothing was made: correct --db-string or the working directory; to "
                    "begin a new ledger for this storage, run `kropotcli db init`"
                )


def _folder() -> Path:
    folder = state_folder()
    if folder is None:
        raise ForgetfulError("this user has no home")
    return folder / FOLDER


def _names() -> list[str]:
    folder = _folder()
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ForgetfulError(f"{folder}: {error.strerror}") from error


def _name(place: str) -> str:
    return hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()[:32]


def _database_of(name: str) -> str:
    """Return the database that a marker names, for a message. A marker that cannot be read is no reason to fail."""
    try:
        return str(json.loads((_folder() / name).read_bytes())["database"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"see {_folder() / name}"
