"""Erase in every further storage that the ledger knows, as `erase` does in the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.further.catching_up import CatchingUp

if TYPE_CHECKING:
    from collections.abc import Collection

    from kropot.further.joining import Surroundings
    from ledger.log import Ledger


class FurtherErasing:
    """Erases in the further storages; all of them must be there."""

    def __init__(self, ledger: Ledger, surroundings: Surroundings) -> None:
        """Do nothing yet."""
        self._ledger = ledger
        self._surroundings = surroundings

    def objects(self, sha256s: Collection[bytes], stream: int) -> list[bytes]:
        """Remove these objects, which only the stream names; return what is left of them anywhere.

        Raises: FurtherStorageError, StorageError, LockedError.
        """
        return sorted(self._each(sha256s, stream, ()))

    def segments(self, positions: Collection[int]) -> None:
        """Write the segments again that hold these events. Raises: as `objects`."""
        self._each((), 0, positions)

    def _each(self, sha256s: Collection[bytes], stream: int, positions: Collection[int]) -> set[bytes]:
        left: set[bytes] = set()
        for row in self._surroundings.known(self._ledger):
            source = self._surroundings.files_of_first()
            try:
                with self._surroundings.rejoin(self._ledger, row) as further:
                    left.update(CatchingUp(self._ledger, source, further).erase(sha256s, stream, positions))
            finally:
                source.close()
        return left
