"""What the commands that read copies share: opening the storage, reading kits, and worker threads."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from kropot.cli.base import storage_of, warn_if_exposed
from kropot.durable.dirfd import open_named
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
"""How many files are handled at the same time. Hashing, ciphers and syncs release Python's lock."""

_KIT_BYTES: Final = 1 << 20


@contextmanager
def open_copies(settings: Settings) -> Iterator[StoredCopies]:
    """Open the copies in the storage for reading. Raises: UsageError if there is no storage."""
    from kropot.replay.copies import StoredCopies

    storage = storage_of(settings)
    if not storage.is_there:
        raise UsageError(
            f"there is no storage at {settings.storage_path.absolute()}: name the right folder with --storage-path"
        )
    objects = storage.objects()
    try:
        yield StoredCopies(objects)
    finally:
        objects.close()


@contextmanager
def workers(tree: TargetFolder) -> Iterator[Executor]:
    """Start threads that work on this tree. They have ended when the block ends."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        stop_workers(pool, tree)


def stop_workers(pool: Executor, tree: TargetFolder) -> None:
    """Stop the threads. They must end before the tree is closed: later a descriptor may belong to another file."""
    tree.stop()
    pool.shutdown(cancel_futures=True)


def check_target(settings: Settings, target: Path) -> None:
    """Refuse to write into the storage. Raises: UsageError."""
    if storage_of(settings).encloses(target):
        raise UsageError(f"the folder {target} lies in the storage, which must hold only copies: name another folder")


def read_kits(paths: Sequence[Path]) -> list[Kit]:
    """Return the kits in these files. Raises: UsageError if a file cannot be read or is not a kit."""
    from kropot.restore.kits import read_kit

    kits: list[Kit] = []
    for path in paths:
        try:
            with open_named(path) as file:
                text = file.read(_KIT_BYTES)
        except OSError as error:
            raise UsageError(
                f"cannot read the kit {path} ({error.strerror}): check the path and its permissions"
            ) from None
        warn_if_exposed("kit", path)
        kits += read_kit(text, name=str(path))
    return kits
