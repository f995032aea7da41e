"""What the tests of sc2 share: a vault, forms, sealed objects, and what opening gives out before it refuses."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

from kropot.sc2.form import Form, Kind
from kropot.sc2.opening import open_object
from kropot.sc2.refused import RefusedError
from kropot.sc2.seal import Sealing
from kropot.sc2.vault import Vault, keyring

if TYPE_CHECKING:
    from kropot.sc2.opening import OpenedObject

SOURCE = b"s" * 16


def drawn(name: str, size: int = 32) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def made_vault(name: str = "v", masters: int = 2) -> Vault:
    return Vault(
        id=drawn(name, 16),
        id_key=drawn(name + "id"),
        etag_key=drawn(name + "etag"),
        masters=tuple(drawn(f"{name}{number}") for number in range(masters)),
    )


VAULT = made_vault()
RING = keyring([VAULT])


def form_of(plain: bytes, path: bytes = b"a/b", **other: Any) -> Form:
    return Form(path=path, kind=Kind.FILE, sealed_us=7, size=len(plain), mode=0o644, mtime_ns=-1, **other)


def version_of(name: str) -> bytes:
    return VAULT.version(name.encode())


def sealing(form: Form, version: str = "1", **other: Any) -> Sealing:
    return Sealing(VAULT, form, source=SOURCE, version=version_of(version), **other)


def sealed(plain: bytes, path: bytes = b"a/b", version: str = "1", **other: Any) -> bytes:
    return sealing(form_of(plain, path, **other), version).whole(plain)


def opened(data: bytes) -> OpenedObject:
    return open_object(io.BytesIO(data), RING)


def given_out(data: bytes) -> tuple[bytes, RefusedError | None]:
    """Return what opening gave out, and the error that ended it."""
    out = bytearray()
    try:
        for chunk in opened(data).chunks:
            out += chunk
    except RefusedError as error:
        return bytes(out), error
    return bytes(out), None


def refused(data: bytes, plain: bytes) -> RefusedError:
    """Return the error with which altered data is refused; what was given out before is a part of the true content."""
    out, error = given_out(data)
    assert error is not None, "altered data was opened"
    assert out == plain[: len(out)]
    assert len(out) < max(1, len(plain)), "everything was given out before it was refused"
    return error
