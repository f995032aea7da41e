"""How contents and forms are sealed: key derivation, AES-256-CBC in streams, the form envelope, the id of an element.

Byte for byte what File Repository v3 does (docs/protocol.md, Cryptography): the key is 16 bytes long and padded with
zeros to the cipher's 32, and its salt is the IV's hexadecimal text. There is no MAC: a bad seal is noticed by its
padding, which unlucky damage can leave intact; the ledger's SHA-256 is what proves the stored bytes.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode, b64encode
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from kropot.errors import UsageError, WrongKeyError
from kropot.securecopy.iv import BLOCK, parse_iv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KEY_BYTES = 16
METHOD = "aes-256-cbc"
DIGESTS = ("sha512", "sha256")
MAX_ROUNDS = 100_000
SEPARATOR = b"@RiotKit_FR@"

_ZEROS = bytes(16)
_TRIMMED = " \t\n\r\0\x0b"


class BadSealError(WrongKeyError):
    """The data is not sealed with this key, or is damaged; without a MAC the two look the same."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What opens the contents and forms of one token: the passphrase and how a key is derived from it.

    Raises UsageError for a method, digest or number of rounds that the protocol does not have.
    """

    passphrase: str = field(repr=False)
    _: KW_ONLY
    method: str = METHOD
    digest: str = "sha512"
    rounds: int = 6000

    def __post_init__(self) -> None:
        """Refuse what the server would refuse."""
        if self.method != METHOD:
            raise UsageError(f"the encryption method {self.method!r} is not known: use {METHOD}")
        if self.digest not in DIGESTS:
            raise UsageError(f"the digest {self.digest!r} is not known: use one of {', '.join(DIGESTS)}")
        if not 1 <= self.rounds <= MAX_ROUNDS:
            raise UsageError(f"{self.rounds} digest rounds are not possible: use 1 to {MAX_ROUNDS}")

    def key(self, iv: bytes) -> bytes:
        """Return the 16-byte key that goes with this IV (16 bytes)."""
        return derive_key(self.passphrase, iv, self.digest, self.rounds)


def trimmed(secret: str) -> str:
    """Return a passphrase or salt as a server stores it: without the white space that PHP's trim() removes."""
    return secret.strip(_TRIMMED)


def derive_key(passphrase: str, iv: bytes, digest: str, rounds: int) -> bytes:
    """Return the 16-byte key: PBKDF2-HMAC over the passphrase in UTF-8, salted with the IV's hexadecimal text."""
    return hashlib.pbkdf2_hmac(digest, passphrase.encode(), iv.hex().encode(), rounds, KEY_BYTES)


def element_id(stored_salt: str, file_name: bytes, digest: str) -> str:
    """Return the id that a token gives to a file; `stored_salt` is the salt as the token stores it, sealed.

    The server hashes the name in UTF-8. The gateway takes the raw bytes of a name that is not UTF-8.
    """
    return hashlib.new(digest, stored_salt.encode() + b"_file+++" + file_name).hexdigest()


