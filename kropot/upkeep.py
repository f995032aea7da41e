"""A collector's periodic chores for the ledger: segments, snapshots, checkpoints and packs.

They run on their own thread, so that no fetch waits for them. They read committed data and write no history, so a chore
that fails is reported and tried again. Only a chore that finds the history itself to be wrong ends the collector.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from kropot.errors import IntegrityError, KropotError, UnacceptedErasureError
from kropot.replay.kept import MARKS_EVERY, next_due
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kropot.checkpoints.folder import CheckpointFolder
    from kropot.objects.stores.versioned import VersionedStorage
    from kropot.segments import SegmentFolder
    from ledger.log import Ledger
    from ledger.note import SigningKey

LOOK_S = 0.5
"""Seconds between two checks whether a chore is due or the work is over."""

SEGMENTS_S = 45.0
"""The tail must be written once a minute. This leaves time for writing it, and for the chores before it."""

PACKS_S = 300.0
LOCKS_S = 60.0
ERASED_S = 3600.0
SNAPSHOTS_S = 30.0
MARKS_AT_ONCE = 5
"""Snapshots are made once this many marks are due, so that a short collection does not wait for them."""

SNAPSHOTS_PATIENCE_S = 10.0
"""How long a round of snapshots may last while more are due. A first collection adds events faster than one round."""

LAST_PATIENCE_S = 60.0
"""How long the last round may take before the process ends without it. The next start catches up."""


RENEWING = "renewing"
"""The claim shared by renewing locks and erasing, because neither may undo the other's work."""

RENEWING_US = 300 * 1_000_000
"""How long a killed process keeps others out. `erase` waits longer."""


class Chore(Struct, frozen=True, kw_only=True):
    """Something to `do` every `every_s` seconds, and once more at the end."""

    name: str
    every_s: float
    do: Callable[[], object]


def keep_segments(ledger: Ledger, folder: SegmentFolder) -> Chore:
    """Return the chore of writing the ledger's history into the storage path (kropot/segments.py)."""
    return Chore(name="segments", every_s=SEGMENTS_S, do=lambda: folder.write(ledger))


def keep_snapshots(ledger: Ledger, *, clock: Callable[[], float] = monotonic) -> Chore:
    """Return the chore of making snapshots, so that a replay of any past moment is fast."""

    def catch_up() -> None:
        if ledger.log.head().position < next_due(ledger) + (MARKS_AT_ONCE - 1) * MARKS_EVERY:
            return
        # Most runs make no snapshot, and the import takes as long as their first request.
        from kropot.replay.snapshots import maybe_snapshot

        end = clock() + SNAPSHOTS_PATIENCE_S
        while maybe_snapshot(ledger) and clock() < end:
            pass

    return Chore(name="snapshots", every_s=SNAPSHOTS_S, do=catch_up)


def keep_packed(gather: Callable[[], object]) -> Chore:
    """Return the chore of gathering small loose objects into packs once there is a pack's worth of them."""
    return Chore(name="packs", every_s=PACKS_S, do=gather)


def keep_locked(ledger: Ledger, versioned: VersionedStorage) -> Chore:
    """Return the chore of renewing a bucket's files before their locks end, and erasing versions that were locked."""
    return Chore(name="locks", every_s=LOCKS_S, do=_Locks(ledger, versioned).look)


def keep_checkpoints(
    ledger: Ledger,
    key: SigningKey,
    key_file: Path,
    folders: Sequence[CheckpointFolder],
    *,
    every_s: float,
    every_events: int,
) -> Chore:
    """Return the chore of signing a new head, every `every_s` seconds or `every_events` events."""
    signer = _Signer(ledger, key, key_file, folders, every_s=every_s, every_events=every_events)
    return Chore(name="checkpoints", every_s=min(every_s, 5.0), do=signer.look)


