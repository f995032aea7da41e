"""Open the rewriter of packs, for `prune` and `storage clean`. Only one process at a time can pack in a storage."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from kropot.cli.base import say
from kropot.errors import LockedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.objects.opening import Storage
    from kropot.retention.repacking import Repacking
    from ledger.log import Ledger

MAX_UNUSED: Final = 50
"""The default for the percentage of a pack that may be unused."""


@contextmanager
def repacking(
    ledger: Ledger, storage: Storage, *, until: int, max_unused: int | None, orphans_us: int | None = None
) -> Iterator[Repacking | None]:
    """Yield the rewriter of packs, or None if another process is packing: then packs stay as they are.

    Raises: LockedError if another process began to free bytes, so that the block could not continue.
    """
    from kropot.retention.conditions import demand_quiet
    from kropot.retention.repacking import Repacking
    from ledger.errors import ConflictError

    with ExitStack() as stack:
        try:
            rewriter = stack.enter_context(storage.rewriter())
        except LockedError:
            say("another process is packing this storage, so this run leaves packs as they are")
            made = None
        else:
            made = Repacking(
                ledger=ledger,
                packs=rewriter,
                allowed=lambda: demand_quiet(ledger),
                until=until,
                max_unused=MAX_UNUSED if max_unused is None else max_unused,
                now_us=ledger.clock_us(),
                orphans_us=orphans_us,
            )
        try:
            yield made
        except ConflictError as error:
            raise LockedError(
                "another process began to free bytes of this replica (prune, erase or storage clean), so this one "
                "stopped: run the command again later, and it goes on from there"
            ) from error
