"""What the commands that read copies share: opening the storage, reading kits, and worker threads."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from kropot.cli.base import storage_of
from kropot.cli.moments import moment_of
from kropot.errors import PartialError, UsageError
from kropot.objects.stores.address import shown_storage
from kropot.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from kropot.cli.settings import Settings
    from kropot.durable.target import TargetFolder
    from kropot.objects.packs.packed import PackPlaces
    from kropot.replay.copies import HeldCopy, StoredCopies
    from kropot.restore.opener import Key
    from ledger.log import Ledger

WORKERS: Final = 8
"""How many files to handle at the same time. Hashing, ciphers and syncs release Python's lock."""


@contextmanager
def open_copies(
    settings: Settings, ledger: Ledger | None = None, *, places: PackPlaces | None = None
) -> Iterator[StoredCopies]:
    """Open the copies in the storage for reading. The ledger tells which of the missing ones were released.

    `places` are the ledger's, for callers that need nothing else from it. With neither, packs are searched.

    Raises: UsageError if there is no storage.
    """
    from kropot.replay.copies import StoredCopies

    storage = storage_of(settings).reading()
    if not storage.is_there:
        raise UsageError(
            f"there is no storage at {shown_storage(settings.storage_path)}: name the right one with --storage-path"
        )
    if places is None and ledger is not None:
        places = ledger.places
    objects = storage.objects(places=places)
    try:
        yield StoredCopies(objects, lambda held: None if ledger is None else _released(ledger, held))
    finally:
        objects.close()


def _released(ledger: Ledger, held: HeldCopy) -> str | None:
    """Return when and why the copy was released, None if it was not."""
    from kropot.query.released import release_of

    sha256 = held.sha256
    if sha256 is None or not any(row.state == "released" for row in ledger.copies(start=sha256, end=sha256)):
        return None
    found = release_of(ledger, held.key, sha256)
    return None if found is None else found.text


def named_copy(ledger: Ledger, name: str, keys: Sequence[Key], until: str | None) -> tuple[HeldCopy, bytes]:
    """Return the copy of the element with this name or id, as it was at a moment, and the SHA-256 of its object.

    Raises: UsageError if there is no such element; PartialError if no copy was stored.
    """
    from kropot.cli.naming import Names
    from kropot.restore.element_copy import held_of

    key = Names(ledger, keys).find(name)
    held = held_of(ledger, key, moment_of(ledger, until).position)
    if held is None or held.sha256 is None:
        raise PartialError(
            f"no copy of {name} was stored at that moment: run `kropotcli history {one_line(key.id)}` to see what "
            "happened"
        )
    return held, held.sha256


@contextmanager
def reading_pool() -> Iterator[Executor]:
    """Start threads that only read. The end of the block waits for them, and drops work that has not begun."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def workers(tree: TargetFolder) -> Iterator[Executor]:
    """Start threads that work on this tree. The end of the block stops them."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        stop_workers(pool, tree)


def stop_workers(pool: Executor, tree: TargetFolder) -> None:
    """Stop the threads. They must end before the tree is closed: later, a descriptor can belong to another file."""
    tree.stop()
    pool.shutdown(cancel_futures=True)


def check_target(settings: Settings, target: Path) -> None:
    """Refuse to write into the storage. Raises: UsageError."""
    if storage_of(settings).encloses(target):
        raise UsageError(f"the folder {target} is inside the storage, which must hold only copies: name another folder")


def read_kits(paths: Sequence[Path], passphrase_files: Sequence[Path] = ()) -> list[Key]:
    """Return the keys in these kits: one for each CBC token, and one for each vault.

    Raises:
        UsageError: a file cannot be read or is not a kit, or two kits contradict each other.
        WrongKeyError: the passphrase of a locked kit is wrong.
    """
    from kropot.cli.kit_files import read_kit_file
    from kropot.cli.passphrases import Passphrases
    from kropot.sc2.passphrase import LockedKit
    from kropot.sc2.vault import keyring

    passphrases = Passphrases(passphrase_files)
    read = [read_kit_file(path)[1] for path in paths]
    kits = [passphrases.open(kit) if isinstance(kit, LockedKit) else kit for kit in read]
    vaults = keyring(kit.vault for kit in kits if kit.vault is not None)
    return [*vaults.values(), *(key for kit in kits for key in kit.cbc)]