class Upkeep:
    """Does chores while its block runs. `told` gets the errors of failed chores, `crashed` an error that ends all.

    An error that ends the collector is raised again at the end of the block.
    """

    def __init__(
        self,
        chores: Sequence[Chore],
        *,
        told: Callable[[str, Exception], None],
        crashed: Callable[[Exception], None],
        clock: Callable[[], float] = monotonic,
        patience: Callable[[], float] = lambda: LAST_PATIENCE_S,
    ) -> None:
        """Start nothing yet. `clock` returns seconds, and so does `patience`: how long the last round may take."""
        self._due: dict[str, float] = {}
        self._chores = chores
        self._told = told
        self._crashed = crashed
        self._clock = clock
        self._patience = patience
        self._over = threading.Event()
        self._ended_at: float | None = None
        self._fatal: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._due = {chore.name: self._clock() + chore.every_s for chore in self._chores}
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Do every chore once more, and end. Raises: the error that ended it, unless another one is being raised."""
        self._ended_at = self._clock()
        self._over.set()
        while self._thread.is_alive() and not self.is_out_of_time:
            self._thread.join(LOOK_S)
        if self._fatal is not None and error is None:
            raise self._fatal

    @property
    def is_out_of_time(self) -> bool:
        """Whether the last round has used up its time, so that a chore that can continue another day should end now."""
        return self._ended_at is not None and self._clock() - self._ended_at >= self._patience()

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            for chore in self._chores:
                if self._clock() >= self._due[chore.name] and not self._do(chore):
                    return
        for chore in self._chores:
            if not self._do(chore):
                return

    def _do(self, chore: Chore) -> bool:
        """Do a chore. Return False if its error ends all chores."""
        self._due[chore.name] = self._clock() + chore.every_s
        try:
            chore.do()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the end of the block raises it
            if isinstance(error, IntegrityError) or not isinstance(error, (KropotError, LedgerError)):
                self._fatal = error
                self._crashed(error)
                return False
            self._told(chore.name, error)
        return True


class _Signer:
    """Signs after enough events, or after enough time if there is any new event."""

    def __init__(
        self,
        ledger: Ledger,
        key: SigningKey,
        key_file: Path,
        folders: Sequence[CheckpointFolder],
        *,
        every_s: float,
        every_events: int,
    ) -> None:
        self._ledger = ledger
        self._key = key
        self._key_file = key_file
        self._folders = folders
        self._every_s = every_s
        self._every_events = every_events
        self._signed = 0
        self._signed_at: float | None = None

    def look(self) -> None:
        """Sign the head if it is time: at the first look, and later if there are new events."""
        position = self._ledger.log.head().position
        if position == self._signed:
            return
        is_long_ago = self._signed_at is None or monotonic() - self._signed_at >= self._every_s
        if is_long_ago or position - self._signed >= self._every_events:
            from kropot.checkpoints.folder import CheckpointFolderAwayError
            from kropot.checkpoints.signing import sign_head

            try:
                self._signed = sign_head(self._ledger, self._key, self._key_file, self._folders).checkpoint.size
            except (UnacceptedErasureError, CheckpointFolderAwayError):
                # A person must act, so this is reported when the next checkpoint is due, not every few seconds.
                self._signed, self._signed_at = position, monotonic()
                raise
            self._signed_at = monotonic()


class _Locks:
    """Renews locks round by round, and now and then tries to remove erased versions that are no longer locked."""

    def __init__(self, ledger: Ledger, versioned: VersionedStorage) -> None:
        self._ledger = ledger
        self._versioned = versioned
        self._renewal = versioned.renewal()
        self._retry_at = 0.0

    def look(self) -> None:
        """Do a round, unless another process has the claim. Raises: StorageError."""
        if not self._ledger.work.reserve(RENEWING, lease_us=RENEWING_US):
            return
        try:
            if self._renewal is not None:
                self._renewal.round()
            if monotonic() >= self._retry_at:
                self._retry_at = monotonic() + ERASED_S
                # Most collectors never need it.
                from kropot.retention.needed import needed_in

                self._versioned.retry(needed_in(self._ledger))
        finally:
            self._ledger.work.unreserve(RENEWING)