def sealed_size(size: int) -> int:
    """Return the length of the ciphertext of `size` plain bytes: PKCS#7 always adds 1 to 16 bytes."""
    return (size // BLOCK + 1) * BLOCK


class Sealer:
    """Encrypts one stream; `update_into` writes into the caller's buffer, at twice the speed of `update`.

    `iv` may also be any 16-byte block of an earlier ciphertext of the same key: the stream then continues after it.
    """

    def __init__(self, key16: bytes, iv: bytes) -> None:
        """Start a stream; the same key and IV MUST never seal two contents."""
        self._cipher = Cipher(AES(key16 + _ZEROS), CBC(iv)).encryptor()
        self._taken = 0

    @staticmethod
    def room(size: int) -> int:
        """Return how long `out` must be for a chunk of `size` bytes."""
        return size + BLOCK - 1

    def update_into(self, chunk: bytes | bytearray | memoryview, out: bytearray | memoryview) -> int:
        """Encrypt `chunk` into `out` (at least `room(len(chunk))` long); return the bytes written there."""
        self._taken += len(chunk)
        return self._cipher.update_into(chunk, out)

    def finish(self) -> bytes:
        """Return the last block (16 bytes), which holds the padding."""
        pad = BLOCK - self._taken % BLOCK
        return self._cipher.update(bytes([pad]) * pad) + self._cipher.finalize()


class Opener:
    """Decrypts one stream and removes its padding; the last block is held back until `finish` has checked it."""

    def __init__(self, key16: bytes, iv: bytes) -> None:
        """Start a stream."""
        self._cipher = Cipher(AES(key16 + _ZEROS), CBC(iv)).decryptor()
        self._taken = 0
        self._held = b""

    @staticmethod
    def room(size: int) -> int:
        """Return how long `out` must be for a chunk of `size` bytes."""
        return size + 2 * BLOCK - 1

    def update_into(self, chunk: bytes | bytearray | memoryview, out: bytearray | memoryview) -> int:
        """Decrypt `chunk` into `out` (at least `room(len(chunk))` long); return the plain bytes written there."""
        view = memoryview(out)
        held = len(self._held)
        view[:held] = self._held
        self._taken += len(chunk)
        total = held + self._cipher.update_into(chunk, view[held:])
        ready = max(0, total - BLOCK)
        self._held = bytes(view[ready:total])
        return ready

    def finish(self) -> bytes:
        """Return the last plain bytes (0 to 15).

        Raises:
            BadSealError: the ciphertext is empty, no whole number of blocks, or its padding is not PKCS#7.
        """
        if self._taken == 0 or self._taken % BLOCK:
            raise BadSealError(f"a ciphertext of {self._taken} bytes is not a whole number of {BLOCK}-byte blocks")
        pad = self._held[-1]
        if not 1 <= pad <= BLOCK or self._held[-pad:] != bytes([pad]) * pad:
            raise BadSealError(
                "the padding is wrong: this is another key than the one that sealed it, or the data is damaged"
            )
        self._cipher.finalize()
        return self._held[:-pad]


def seal_stream(chunks: Iterable[bytes], key16: bytes, iv: bytes) -> Iterator[bytes]:
    """Yield the ciphertext of `chunks`, whose sizes do not matter, in constant memory."""
    sealer, out = Sealer(key16, iv), bytearray()
    for chunk in chunks:
        out = _grown(out, sealer.room(len(chunk)))
        if size := sealer.update_into(chunk, out):
            yield bytes(memoryview(out)[:size])
    yield sealer.finish()


def open_stream(chunks: Iterable[bytes], key16: bytes, iv: bytes) -> Iterator[bytes]:
    """Yield the plain bytes of a ciphertext in constant memory; what was yielded is worthless if it then raises.

    Raises:
        BadSealError: the key or the ciphertext is wrong.
    """
    opener, out = Opener(key16, iv), bytearray()
    for chunk in chunks:
        out = _grown(out, opener.room(len(chunk)))
        if size := opener.update_into(chunk, out):
            yield bytes(memoryview(out)[:size])
    if last := opener.finish():
        yield last


def seal_form(json_bytes: bytes, kit: Kit, iv: bytes) -> str:
    """Return the text of the field `encrypted` in a form: base64(IV in hex, separator, ciphertext)."""
    sealed = b"".join(seal_stream([json_bytes], kit.key(iv), iv))
    return b64encode(iv.hex().encode() + SEPARATOR + sealed).decode()


def open_form(text: str, kit: Kit) -> bytes:
    """Return the JSON bytes that `seal_form` sealed.

    Raises:
        BadSealError: the text is not such an envelope, or another key sealed it.
    """
    iv, sealed = split_envelope(text)
    return b"".join(open_stream([sealed], kit.key(iv), iv))


def split_envelope(text: str) -> tuple[bytes, bytes]:
    """Return the IV (16 bytes) and the ciphertext of an envelope; it is split at the first separator.

    Raises:
        BadSealError: the text is not an envelope.
    """
    try:
        raw = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadSealError("the sealed form is not base64 text") from None
    iv_hex, separator, sealed = raw.partition(SEPARATOR)
    iv = parse_iv(iv_hex.decode("latin-1"))
    if not separator or iv is None:
        raise BadSealError("the sealed form has no IV before its ciphertext")
    return iv, sealed


def _grown(buffer: bytearray, size: int) -> bytearray:
    """Return a buffer of at least `size` bytes: the same one as long as it is big enough."""
    return buffer if len(buffer) >= size else bytearray(size)
