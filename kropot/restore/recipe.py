"""Commands that open one copy with openssl only, so that the data outlives this program. Pure.

The commands never contain the secret. They use the shell variable KEY without the white space at its ends, and derive
the key from it when they run.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.securecopy.sealing import KEY_BYTES, SEPARATOR, split_envelope

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENVELOPE_HEAD = 32 + len(SEPARATOR)
_PADDING = "00" * KEY_BYTES

_TRIM = """K="${KEY#"${KEY%%[![:space:]]*}"}"; K="${K%"${K##*[![:space:]]}"}"; """
"""Sets K to KEY without white space at its ends: the server drops it when the token is made (docs/protocol.md, 5)."""


class ByteRange(Struct, frozen=True, kw_only=True):
    """How keys are derived from a passphrase: the digest and the number of rounds, both from the kit."""

    digest: str = "sha512"
    rounds: int = 6000


def content_recipe(*, iv: bytes, sealed: str, plain: str, stretch: ByteRange) -> str:
    """Return the command line for openssl 3 that opens the file `sealed` and writes the file `plain`."""
    key = _openssl_kdf(iv, stretch)
    return f"{_enc(key, iv)} -in {shlex.quote(sealed)} -out {shlex.quote(plain)}"


def content_recipe_python(*, iv: bytes, sealed: str, plain: str, stretch: ByteRange) -> str:
    """Return the same command for an openssl without `kdf`: Python derives the key. KEY must be exported."""
    key = _python_kdf(iv, stretch)
    return f"{_enc(key, iv)} -in {shlex.quote(sealed)} -out {shlex.quote(plain)}"


def form_recipe(envelope: str, stretch: ByteRange) -> str:
    """Return the command line that prints the opened form: the file's name, its time, and the other fields.

    Raises:
        BadSealError: the text is not an envelope.

    """
    iv, _ = split_envelope(envelope)
    key = _openssl_kdf(iv, stretch)
    return f"echo {shlex.quote(envelope)} | openssl base64 -d -A | tail -c +{_ENVELOPE_HEAD + 1} | {_enc(key, iv)}"


def digest_recipe(*, sealed: str, sha256: bytes) -> str:
    """Return the command line that compares the stored file with the recorded SHA-256."""
    return f"echo {shlex.quote(f'{sha256.hex()}  {sealed}')} | sha256sum -c"


def digest_step(*, sealed: str, sha256: bytes) -> tuple[str, str]:
    """Return the command of `digest_recipe` with its description."""
    return "check that the object is the recorded one", digest_recipe(sealed=sealed, sha256=sha256)


def cut_step(*, pack: str, offset: int, length: int, sealed: str) -> tuple[str, str]:
    """Return the command line that cuts an object out of the pack that has it, with its description."""
    line = f"tail -c +{offset + 1} {shlex.quote(pack)} | head -c {length} > {shlex.quote(sealed)}"
    return "cut the object out of its pack", line


def recipes(
    *, iv: bytes | None, sealed: str, sha256: bytes, envelope: str | None, stretch: ByteRange, plain: str = "plain.bin"
) -> Iterator[tuple[str, str]]:
    """Yield (description, command line) pairs for one copy: check it, open its content, open its form."""
    yield digest_step(sealed=sealed, sha256=sha256)
    if iv is None:
        yield "copy the content (it is not encrypted)", f"cp {shlex.quote(sealed)} {shlex.quote(plain)}"
    else:
        arguments = {"iv": iv, "sealed": sealed, "plain": plain, "stretch": stretch}
        yield "open the content (openssl 3)", content_recipe(**arguments)  # type: ignore[arg-type]  # named above
        yield "the same without `openssl kdf`", content_recipe_python(**arguments)  # type: ignore[arg-type]  # as above
    if envelope is not None:
        yield "open the form, which holds the name", form_recipe(envelope, stretch)


def _enc(key: str, iv: bytes) -> str:
    """Return the decryption command. The cipher needs a 32-byte key; the server pads its 16 bytes with zeros."""
    return f'openssl enc -d -aes-256-cbc -K "{key}{_PADDING}" -iv {iv.hex()}'


def _openssl_kdf(iv: bytes, stretch: ByteRange) -> str:
    """Return the shell expression for the key: PBKDF2, with the IV's hexadecimal text as salt."""
    return (
        f"$({_TRIM}openssl kdf -keylen {KEY_BYTES} -kdfopt digest:{stretch.digest.upper()} "
        f"""-kdfopt pass:"$K" -kdfopt salt:{iv.hex()} -kdfopt iter:{stretch.rounds} PBKDF2 | tr -d ':\\n')"""
    )


def _python_kdf(iv: bytes, stretch: ByteRange) -> str:
    return (
        f'$(python3 -c \'import hashlib, os; print(hashlib.pbkdf2_hmac("{stretch.digest}", '
        f'os.environb[b"KEY"].strip(), b"{iv.hex()}", {stretch.rounds}, {KEY_BYTES}).hex())\')'
    )
