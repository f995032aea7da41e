"""Keys in files: the signing key is readable by its owner alone, the verifier key is one line for everyone."""

from __future__ import annotations

import os
from pathlib import Path

from kropot.errors import UsageError
from kropot.secret import guard
from ledger.errors import BadCheckpointError
from ledger.note import SigningKey, VerifierKey

_LONGEST = 4096


def write_signing_key(path: Path, key: SigningKey) -> Path:
    """Write a new signing key, 0600, and beside it the verifier key as `<path>.pub`; return the latter's path.

    Raises:
        UsageError: if either file exists, for a key is never replaced, or if they cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    for file, text, mode in ((path, key.text, 0o600), (public, key.verifier.text, 0o644)):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(f"{text}\n")
                stream.flush()
                os.fsync(stream.fileno())
        except FileExistsError:
            raise UsageError(f"{file} exists: a key is never replaced; name another file with --key") from None
        except OSError as error:
            raise UsageError(f"the key cannot be written to {file}: {error.strerror}") from error
    return public


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
        raise UsageError(f"{path} is no {what}") from None
