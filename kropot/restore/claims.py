"""What a form claims about its file: the name, the time, the permissions, the digest; pure, and believed in nothing."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from kropot.errors import KropotError
from kropot.restore.names import split_path

_NS = 1_000_000_000
_MAX_NS = 253_402_300_799 * _NS
_DIGEST = 32


class BadFormError(KropotError):
    """The form is no JSON object, or names no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a form says. `path` has the folders and the name, in bytes; `name` is the whole as it was claimed.

    `mtime_ns` (nanoseconds since 1970), `mode`, `sha256` (32 bytes) and `size` are None where the form has none that
    could be true. `rest` is everything else that stands in the form.
    """

    path: tuple[bytes, ...]
    name: bytes
    mtime_ns: int | None
    mode: int | None
    sha256: bytes | None
    size: int | None
    rest: dict[str, Any]

    @property
    def what(self) -> str:
        """The name for messages."""
        return self.name.decode(errors="backslashreplace")


def sealed_text(form: bytes) -> str | None:
    """Return the envelope of an encrypted form, None for a plain one. Raises: BadFormError."""
    fields = parse_form(form)
    sealed = fields.get("encrypted")
    return sealed if isinstance(sealed, str) and len(fields) == 1 else None


def parse_form(form: bytes) -> dict[str, Any]:
    """Return the form's fields. Raises: BadFormError."""
    try:
        fields = json.loads(form)
    except (ValueError, RecursionError):
        raise BadFormError("the form is no JSON") from None
    if not isinstance(fields, dict):
        raise BadFormError("the form is no JSON object")
    return fields


def read_claim(form: bytes, *, element_id: str) -> Claim:
    """Return what an opened form claims; the folders come from `path`, the name alone from `fileName`.

    A form without either, as some plain tokens' are, claims the element's id.

    Raises:
        BadFormError: the form is not a JSON object, or its names are not text.

    """
    fields = parse_form(form)
    name = _path(fields)
    if name is not None:
        path = split_path(name)
    else:
        said = fields.get("fileName", element_id)
        if not isinstance(said, str):
            raise BadFormError("the form's fileName is not text")
        # A lone surrogate is not a character. Its three bytes are kept, and the name is then not UTF-8.
        name = said.encode(errors="surrogatepass")
        path = (name,)
    used = {"path", "fileName", "mtime_ns", "mode", "sha256", "size"}
    return Claim(
        path=path,
        name=name,
        mtime_ns=_whole(fields.get("mtime_ns"), -_MAX_NS, _MAX_NS),
        mode=_whole(fields.get("mode"), 0, 0o177777),
        sha256=_sha256(fields.get("sha256")),
        size=_whole(fields.get("size"), 0, 1 << 63),
        rest={key: value for key, value in fields.items() if key not in used},
    )


def _path(fields: dict[str, Any]) -> bytes | None:
    """Return the bytes of `path`, None where there is no such path."""
    encoded = fields.get("path")
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def _whole(value: object, least: int, most: int) -> int | None:
    return value if type(value) is int and least <= value <= most else None


def _sha256(value: object) -> bytes | None:
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return None
    return digest if len(digest) == _DIGEST else None
