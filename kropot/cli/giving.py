"""What the commands that give something back share: the copies, the kits, how findings are told."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from kropot.cli.base import storage_of, warn_if_exposed
from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from kropot.cli.settings import Settings
    from kropot.durable.target import TargetFolder
    from kropot.replay.copies import StoredCopies
    from kropot.securecopy.sealing import Kit

WORKERS: Final = 8
"""Files under way at a time: hashing, ciphers and syncs let others run meanwhile."""

_KIT_BYTES: Final = 1 << 20


@contextmanager
def copies_of(settings: Settings) -> Iterator[StoredCopies]:
    """Open the copies that the settings name, for reading. Raises: UsageError where there is no such storage."""
    from kropot.replay.copies import StoredCopies

    storage = storage_of(settings)
    if not storage.is_there:
        raise UsageError(f"there is no storage at {settings.storage_path.absolute()}: name it with --storage-path")
    objects = storage.objects()
    try:
        yield StoredCopies(objects)
    finally:
        objects.close()


@contextmanager
def workers(tree: TargetFolder) -> Iterator[Executor]:
    """Start threads that work on this tree; at the block's end they are gone, in haste where it ended badly."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        end(pool, tree)


def end(pool: Executor, tree: TargetFolder) -> None:
    """End threads before the tree is closed that they work on: a descriptor may then mean another file."""
    tree.stop()
    pool.shutdown(cancel_futures=True)


def check_target(settings: Settings, target: Path) -> None:
    """Refuse to give anything back into the storage itself. Raises: UsageError."""
    if storage_of(settings).encloses(target):
        raise UsageError(f"{target} lies in the storage of the copies, where nothing else belongs: name another folder")


def read_kits(paths: Sequence[Path]) -> list[Kit]:
    """Return the kits in these files. Raises: UsageError for one that cannot be read or is none."""
    from kropot.restore.kits import read_kit

    kits: list[Kit] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                text = file.read(_KIT_BYTES)
        except OSError as error:
            raise UsageError(f"the kit {path} cannot be read: {error.strerror}") from None
        warn_if_exposed("kit", path)
        kits += read_kit(text, name=str(path))
    return kits
