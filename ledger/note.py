"""Signed notes with Ed25519 in the format of C2SP's `signed-note`: the texts of keys, signing and opening.

See https://c2sp.org/signed-note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from ledger.errors import BadCheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_NOTE_BYTES = 1 << 20
SEED_BYTES = 32

_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_PRIVATE = "PRIVATE+KEY+"
_DASH = "\u2014 "
_MAX_SIGNATURES = 100


class VerifierKey(Struct, frozen=True, kw_only=True):
    """A public key and the name that it signs with. Its text is `name+keyid+base64`."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name, newline, 0x01, public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_KEY_ID_BYTES]

    @property
    def text(self) -> str:
        """The key as one line, which people keep and exchange."""
        return f"{self.name}+{self.key_id.hex()}+{_encode(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Parse `text`. Surrounding white space is ignored.

        Raises:
            BadCheckpointError: of kind "key", if the text is not an Ed25519 verifier key.
        """
        name, public = _parse_key(text.strip(), "verifier key")
        key = cls(name=name, public=public)
        if key.text != text.strip():
            raise BadCheckpointError(
                "the id in the verifier key does not match the key: check it for typing errors", kind="key"
            )
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key and the name that it signs with. Its text is `PRIVATE+KEY+name+keyid+base64`."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str, entropy: Callable[[int], bytes]) -> SigningKey:
        """Create a key from 32 random bytes.

        Raises:
            BadCheckpointError: of kind "key", if the name is empty or holds white space or a plus sign.
        """
        if not is_name(name):
            raise BadCheckpointError(
                f"{name!r} is not a key name: use at least one character, no spaces and no plus signs", kind="key"
            )
        return cls(name=name, seed=entropy(SEED_BYTES))

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        public = Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()
        return VerifierKey(name=self.name, public=public)

    @property
    def text(self) -> str:
        """The secret as one line. It MUST be written only to the key's own file."""
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{_encode(_ED25519 + self.seed)}"

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Parse `text`. Surrounding white space is ignored.

        Raises:
            BadCheckpointError: of kind "key", if the text is not a signing key. The message never holds the text.
        """
        stripped = text.strip()
        if not stripped.startswith(_PRIVATE):
            raise BadCheckpointError("this is not a signing key: it does not begin with PRIVATE+KEY+", kind="key")
        name, seed = _parse_key(stripped.removeprefix(_PRIVATE), "signing key")
        key = cls(name=name, seed=seed)
        if key.text != stripped:
            raise BadCheckpointError(
                "the id in the signing key does not match the key, so its file is damaged: restore it from a backup",
                kind="key",
            )
        return key


def is_name(name: str) -> bool:
    """Whether a key can have this name: not empty, no Unicode white space, no plus sign, only valid UTF-8."""
    return bool(name) and "+" not in name and not any(char.isspace() or _is_surrogate(char) for char in name)


def sign_note(text: str, key: SigningKey) -> bytes:
    """Return the note: the text, a blank line, and the signature of the text. The text must end with a newline.

    Raises:
        BadCheckpointError: if a note cannot hold this text.
    """
    if not _is_text(text):
        raise BadCheckpointError("a note's text must end with a newline and must not hold control characters")
    signature = Ed25519PrivateKey.from_private_bytes(key.seed).sign(text.encode())
    return f"{text}\n{_DASH}{key.name} {_encode(key.verifier.key_id + signature)}\n".encode()


def open_note(note: bytes, key: VerifierKey) -> str:
    """Return the text of a note that `key` signed. Signatures of other keys are ignored.

    Raises:
        BadCheckpointError: of kind "malformed" if this is not a note, "key" if this key did not sign it, and
            "signature" if the key's signature is not valid.
    """
    text, signatures = _split(note)
    key_id = key.key_id
    for name, held in signatures:
        if name == key.name and held[:_KEY_ID_BYTES] == key_id:
            try:
                Ed25519PublicKey.from_public_bytes(key.public).verify(held[_KEY_ID_BYTES:], text.encode())
            except (InvalidSignature, ValueError):
                raise BadCheckpointError(
                    f"the signature of {key.name} does not match this text", kind="signature"
                ) from None
            return text
    signers = ", ".join(sorted({name for name, _ in signatures}))
    raise BadCheckpointError(f"it was signed by {signers}, not with the key {key.name}+{key_id.hex()}", kind="key")


def unverified_text(note: bytes) -> str:
    """Return the text of a note without checking its signature. It proves nothing.

    Raises:
        BadCheckpointError: of kind "malformed" if this is not a note.
    """
    return _split(note)[0]


# --- helpers ---------------------------------------------------------------------------------------------------------


def _split(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    if len(note) > MAX_NOTE_BYTES:
        raise BadCheckpointError("this is not a signed note: it is larger than 1 MiB")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise BadCheckpointError("this is not a signed note: it is not valid UTF-8") from None
    head, blank, tail = whole.rpartition("\n\n")
    text = head + "\n"
    if not blank or not _is_text(text) or not tail.endswith("\n"):
        raise BadCheckpointError("this is not a signed note: it must have text, a blank line, then signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise BadCheckpointError(f"the note has more than {_MAX_SIGNATURES} signatures, which is not supported")
    return text, [_signature(line) for line in lines]


def _signature(line: str) -> tuple[str, bytes]:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    held = _decode(encoded)
    if not line.startswith(_DASH) or not space or not is_name(name) or held is None or len(held) <= _KEY_ID_BYTES:
        raise BadCheckpointError("this is not a signed note: a line after the blank one is not a signature")
    return name, held


def _is_text(text: str) -> bool:
    return text.endswith("\n") and not any(char < " " and char != "\n" for char in text)


def _is_surrogate(char: str) -> bool:
    """Whether this is half a character. A shell produces these from bytes that are not valid UTF-8."""
    return "\ud800" <= char <= "\udfff"


def _parse_key(text: str, what: str) -> tuple[str, bytes]:
    name, _, rest = text.partition("+")
    _, _, encoded = rest.partition("+")
    held = _decode(encoded)
    if not is_name(name) or held is None:
        raise BadCheckpointError(f"this is not a {what}: it must be name+keyid+base64 on one line", kind="key")
    if held[:1] != _ED25519 or len(held) != 1 + SEED_BYTES:
        raise BadCheckpointError(f"this {what} is not an Ed25519 key: use an Ed25519 key", kind="key")
    return name, held[1:]


def _encode(held: bytes) -> str:
    return base64.b64encode(held).decode()


def _decode(encoded: str) -> bytes | None:
    """Return the decoded bytes, or None if this is not canonical base64."""
    try:
        held = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return held if _encode(held) == encoded else None
