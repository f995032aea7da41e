"""Who is doing what just now: instances, leases and claims of a ledger's collectors; working state, and no history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.decoding import entry_of
from ledger.errors import InstanceBusyError
from ledger.rows import InstanceRow, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.events import StreamKey
    from ledger.replica import Entry
    from ledger.store import EventStore


class Work:
    """The part of a `Ledger` that shares work out: `session` (16 random bytes) tells this process from all others."""

    store: EventStore
    session: bytes

    def now_us(self) -> int:
        """Return the ledger's time in microseconds since 1970 UTC."""
        raise NotImplementedError

    def clock_us(self) -> int:
        """Return what the clock says that the ledger's time is taken from.

        Leases run by it. The ledger's time stands still after a clock was set back, and no lease would ever end.
        """
        raise NotImplementedError

    def enroll(self, instance: str, *, place: str, lease_us: int, here: bool = False) -> None:
        """Register this session as the living collector `instance` for `lease_us`, renewed by `beat`.

        `place` says on which machine and storage path it works; `here` says that the lock on that place's files is
        held, so that an instance registered there before is dead.

        Raises:
            InstanceBusyError: if another living session has the name.
        """
        now = self.clock_us()
        row = InstanceRow(instance, self.session, place, now, now, now + lease_us)
        busy = self.store.enroll(row, now_us=now, here=here)
        if busy is not None:
            raise InstanceBusyError(instance, busy.place)

    def beat(self, instance: str, *, lease_us: int) -> None:
        """Say that this session is alive: the instance's row, its leases and claims last `lease_us` from now.

        Raises:
            InstanceBusyError: if another session has taken over the name; this one MUST stop.
        """
        now = self.clock_us()
        if not self.store.beat(instance, self.session, now_us=now, expires_us=now + lease_us):
            raise InstanceBusyError(instance, "")

    def retire(self, instance: str) -> None:
        """Give the name back, with every lease and claim of this session."""
        self.store.retire(instance, self.session)

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
        """Lease a block of entries that no living session has leased, the longest due first.

        They are due at `due_us`; a moment to come takes those in, too, that are to be tried again only then.

        Raises:
            InstanceBusyError: if another session has taken over the name; this one MUST stop.
        """
        now = self.clock_us() if now_us is None else now_us
        due = max(now, self.store.head().recorded_us) if due_us is None else due_us
        images = self.store.take(
            LeaseRequest(instance, self.session, now, now + lease_us, limit, max_bytes, source, due)
        )
        if images is None:
            raise InstanceBusyError(instance, "")
        return [entry_of(image) for image in images]

    def release(self, instance: str, keys: Iterable[StreamKey] | None = None) -> None:
        """Give back this session's leases on `keys`, or all of them."""
        stored = None if keys is None else [key.stored for key in keys]
        self.store.release(instance, self.session, stored)

    def claim(self, name: str, *, lease_us: int) -> bool:
        """Take or prolong the claim `name` (one lister among many collectors); False while another session has it."""
        now = self.clock_us()
        return self.store.claim(name, self.session, now_us=now, expires_us=now + lease_us)

    def unclaim(self, name: str) -> None:
        """Give the claim back, if it is this session's."""
        self.store.unclaim(name, self.session)
