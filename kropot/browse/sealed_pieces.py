"""Pieces of bytes on disk that nobody else can read: no other user, and nobody who finds the disk later.

They are in an unnamed temporary file, sealed with a key that only this process has. The file ends with the process.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kropot.errors import KropotError

_KEY_BITS: Final = 256
_NONCE_BYTES: Final = 12
_HEAD: Final = struct.Struct(f"={_NONCE_BYTES}sI")
"""The nonce and the number of bytes that follow."""


class UnusableFileError(KropotError):
    """The temporary file cannot be used, or was changed since it was written. The message says what to do."""


class SealedPieces:
    """Pieces that are stored, and read again by their places. Any thread may call it."""

    def __init__(self) -> None:
        """Create the file. Raises: UnusableFileError."""
        self._seal = AESGCM(AESGCM.generate_key(_KEY_BITS))
        self._count = self._end = 0
        self._lock = threading.Lock()
        try:
            self._file = tempfile.TemporaryFile(prefix="kropot-", buffering=0)  # noqa: SIM115 -- `close` closes it
        except OSError as error:
            raise _unusable(error) from error

    def add(self, piece: bytes) -> int:
        """Store a piece and return its place. Raises: UnusableFileError."""
        with self._lock:
            # A nonce is never used twice with this key, not even after a failed write.
            self._count += 1
            nonce = self._count.to_bytes(_NONCE_BYTES)
            sealed = self._seal.encrypt(nonce, piece, None)
            data, place = memoryview(_HEAD.pack(nonce, len(sealed)) + sealed), self._end
            try:
                while data:
                    written = os.pwrite(self._file.fileno(), data, self._end)
                    data, self._end = data[written:], self._end + written
            except (OSError, ValueError) as error:
                raise _unusable(error) from error
            return place

    def read(self, place: int) -> bytes:
        """Return a piece. Raises: UnusableFileError."""
        try:
            nonce, length = _HEAD.unpack(os.pread(self._file.fileno(), _HEAD.size, place))
            return self._seal.decrypt(nonce, os.pread(self._file.fileno(), length, place + _HEAD.size), None)
        except (InvalidTag, struct.error):
            raise UnusableFileError("the temporary file with the names was damaged: start `browse` again") from None
        except (OSError, ValueError) as error:
            raise _unusable(error) from error

    def close(self) -> None:
        """Close the file. Its contents can no longer be read."""
        self._file.close()


def _unusable(error: Exception) -> UnusableFileError:
    why = getattr(error, "strerror", None) or "it is closed"
    return UnusableFileError(
        f"cannot write the names to a temporary file in {tempfile.gettempdir()} ({why}): free some space there, or set "
        "TMPDIR to a folder with free space"
    )
