"""One element at one moment, and one file opened into another."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from kropot.errors import UsageError
from kropot.replay.copies import held_at
from kropot.replay.fold import Standing, image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kropot.replay.copies import HeldCopy
    from ledger.events import StreamKey
    from ledger.log import Ledger


def held_of(ledger: Ledger, key: StreamKey, position: int) -> HeldCopy | None:
    """Return what was held of one element at `position`, None where it was not known then: one index probe."""
    standing = None
    for event in ledger.log.stream_events(key.stored):
        if event.seq > position:
            break
        element = image(ledger, event)
        if element is not None:
            standing = Standing(key=key, element=element, position=event.seq, recorded_us=event.recorded_us)
    return None if standing is None else next(held_at(ledger, [standing]))


@contextmanager
def new_file(path: Path) -> Iterator[Callable[[memoryview], object]]:
    """Write a file that gets its name, durably, only if the block ends well; yields what takes the bytes.

    Raises: UsageError where the name is taken, or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        file = os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            raise UsageError(f"{path} exists: nothing is overwritten, name another file with -o") from None
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
