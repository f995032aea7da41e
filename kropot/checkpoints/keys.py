"""Key files. Only its owner can read the signing key. Everyone can read the verifier key, which is one line."""

from __future__ import annotations

import os
from pathlib import Path

from kropot.durable.dirfd import open_named
from kropot.durable.newfile import settle, write_new
from kropot.errors import UsageError
from kropot.secret import guard
from ledger.errors import BadCheckpointError
from ledger.note import SigningKey, VerifierKey

_LONGEST = 4096


def write_signing_key(path: Path, key: SigningKey) -> tuple[Path, SigningKey]:
    """Write a new signing key (mode 0600) and its verifier key (`<path>.pub`). Return the second path and the key.

    A signing key of the same name without a `.pub` file comes from an interrupted run. This key is then kept and
    returned, and only the `.pub` file is written.

    Raises:
        UsageError: if a file exists, because a key is never replaced, or if a file cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    unfinished = None if os.path.lexists(public) else _unfinished(path)
    if unfinished is not None and unfinished.name == key.name:
        key = unfinished
        settle(path)
    files = ((path, key.text, 0o600), (public, key.verifier.text, 0o644))
    for file, text, mode in files[1:] if key is unfinished else files:
        try:
            write_new(file, f"{text}\n".encode(), mode=mode)
        except FileExistsError:
            raise UsageError(
                f"{file} already exists, and a key is never replaced: name another file with --key"
            ) from None
        except OSError as error:
            raise UsageError(
                f"cannot write the key to {file} ({error.strerror}): name another file with --key"
            ) from error
    return public, key


def _unfinished(path: Path) -> SigningKey | None:
    """Return the signing key in the file, None if the file is missing or holds something else."""
    try:
        return read_signing_key(path)
    except UsageError:
        return None


def read_signing_key(path: Path) -> SigningKey:
    """Read a signing key. Raises: UsageError if the file is missing or holds no key. It never shows the content."""
    text = _read(path, "signing key", "make one with `kropotcli checkpoint init`")
    guard(text.strip())
    try:
        return SigningKey.parse(text)
    except BadCheckpointError as error:
        raise UsageError(f"{path}: {error.why}") from None


def read_verifier_key(given: str) -> VerifierKey:
    """Read a verifier key from its text, or from the file with this name. Raises: UsageError."""
    text = given
    if not _is_key(given):
        text = _read(Path(given), "verifier key", "give the file or text that `kropotcli checkpoint init` printed")
    try:
        return VerifierKey.parse(text)
    except BadCheckpointError as error:
        where = "the public key" if text is given else given
        raise UsageError(f"{where}: {error.why}") from None


def _is_key(text: str) -> bool:
    name, _, rest = text.strip().partition("+")
    return bool(name) and len(rest.partition("+")[0]) == 8 and not Path(text).exists()  # noqa: PLR2004 -- a key id


def _read(path: Path, what: str, hint: str) -> str:
    try:
        with open_named(path) as file:
            return file.read(_LONGEST).decode()
    except FileNotFoundError:
        raise UsageError(f"there is no {what} at {path}: {hint}") from None
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path} ({error.strerror}): make it readable") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a {what}: {hint}") from None
