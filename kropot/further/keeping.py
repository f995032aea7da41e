"""Keeps further storages in step while a collector works. It has its own thread: a missing or full one stops nobody.

A problem with a further storage is reported once, and again every hour while it lasts.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from kropot.durable.errors import StorageError
from kropot.errors import KropotError, LockedError
from kropot.further.catching_up import CatchingUp
from kropot.further.erasing import remove_waiting
from kropot.objects.stores.address import shown_storage
from kropot.upkeep import ERASED_S, Chore
from kropot.wording import number
from ledger.errors import LedgerError
from ledger.retaining import freeing_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from kropot.further.joining import Further, Surroundings
    from kropot.objects.stores.address import StorageAddress
    from ledger.log import Ledger

EVERY_S: Final = 30.0
LOOK_AGAIN_S: Final = 600.0
"""How often to look at a storage that is in step although nothing is new, because its disk can be gone."""

SAY_AGAIN_S: Final = 3600.0


class InStep:
    """Keeps the further storages at these addresses in step with the first."""

    def __init__(
        self,
        ledger: Ledger,
        surroundings: Surroundings,
        addresses: Sequence[StorageAddress],
        *,
        segments: bool,
        warn: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Do nothing yet. `warn` takes a sentence for the user; `stopped` says whether to end."""
        self._ledger = ledger
        self._surroundings = surroundings
        self._addresses = addresses
        self._segments = segments
        self._warn = warn
        self._stopped = stopped
        self._seen: dict[str, tuple[Hashable, float]] = {}
        self._said: dict[str, tuple[str, float]] = {}
        self._retry_at: dict[str, float] = {}

    @property
    def chore(self) -> Chore:
        """The chore that calls `look` now and then."""
        return Chore(name="further storages", every_s=EVERY_S, do=self.look)

    def look(self) -> None:
        """Bring each available further storage up to date."""
        for address in self._addresses:
            if not self._stopped():
                self._one(address)

    def _one(self, address: StorageAddress) -> None:
        shown = shown_storage(address)
        news = (self._ledger.log.head().position, self._ledger.places.totals(), freeing_of(self._ledger).freed.to)
        seen, at = self._seen.get(shown, (None, 0.0))
        if seen == news and monotonic() - at < LOOK_AGAIN_S:
            return
        try:
            source = self._surroundings.files_of_first()
            try:
                with self._surroundings.join(self._ledger, address) as further:
                    work = CatchingUp(self._ledger, source, further, segments=self._segments, stopped=self._stopped)
                    done = work.run()
                    if done.is_done:
                        self._remove_waiting(shown, further)
            finally:
                source.close()
        except LockedError:
            return  # another collector of this ledger is doing it
        except (KropotError, LedgerError) as error:
            self._seen.pop(shown, None)
            self._tell(shown, f"the further storage {shown} is behind: {error}; the first one is not affected")
            return
        if done.is_done:
            self._seen[shown] = news, monotonic()
        bad = done.missing + done.copied.damaged
        if bad:
            self._tell(
                shown,
                f"{number(bad, 'file')} could not be copied to {shown}, because they are damaged or missing in the "
                "first storage: run `kropotcli verify --repair`",
            )
        else:
            self._said.pop(shown, None)

    def _remove_waiting(self, shown: str, further: Further) -> None:
        """Retry the removal of erased versions whose locks may have expired, at most every `ERASED_S` seconds."""
        if monotonic() < self._retry_at.get(shown, 0.0):
            return
        self._retry_at[shown] = monotonic() + ERASED_S
        try:
            remove_waiting(self._ledger, further)
        except StorageError as error:
            self._warn(
                f"older versions of what was erased could not be removed from the further storage {shown}: {error}; "
                "the collector tries again"
            )

    def _tell(self, shown: str, text: str) -> None:
        said, at = self._said.get(shown, ("", 0.0))
        if said != text or monotonic() - at >= SAY_AGAIN_S:
            self._said[shown] = text, monotonic()
            self._warn(text)
