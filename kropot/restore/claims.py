"""Read what a form claims about its file: name, time, permissions and digest. Pure; it trusts none of the claims."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kropot.errors import KropotError
from kropot.restore.names import split_path
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    from kropot.sc2.form import Form

_NS = 1_000_000_000
_MAX_NS = 253_402_300_799 * _NS
_DIGEST = 32
_DECIMAL = re.compile(r"-?[0-9]{1,21}")


class BadFormError(KropotError):
    """The form is not a JSON object, or its file name is not text."""


class Claim(Struct, frozen=True, kw_only=True):
    """What a form says about its file.

    `path` holds the folders and the file name, each as bytes. `name` is the whole path or name as claimed, in bytes.
    `mtime_ns` (nanoseconds since 1970), `mode`, `sha256` (32 bytes) and `size` (bytes) are None if the form has no
    valid value for them. `rest` holds all other fields of the form. `sealed` is the form of sc2 itself.
    """

    path: tuple[bytes, ...]
    name: bytes
    mtime_ns: int | None
    mode: int | None
    sha256: bytes | None
    size: int | None
    rest: dict[str, Any]
    sealed: Form | None = None

    @property
    def kind(self) -> Kind:
        """What the element is. Only forms of sc2 have kinds other than files."""
        return Kind.FILE if self.sealed is None else self.sealed.kind

    @property
    def what(self) -> str:
        """The name, as text for messages."""
        return self.name.decode(errors="backslashreplace")


def sealed_text(form: bytes) -> str | None:
    """Return the envelope of an encrypted form, or None if the form is plain. Raises: BadFormError."""
    fields = parse_form(form)
    sealed = fields.get("encrypted")
    return sealed if isinstance(sealed, str) and len(fields) == 1 else None


def parse_form(form: bytes) -> dict[str, Any]:
    """Return the form's fields. Raises: BadFormError."""
    try:
        fields = json.loads(form)
    except (ValueError, RecursionError):
        raise BadFormError("the form is not valid JSON") from None
    if not isinstance(fields, dict):
        raise BadFormError("the form is not a JSON object")
    return fields


def read_claim(form: bytes, *, element_id: str) -> Claim:
    """Return what an opened form claims.

    `path` gives the folders and the name; `fileName` gives only the name. Some plain tokens have forms with neither.
    Such a form claims the element's id as its name.

    Raises:
        BadFormError: the form is not a JSON object, or its file name is not text.

    """
    fields = parse_form(form)
    name = _path(fields)
    if name is not None:
        path = split_path(name)
    else:
        file_name = fields.get("fileName", element_id)
        if not isinstance(file_name, str):
            raise BadFormError("the form's fileName is not text")
        # A lone surrogate is not a character. We keep its three bytes, so the name is not valid UTF-8.
        name = file_name.encode(errors="surrogatepass")
        path = (name,)
    used = {"path", "fileName", "mtime_ns", "mode", "sha256", "size"}
    return Claim(
        path=path,
        name=name,
        mtime_ns=_whole(_number(fields.get("mtime_ns")), -_MAX_NS, _MAX_NS),
        mode=_whole(fields.get("mode"), 0, 0o177777),
        sha256=_sha256(fields.get("sha256")),
        size=_whole(fields.get("size"), 0, 1 << 63),
        rest={key: value for key, value in fields.items() if key not in used},
    )


def claim_of(form: Form) -> Claim:
    """Return what an opened form of sc2 claims."""
    return Claim(
        path=split_path(form.path),
        name=form.path,
        mtime_ns=form.mtime_ns,
        mode=form.mode,
        sha256=form.sha256,
        size=form.size,
        rest={},
        sealed=form,
    )


def _path(fields: dict[str, Any]) -> bytes | None:
    """Return the bytes of `path`, or None if the form has no usable path."""
    encoded = fields.get("path")
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def _number(value: object) -> object:
    """Return the number in a decimal text, and any other value as is, because older forms have a number."""
    return int(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value


def _whole(value: object, least: int, most: int) -> int | None:
    return value if type(value) is int and least <= value <= most else None


def _sha256(value: object) -> bytes | None:
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return None
    return digest if len(digest) == _DIGEST else None
