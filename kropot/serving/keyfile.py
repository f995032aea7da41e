"""The file of a server's key: 32 random bytes in base64, which only its owner can read."""

from __future__ import annotations

import binascii
import os
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from kropot.durable.dirfd import open_named
from kropot.durable.newfile import settle, write_new
from kropot.errors import UsageError
from kropot.user_folders import is_credential

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY_BYTES = 32

_LONGEST_FILE = 4096


def read_key(path: Path, what: str = "master key") -> bytes:
    """Return the key (32 bytes) from a file that holds it in base64, on one line. `what` names the key.

    Raises:
        UsageError: the file does not hold such a key, or other users can read it.
        OSError: the file cannot be read.
    """
    with open_named(path) as file:
        if os.fstat(file.fileno()).st_mode & 0o077 and not is_credential(path):
            raise UsageError(f"other users can read the {what} {path}: run `chmod 600` on it")
        text = file.read(_LONGEST_FILE)
    settle(path)
    return parse_key(text, f"the file {path}", what)


def parse_key(text: bytes, origin: str, what: str = "master key") -> bytes:
    """Return the key (32 bytes) from base64 text.

    Raises:
        UsageError: the text is not such a key. The message names `origin`, where the text comes from.
    """
    try:
        key = b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(f"{origin} does not hold a {what}: put {KEY_BYTES} random bytes in base64 there")
    return key


def write_new_key(path: Path, *, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """Create a key (32 bytes), write it to a new file that only its owner can read, and return it.

    The key MUST be durable before anything is sealed with it.

    Raises:
        FileExistsError: a file with this name already exists.
    """
    key = entropy(KEY_BYTES)
    write_new(path, b64encode(key) + b"\n")
    return key
