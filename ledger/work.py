"""How a collector takes work from the ledger: it enrolls as an instance, leases due entries, and reserves names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.decoding import entry_of
from ledger.errors import InstanceBusyError
from ledger.rows import InstanceRow, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ledger.events import StreamKey
    from ledger.replica import Entry
    from ledger.rows import FurtherRow
    from ledger.stores import LedgerStore, WorkQueue


class WorkSession:
    """One process's session at the work queue. `id` (16 random bytes) distinguishes it from all other sessions.

    Leases use `clock_us`, not the ledger's time, which stands still after a clock was set back, so that no lease would
    ever end.
    """

    def __init__(self, store: LedgerStore, session: bytes, clock_us: Callable[[], int]) -> None:
        """Use this store's work queue."""
        self.id = session
        self._log = store.log
        self._queue: WorkQueue = store.work
        self._clock_us = clock_us

    def instances(self) -> list[InstanceRow]:
        """Return the registered instances, by name."""
        return self._queue.instances()

    def enroll(self, instance: str, *, place: str, lease_us: int, here: bool = False) -> None:
        """Register this session as the active collector `instance` for `lease_us`. `beat` extends that time.

        `place` names the machine and the storage path where it works. `here` says that the caller holds the lock on
        that place's files, so an instance registered there earlier has stopped.

        Raises:
            InstanceBusyError: if another active session has the name.
        """
        now = self._clock_us()
        row = InstanceRow(instance, self.id, place, now, now, now + lease_us)
        busy = self._queue.enroll(row, now_us=now, here=here)
        if busy is not None:
            raise InstanceBusyError(instance, busy.place)

    def beat(self, instance: str, *, lease_us: int) -> None:
        """Extend the instance, its leases and its reservations to `lease_us` from now.

        Raises:
            InstanceBusyError: if another session has taken over the name. This session MUST stop.
        """
        now = self._clock_us()
        if not self._queue.beat(instance, self.id, now_us=now, expires_us=now + lease_us):
            raise InstanceBusyError(instance, "")

    def retire(self, instance: str) -> None:
        """Give back the name, and all leases and reservations of this session."""
        self._queue.retire(instance, self.id)

    def take(
        self,
        *,
        instance: str,
        lease_us: int,
        now_us: int | None = None,
        limit: int = 500,
        max_bytes: int = 64 << 20,
        source: bytes | None = None,
        due_us: int | None = None,
    ) -> list[Entry]:
        """Lease a block of entries that no active session leases, the longest due first.

        They are due at `due_us`. A time in the future includes entries whose next try is due only then.

        Raises:
            InstanceBusyError: if another session has taken over the name. This session MUST stop.
        """
        now = self._clock_us() if now_us is None else now_us
        due = max(now, self._log.head().recorded_us) if due_us is None else due_us
        images = self._queue.take(LeaseRequest(instance, self.id, now, now + lease_us, limit, max_bytes, source, due))
        if images is None:
            raise InstanceBusyError(instance, "")
        return [entry_of(image) for image in images]

    def release(self, instance: str, keys: Iterable[StreamKey] | None = None) -> None:
        """Give back this session's leases on `keys`, or all of them."""
        self._queue.release(instance, self.id, None if keys is None else [key.stored for key in keys])

    def further(self) -> list[FurtherRow]:
        """Return the further storages that are known, in the order of their addresses and ids."""
        return sorted(self._queue.further(), key=lambda row: (row.address, row.id))

    def keep_further(self, row: FurtherRow) -> None:
        """Record this further storage, and replace what was known about it."""
        self._queue.keep_further(row)

    def forget_further(self, id_: bytes) -> None:
        """Forget a further storage."""
        self._queue.forget_further(id_)

    def reserve(self, name: str, *, lease_us: int) -> bool:
        """Reserve `name` or extend the reservation (so only one collector lists). False while another has it."""
        now = self._clock_us()
        return self._queue.reserve(name, self.id, now_us=now, expires_us=now + lease_us)

    def unreserve(self, name: str) -> None:
        """Give back the reservation, if this session has it."""
        self._queue.unreserve(name, self.id)
