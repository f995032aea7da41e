"""Marks: files that say that the other contents of their folder need no backup, such as CACHEDIR.TAG in a cache."""

from __future__ import annotations

import os
from typing import Final

from msgspec import Struct

from kropot.errors import UsageError

_SHOWN: Final = 200
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class FolderMark(Struct, frozen=True, kw_only=True):
    """A file that excludes all other contents of its folder, if it is there and begins with `header`."""

    name: str
    header: bytes

    def lies_in(self, folder: int) -> bool:
        """Whether this mark is in an open folder. With a header, it must be a file, not a symlink to one."""
        try:
            if not self.header:
                os.stat(self.name, dir_fd=folder, follow_symlinks=False)
                return True
            descriptor = os.open(self.name, _FILE, dir_fd=folder)
        except OSError:
            return False
        try:
            return os.read(descriptor, len(self.header)) == self.header
        except OSError:
            return False
        finally:
            os.close(descriptor)


CACHE: Final = FolderMark(name="CACHEDIR.TAG", header=b"Signature: 8a477f597d28d172789f06886806bc55")
"""The tag of a cache folder, as bford.info/cachedir defines it."""


def mark_from(text: str) -> FolderMark:
    """Return the mark that `FILE[:HEADER]` names.

    Raises:
        UsageError: FILE is not a plain name.
    """
    name, _, header = text.partition(":")
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise UsageError(
            f"--exclude-if-present does not understand {text[:_SHOWN]!r}: give a file name without its folder, such as "
            ".nobackup; if the file must begin with a text, add a colon and that text"
        )
    return FolderMark(name=name, header=os.fsencode(header))
