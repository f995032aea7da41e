"""Erase in every further storage that the ledger knows, as `erase` does in the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.durable.errors import StorageError
from kropot.further.catching_up import CatchingUp
from kropot.further.joining import FurtherStorageError
from kropot.objects.stores.waiting import Purged
from kropot.retention.needed import needed_in

if TYPE_CHECKING:
    from collections.abc import Collection

    from kropot.further.joining import Further, Surroundings
    from ledger.log import Ledger


class FurtherErasing:
    """Erases in the further storages; all of them must be available."""

    def __init__(self, ledger: Ledger, surroundings: Surroundings) -> None:
        """Do nothing yet."""
        self._ledger = ledger
        self._surroundings = surroundings

    def demand_removable(self) -> None:
        """Check that each is there and allows removal. Raises: FurtherStorageError, StorageError."""
        for row in self._surroundings.known(self._ledger):
            with self._surroundings.rejoin(self._ledger, row) as further:
                further.storage.demand_removable()

    def objects(self, sha256s: Collection[bytes], stream: int) -> tuple[list[bytes], Purged]:
        """Remove these objects, which only the stream names.

        Return the objects that are left anywhere, and which older versions were removed where none is left. Raises:
        FurtherStorageError, StorageError, LockedError.
        """
        return self._each(sha256s, stream, ())

    def segments(self, positions: Collection[int]) -> Purged:
        """Rewrite the segments that hold these events, and remove their older versions. Raises: as `objects`."""
        return self._each((), 0, positions)[1]

    def retry(self) -> tuple[Purged, list[str]]:
        """Remove versions that were locked when erased. Also return the errors of storages where that failed."""
        done, wrong = Purged(), []
        for row in self._surroundings.known(self._ledger):
            try:
                with self._surroundings.rejoin(self._ledger, row) as further:
                    done += remove_waiting(self._ledger, further, even_if_locked=True)
            except (FurtherStorageError, StorageError) as error:
                wrong.append(f"{row.address}: {error}")
        return done, wrong

    def _each(self, sha256s: Collection[bytes], stream: int, positions: Collection[int]) -> tuple[list[bytes], Purged]:
        left: set[bytes] = set()
        done = Purged()
        for row in self._surroundings.known(self._ledger):
            source = self._surroundings.files_of_first()
            try:
                with self._surroundings.rejoin(self._ledger, row) as further:
                    here, purged = CatchingUp(self._ledger, source, further).erase(sha256s, stream, positions)
            finally:
                source.close()
            left.update(here)
            done += purged
        return sorted(left), done


def remove_waiting(ledger: Ledger, further: Further, *, even_if_locked: bool = False) -> Purged:
    """Remove older versions that were locked when their content was erased and no longer are. Raises: StorageError."""
    versioned = further.storage.versioned()
    return Purged() if versioned is None else versioned.retry(needed_in(ledger), even_if_locked=even_if_locked)
