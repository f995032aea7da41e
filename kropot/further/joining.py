"""Find out what is at the address of a further storage: a new one, a known one, or one that must be left alone.

A storage is known by the id in its description, not by its address, so two disks can take turns at one mount point, and
each continues where it was. If the description at a known address is gone, the disk is taken as not mounted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from kropot.errors import IntegrityError, KropotError
from kropot.further.description import KEY, MOST_BYTES, Description, parse
from kropot.further.places import FurtherPlaces
from kropot.objects.opening import open_files, open_store
from kropot.objects.stores.address import parse_storage, shown_storage
from kropot.objects.stores.files import MARKER, NoSuchKeyError
from kropot.objects.stores.local import COPIER
from kropot.objects.stores.objects import MARKER_TEXT
from kropot.objects.stores.waiting import NOTHING_WAITS
from ledger.retaining import freeing_of
from ledger.rows import FurtherRow

if TYPE_CHECKING:
    from kropot.objects.opening import Storage
    from kropot.objects.store import ObjectStore
    from kropot.objects.stores.address import StorageAddress
    from kropot.objects.stores.files import RemoteFiles
    from kropot.objects.stores.waiting import LockedVersions
    from ledger.log import Ledger

_ID_BYTES = 16


class FurtherStorageError(KropotError):
    """A further storage is unavailable, or is not what it should be. Nothing in it was changed."""


class FurtherAwayError(FurtherStorageError):
    """The further storage is not at its address."""


@dataclass(slots=True, kw_only=True)
class Further:
    """An available further storage of the ledger: its files, the storage itself, and its row in the ledger."""

    files: RemoteFiles
    storage: Storage
    row: FurtherRow

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the connections."""
        self.files.close()

    def objects(self, ledger: Ledger) -> ObjectStore:
        """Return its objects. The caller closes them."""
        return self.storage.objects(places=FurtherPlaces(ledger.places))

    def keep(self, ledger: Ledger, row: FurtherRow) -> None:
        """Record its position in the ledger, and then in the storage itself. Raises: StorageError, LedgerError."""
        ledger.work.keep_further(row)
        described = Description(ledger=ledger.identity().ledger_id, id=row.id, position=row.position)
        if row.position != self.row.position:
            self.files.put(KEY, described.stored)
        self.row = row


class Surroundings(Struct, frozen=True, kw_only=True):
    """Where the first storage is, and which authorities certify servers."""

    first: StorageAddress
    ca_file: Path | None = None

    def files_of_first(self) -> RemoteFiles:
        """Open the files of the first storage."""
        return open_files(self.first, COPIER, ca_file=self.ca_file)

    def join(self, ledger: Ledger, address: StorageAddress, *, begin: bool = False) -> Further:
        """Open the further storage at this address, or start a new one. Where one was before, this needs `begin`.

        Raises:
            FurtherAwayError: one was there and is gone. Nothing was made in its place.
            FurtherStorageError: the storage belongs to another ledger, or its owner is unknown.
            StorageError: it cannot be reached.
        """
        shown = shown_storage(address)
        if shown == shown_storage(self.first) or _overlap(address, self.first):
            raise FurtherStorageError(
                f"{shown} is the first storage itself, or one is inside the other: name another place with --also-store"
            )
        files = open_files(address, COPIER, ca_file=self.ca_file)
        try:
            storage = open_store(address, COPIER, ca_file=self.ca_file)
            row = _row(ledger, files, storage, address, begin=begin)
        except BaseException:
            files.close()
            raise
        return Further(files=files, storage=storage, row=row)

    def known(self, ledger: Ledger) -> list[FurtherRow]:
        """Return the further storages that the ledger knows, except one that became the first."""
        first = shown_storage(self.first)
        return [row for row in ledger.work.further() if row.address != first]

    def look(self, ledger: Ledger, row: FurtherRow) -> LockedVersions:
        """Return which versions wait for removal in a known further storage at its address. Nothing is written.

        Raises: FurtherStorageError, StorageError.
        """
        address = parse_storage(row.address)
        files = open_files(address, COPIER, ca_file=self.ca_file)
        try:
            told = read_description(files)
        finally:
            files.close()
        if told is None:
            raise FurtherAwayError("it is not there: is its disk mounted?")
        if told.ledger != ledger.identity().ledger_id:
            raise FurtherStorageError("what is there belongs to another ledger")
        if told.id != row.id:
            raise FurtherAwayError("another further storage is at its address")
        versioned = open_store(address, COPIER, ca_file=self.ca_file).versioned()
        return NOTHING_WAITS if versioned is None else versioned.waiting()

    def visit(self, ledger: Ledger, address: StorageAddress) -> Further:
        """Open the further storage at this address, if the ledger knows it. Nothing is written.

        Raises: as `join`; FurtherAwayError if the ledger does not know it.
        """
        files = open_files(address, COPIER, ca_file=self.ca_file)
        try:
            row = _known_row(ledger, files)
            storage = open_store(address, COPIER, ca_file=self.ca_file)
            _demand_same_history(ledger, storage)
        except BaseException:
            files.close()
            raise
        return Further(files=files, storage=storage, row=row)

    def rejoin(self, ledger: Ledger, row: FurtherRow) -> Further:
        """Open a known further storage at its last address. Raises: as `visit`, also if another storage is there."""
        found = self.visit(ledger, parse_storage(row.address))
        if found.row.id != row.id:
            found.files.close()
            raise FurtherAwayError(
                f"another further storage is at {row.address} now: the one with the id {row.id.hex()}, which had this "
                "address, is away"
            )
        return found


