"""A signer's state for a ledger, in a file next to its key: how many events it signed, and their tree's frontier.

Anyone who can write to the database can change everything in it, so the signer does not rely on it for what it signed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kropot.durable.dirfd import open_regular
from kropot.durable.filesystem import OsFiles
from kropot.durable.newfile import replace_file
from kropot.errors import IntegrityError, KropotError, LockedError
from kropot.wording import as_unicode
from ledger.merkle import Frontier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT = "kropotcli-signer-v1"
_LONGEST = 1 << 20
_MOST_FOLDERS = 100


class SignerState:
    """The state of one signing key for one ledger, `<key file>.<ledger id>.state`. Only its owner can read it."""

    def __init__(self, key_file: Path, ledger_id: bytes) -> None:
        """Take the key's file and the ledger's id (16 bytes). This touches no file."""
        self._ledger = ledger_id.hex()
        self._folders: list[str] = []
        self.path = key_file.absolute().with_name(f"{key_file.name}.{self._ledger}.state")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from signing while the block runs, because two could sign two different histories.

        Raises: LockedError if another process is signing; KropotError if the lock cannot be made.
        """
        try:
            # The lock is a separate file that stays forever, because every signing replaces the state's file.
            lock = open_regular(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    raise self._unwritable(error) from None
                raise LockedError("another process is signing with this key: try again when it is done") from None
            yield
        finally:
            os.close(lock)

    def read(self) -> Frontier | None:
        """Return the frontier of the tree that was signed last, None if there is no state yet.

        After this, `knows` says which folders checkpoints were written to.

        Raises: IntegrityError if the file holds something else; KropotError if it cannot be read.
        """
        try:
            with os.fdopen(open_regular(self.path), "rb") as file:
                text = file.read(_LONGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KropotError(
                f"the signer's state {self.path} cannot be read ({error.strerror}), so nothing was signed: "
                "make it readable"
            ) from None
        try:
            held = json.loads(text)
            if held["format"] != FORMAT or held["ledger"] != self._ledger:
                raise ValueError  # noqa: TRY301 -- one sentence for everything that does not fit
            self._folders = [str(each) for each in held.get("folders", [])]
            return Frontier.parse(int(held["size"]), bytes.fromhex(held["frontier"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise IntegrityError(
                f"the signer's state {self.path} is damaged, so nothing was signed: restore it from a backup; if there "
                "is none, delete it, and the next signing reads the whole ledger and compares it with all checkpoints"
            ) from None

    def knows(self, folder: Path) -> bool:
        """Return whether checkpoints were written to this folder."""
        return as_unicode(str(folder.absolute())) in self._folders

    def remember(self, folder: Path) -> None:
        """Add a folder to those that checkpoints were written to; `write` makes this durable."""
        self._folders = [*self._folders, as_unicode(str(folder.absolute()))][-_MOST_FOLDERS:]

    def write(self, frontier: Frontier) -> None:
        """Replace the last frontier with this one, durably. Raises: KropotError if it cannot be written."""
        held = {
            "format": FORMAT,
            "ledger": self._ledger,
            "size": frontier.size,
            "frontier": frontier.stored.hex(),
            "folders": self._folders,
        }
        try:
            replace_file(OsFiles(), f"{self.path}.new", str(self.path), [json.dumps(held).encode() + b"\n"])
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> KropotError:
        return KropotError(
            f"the signer's state cannot be written beside the key, to {self.path} ({error.strerror}), so nothing was "
            "signed: the key must lie in a folder that this user can write"
        )
