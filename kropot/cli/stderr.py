"""A stderr that never ends the program: lines that cannot be written are counted, and reported once it works again."""

from __future__ import annotations

import os
import sys
from io import BufferedWriter, RawIOBase, TextIOWrapper
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class LastingWriter(RawIOBase):
    """Writes to a descriptor that it does not own, and never fails, because no backup may depend on its log.

    The log's disk can be full, or its reader (`| logger`) gone. `tell` turns a sentence into a whole line.
    """

    def __init__(self, descriptor: int, tell: Callable[[str], str]) -> None:
        """Start with no lost lines."""
        self._descriptor = descriptor
        self._tell = tell
        self._lost = 0
        self._why = ""

    def writable(self) -> bool:
        """Return True, even if nothing can be written at the moment."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        """Write all bytes, or count their lines as lost. Return the number of bytes, as if all were written."""
        whole = bytes(data)
        try:
            if self._lost:
                lines = "1 line" if self._lost == 1 else f"{self._lost:,} lines"
                self._put(self._tell(f"{lines} of the log could not be written before this one ({self._why})").encode())
                self._lost = 0
            self._put(whole)
        except OSError as error:
            self._lost += max(whole.count(b"\n"), 1)
            self._why = error.strerror or str(error)
        return len(whole)

    def _put(self, whole: bytes) -> None:
        view = memoryview(whole)
        while view:
            view = view[os.write(self._descriptor, view) :]


def make_stderr_last(tell: Callable[[str], str]) -> None:
    """Replace stderr with a stream that never fails, for messages, logs, libraries and tracebacks alike."""
    stream = sys.stderr
    if isinstance(stream, TextIOWrapper):
        writer = LastingWriter(stream.fileno(), tell)
        sys.stderr = TextIOWrapper(
            BufferedWriter(writer), encoding=stream.encoding, errors=stream.errors, line_buffering=True
        )