def _row(ledger: Ledger, files: RemoteFiles, storage: Storage, address: StorageAddress, *, begin: bool) -> FurtherRow:
    ledger_id, shown = ledger.identity().ledger_id, shown_storage(address)
    rows = {row.id: row for row in ledger.work.further()}
    told = read_description(files)
    if told is None:
        if not begin and any(row.address == shown for row in rows.values()):
            raise FurtherAwayError(
                f"the further storage at {shown} is not there: is its disk mounted? If it is lost and you want to "
                f"begin a new one there, run `kropotcli storage catch-up --begin {shown}`"
            )
        _demand_ours(ledger, files, storage)
        told = _begun(files, storage, address, ledger_id)
        for row in rows.values() if begin else ():
            if row.address == shown:
                ledger.work.forget_further(row.id)
        # An empty storage cannot hold objects that were freed before.
        freed = freeing_of(ledger).freed.to if storage.segments().newest() is None else 0
        rows[told.id] = FurtherRow(told.id, shown, 0, freed, ledger.now_us())
    if told.ledger != ledger_id:
        raise FurtherStorageError(
            f"{shown} is a further storage of another ledger ({told.ledger.hex()}), so nothing was changed there: name "
            "another place with --also-store"
        )
    _demand_same_history(ledger, storage)
    row = rows.get(told.id, FurtherRow(told.id, shown, 0, 0, ledger.now_us()))
    # Either of the two can be a backup from an earlier day, so only the lower position is true of both.
    position = min(row.position, told.position, ledger.head().position)
    now = row._replace(address=shown, position=position)
    if now != row or told.id not in {each.id for each in ledger.work.further()}:
        ledger.work.keep_further(now)
    return now


def _known_row(ledger: Ledger, files: RemoteFiles) -> FurtherRow:
    """Return the ledger's row of the storage that is there. Raises: FurtherAwayError, StorageError."""
    told = read_description(files)
    row = next((row for row in ledger.work.further() if told is not None and row.id == told.id), None)
    if told is None or row is None or told.ledger != ledger.identity().ledger_id:
        raise FurtherAwayError(
            f"no further storage of this ledger is at {files.place}: is its disk mounted? `kropotcli storage catch-up` "
            "begins one"
        )
    return row._replace(position=min(row.position, told.position, ledger.head().position))


def read_description(files: RemoteFiles) -> Description | None:
    """Return a storage's description of itself, None if it has none.

    Raises: FurtherStorageError if it cannot be parsed; StorageError.
    """
    try:
        data = files.get(KEY, 0, MOST_BYTES)
    except NoSuchKeyError:
        return None
    told = parse(data)
    if told is None:
        raise FurtherStorageError(
            f"{files.place}/{KEY} is damaged: remove that file, and the storage is compared again and goes on"
        )
    return told


def _demand_ours(ledger: Ledger, files: RemoteFiles, storage: Storage) -> None:
    """Refuse a place that holds objects of an unknown ledger. Raises: FurtherStorageError."""
    _demand_same_history(ledger, storage)
    is_filled = any(next(files.walk(kind), None) is not None for kind in ("objects", "packs"))
    if is_filled and storage.segments().newest() is None:
        raise FurtherStorageError(
            f"{files.place} holds objects but no history that names their ledger, so nothing was changed there: name "
            "an empty place with --also-store"
        )


def _demand_same_history(ledger: Ledger, storage: Storage) -> None:
    try:
        storage.segments().check(ledger)
    except IntegrityError as error:
        raise FurtherStorageError(f"nothing is copied to this further storage: {error}") from error


def _begun(files: RemoteFiles, storage: Storage, address: StorageAddress, ledger_id: bytes) -> Description:
    """Make a storage that describes itself, at position 0. Raises: StorageError."""
    if isinstance(address, Path):
        objects = storage.objects()
        objects.lock()
        objects.close()
    if files.stat(MARKER) is None:
        files.put(MARKER, MARKER_TEXT)
    told = Description(ledger=ledger_id, id=os.urandom(_ID_BYTES), position=0)
    files.put(KEY, told.stored)
    return told


def _overlap(one: StorageAddress, other: StorageAddress) -> bool:
    """Whether two local folders are the same, or one is inside the other."""
    if not (isinstance(one, Path) and isinstance(other, Path)):
        return False
    first, second = one.resolve(), other.resolve()
    return first == second or first in second.parents or second in first.parents
