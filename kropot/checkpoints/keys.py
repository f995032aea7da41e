"""Keys in files: the signing key is readable by its owner alone, the verifier key is one line for everyone."""

from __future__ import annotations

import os
from pathlib import Path

from kropot.durable.newfile import settle, write_new
from kropot.errors import UsageError
from kropot.secret import guard
from ledger.errors import BadCheckpointError
from ledger.note import SigningKey, VerifierKey

_LONGEST = 4096


def write_signing_key(path: Path, key: SigningKey) -> tuple[Path, SigningKey]:
    """Write a new signing key, 0600, and beside it the verifier key as `<path>.pub`; return that file and the key.

    A signing key of the same name that has no such file beside it is one that was being made when this was cut short:
    it is finished, and returned.

    Raises:
        UsageError: if either file exists, for a key is never replaced, or if they cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    begun = None if os.path.lexists(public) else _begun(path)
    if begun is not None and begun.name == key.name:
        key = begun
        settle(path)
    files = ((path, key.text, 0o600), (public, key.verifier.text, 0o644))
    for file, text, mode in files[1:] if key is begun else files:
        try:
            write_new(file, f"{text}\n".encode(), mode=mode)
        except FileExistsError:
            raise UsageError(f"{file} exists: a key is never replaced; name another file with --key") from None
        except OSError as error:
            raise UsageError(f"the key cannot be written to {file}: {error.strerror}") from error
    return public, key


def _begun(path: Path) -> SigningKey | None:
    """Return the signing key that is there, None if there is none or something else."""
    try:
        return read_signing_key(path)
    except UsageError:
        return None


def read_signing_key(path: Path) -> SigningKey:
    """Read a signing key. Raises: UsageError if the file is missing or holds none; what it holds is never shown."""
    text = _read(path, "signing key", "`kropotcli checkpoint init` makes one")
    guard(text.strip())
    try:
        return SigningKey.parse(text)
    except BadCheckpointError as error:
        raise UsageError(f"{path}: {error.why}") from None


def read_verifier_key(given: str) -> VerifierKey:
    """Read a verifier key, given as its text or as the name of a file that holds it. Raises: UsageError."""
    text = given
    if not _is_key(given):
        text = _read(Path(given), "verifier key", "`kropotcli checkpoint init` printed it")
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
        with path.open("rb") as file:
            return file.read(_LONGEST).decode()
    except FileNotFoundError:
        raise UsageError(f"there is no {what} at {path}: {hint}") from None
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a {what}") from None
