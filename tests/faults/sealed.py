"""The parsers of what sc2 seals, as the fuzzers call them, and examples that they take."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
from msgspec.structs import replace

from kropot.gateway.births import Births
from kropot.gateway.keys import MasterKey
from kropot.gateway.state import FileRow, open_state
from kropot.gateway.tokens import TokenBook
from kropot.gateway.vaults import HeldVault
from kropot.sc2.form import merged, parse_form, unpad_form
from kropot.sc2.opening import open_list_form, open_object
from kropot.sc2.refused import RefusedError
from kropot.sc2.seal import seal_list_form
from tests.kropot.sc2_world import RING, SOURCE, VAULT, form_of, sealed, version_of

if TYPE_CHECKING:
    from kropot.gateway.token import Token


def read_object(data: bytes) -> None:
    for _ in open_object(io.BytesIO(data), RING).chunks:
        pass


def objects() -> list[bytes]:
    return [sealed(b"bread"), sealed(b"roses", padding=True)]


def read_form(data: bytes) -> None:
    for parse in (parse_form, unpad_form):
        try:
            parse(data)
        except RefusedError:
            continue


def forms() -> list[bytes]:
    return [form_of(b"bread", uid=1, user=b"emma", xattrs=((b"user.a", b"b"),)).encode()]


def read_list_form(text: str) -> None:
    open_list_form(text, RING)


def list_forms() -> list[bytes]:
    return [seal_list_form(VAULT, form_of(b"bread"), source=SOURCE, version=version_of("1")).encode()]


def read_attributes(data: bytes) -> None:
    merged(form_of(b"bread", attributes=len(data), content=len(data) + 5), data)


def kits() -> list[bytes]:
    folder = Path(__file__).parent.parent / "vectors" / "sc2"
    return [(folder / name).read_bytes() for name in ("kit.json", "kit-locked.json")]


def attributes() -> list[bytes]:
    return [msgpack.packb({"holes": (), "xattrs": ()})]


ROW = FileRow(
    id=1,
    path=b"a/b",
    identity=bytes(48),
    mode=0o644,
    nonce=b"n" * 16,
    sha256=None,
    date=1,
    is_due=False,
)


@cache
def gateway() -> tuple[Births, Token]:
    """Return the births of a gateway whose database is empty, and a token of the vault of the tests."""
    state, master = open_state("sqlite://", create=True), MasterKey(bytes(32))
    book = TokenBook(state, master)
    made = book.create({"roles": ["a.b"], "expires": "never", "data": {"secureCopyEncryptionMethod": "sc2"}}).token
    token = replace(made, held=HeldVault(number=1, created_s=0, vault=VAULT))
    return Births(state, master, book.vaults, SOURCE, lambda: 0), token


@cache
def born() -> bytes:
    """Return what follows the nonce in the record that the gateway keeps of the tests' version."""
    made, token = gateway()
    birth = made.made(token, ROW)
    assert birth is not None
    return birth[0][len(ROW.nonce) :]


def read_birth(data: bytes) -> None:
    """Read a record that may be damaged anywhere: none is believed but the one that the gateway made."""
    made, token = gateway()
    made._recent.clear()
    assert (made._read(token, ROW, ROW.nonce + data) is not None) == (data == born())
    assert made._read(token, ROW, data) is None


def births() -> list[bytes]:
    return [born()]
