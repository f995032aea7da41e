"""Tells whether a file that looks different to the file system still has the bytes that its nonce was made for.

A reboot, a snapshot, a hard link or a chmod changes the device, inode or ctime, but no bytes. The bytes decide: a file
keeps its nonce only if its SHA-256 is the one that was computed under this nonce. One nonce MUST never seal two
contents, so write access to the database must not be enough to forge a SHA-256 or an origin. A seal in each row vouches
for them, and only the master key can make it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Final

from kropot.errors import KropotError
from kropot.gateway.sources import identity_parts, path_key, seen

if TYPE_CHECKING:
    from kropot.gateway.keys import MasterKey
    from kropot.gateway.sources import OpensFiles, ScannedFile, Seen
    from kropot.gateway.state import FileRow

_READ: Final = 1 << 18


class Sameness:
    """Compares files of a folder with what is known about them."""

    def __init__(self, master: MasterKey, hash_up_to: int) -> None:
        """Read files of up to `hash_up_to` bytes whenever they might have changed, and larger ones only in doubt."""
        self._master = master
        self._hash_up_to = hash_up_to

    def seal(self, path: bytes, nonce: bytes, origin: bytes, identity: bytes, sha256: bytes | None) -> bytes:
        """Return the seal (32 bytes) of a row."""
        return self._master.vouch(path_key(path), nonce, origin, identity, sha256 or b"")

    def is_vouched(self, row: FileRow) -> bool:
        """Whether this gateway wrote exactly this row."""
        if row.seal is None:
            return False
        made = self.seal(row.path, row.nonce, row.origin or row.identity, row.identity, row.sha256)
        return hmac.compare_digest(made, row.seal)

    def is_as_known(self, row: FileRow, looks: Seen) -> bool:
        """Whether the file system describes the file exactly as the row does, so that nothing has to be read."""
        if row.identity != looks.identity or row.restless_s is not None:
            return False
        return row.origin is None or self.is_vouched(row)

    def is_long_doubt(self, row: FileRow, looks: Seen) -> bool:
        """Whether only reading a large file can tell whether its bytes are the same."""
        return looks.size > self._hash_up_to and not self.is_as_known(row, looks) and self._is_doubtful(row, looks)

    def is_proved(self, row: FileRow, looks: Seen, sha256: bytes | None) -> bool:
        """Whether a file has the bytes of its nonce. `sha256` was just computed, or is None if it was not."""
        if self.is_as_known(row, looks):
            return True
        return sha256 is not None and sha256 == row.sha256 and row.restless_s is None and self.is_vouched(row)

    def digest(self, found: ScannedFile, row: FileRow | None, files: OpensFiles) -> bytes | None:
        """Return the SHA-256 of a file, opened by `files`.

        Return None if it is large and not in doubt, cannot be read, or is changing.
        """
        looks = found.seen
        if looks.size > self._hash_up_to and (row is None or not self.is_long_doubt(row, looks)):
            return None
        try:
            descriptor, before = files.open(found.path)
        except (KropotError, OSError):
            return None
        digest, left = hashlib.sha256(), before.size + 1
        try:
            # Read up to one byte more than the size. This notices a growing file, and still ends.
            while left and (chunk := os.read(descriptor, min(left, _READ))):
                digest.update(chunk)
                left -= len(chunk)
            after = seen(os.fstat(descriptor))
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return digest.digest() if before == after == looks and left == 1 else None

    def _is_doubtful(self, row: FileRow, looks: Seen) -> bool:
        """Whether a file that looks different might have the same bytes, and its SHA-256 is known for certain.

        A large file with another mtime counts as changed. `touch` sets it too, but most such files have changed.
        """
        if row.sha256 is None or row.restless_s is not None:
            return False
        return identity_parts(row.identity) == (looks.size, looks.mtime_ns) and self.is_vouched(row)
