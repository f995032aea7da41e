"""Records in the ledger that a run ended without success, so that `status` says so at once and from anywhere.

The fact is about the source, and applies until anything else happens to the source: the next page of a listing shows
that the server answers again. So a run that goes well records nothing.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from kropot.collect.decide.sources import source_key
from kropot.durable.errors import StorageError
from kropot.errors import Exit, IntegrityError, LockedError
from ledger.append import NewFact
from ledger.errors import LedgerError
from ledger.events import RunFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.log import Ledger

REFUSED: Final = "refused"
NO_ANSWER: Final = "no_answer"
REASONS: Final = {Exit.REFUSED: REFUSED, Exit.ERROR: NO_ANSWER}
"""Why a collector ended by itself, by its exit code."""


@contextmanager
def failure_recorded(ledger: Ledger, source_id: bytes, instance: str) -> Iterator[None]:
    """Record the error that ends the block, unless it is about the ledger's own history or another process."""
    try:
        yield
    except (IntegrityError, LockedError):
        raise
    except Exception as error:
        reason = error.reason if isinstance(error, StorageError) else "error"
        record_failure(ledger, source_id, instance, reason)
        raise


def record_failure(ledger: Ledger, source_id: bytes, instance: str, reason: str) -> None:
    """Record why a run failed, unless the source's last fact says so already. If the ledger is unavailable, do nothing.

    If another collector records something about the source in the meantime, that is newer, and nothing is recorded.
    """
    key = source_key(source_id)
    with suppress(LedgerError):
        last = next(ledger.history(key, newest_first=True)).fact
        if isinstance(last, RunFailed) and last.reason == reason:
            return
        entry = ledger.sources()[source_id]
        fact = RunFailed(source=entry.source, instance=instance, reason=reason)
        ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.now_us(), expected=entry.version)])
