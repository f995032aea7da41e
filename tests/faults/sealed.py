"""The parsers of what sc2 seals, as the fuzzers call them, and examples that they take."""

from __future__ import annotations

import io
from pathlib import Path

import msgpack

from kropot.sc2.form import merged, parse_form, unpad_form
from kropot.sc2.opening import open_list_form, open_object
from kropot.sc2.refused import RefusedError
from kropot.sc2.seal import seal_list_form
from tests.kropot.sc2_world import RING, SOURCE, VAULT, form_of, sealed, version_of


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
