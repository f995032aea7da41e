"""The bytes of a pack: what is written, and that a reader refuses everything else (docs/format.md, "Packs")."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.durable.filesystem import OsFiles
from kropot.objects.packs.format import (
    ENTRY,
    FOOTER,
    MOST_BYTES,
    MOST_OBJECTS,
    PackDamagedError,
    PackEntry,
    footer_of,
    index_of,
    lay_out,
    name_of,
    parse_footer,
    parse_index,
)
from kropot.objects.packs.reader import PackFile
from kropot.objects.packs.writer import grouped

if TYPE_CHECKING:
    from pathlib import Path


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def pack_of(*contents: bytes) -> tuple[bytes, bytes]:
    """Return a pack's name and bytes."""
    index = index_of(lay_out([(sha(content), len(content)) for content in contents]))
    return name_of(index), b"".join([*contents, index, footer_of(index)])


def forged(entries: list[tuple[bytes, int, int]], data: bytes) -> tuple[bytes, bytes]:
    """Return the name and bytes of a pack whose index says whatever it is told to."""
    index = b"".join(ENTRY.pack(*entry) for entry in entries)
    return name_of(index), data + index + footer_of(index)


def opened(folder: Path, name: bytes, data: bytes) -> PackFile:
    path = folder / name.hex()
    path.write_bytes(data)
    return PackFile(str(path), name, OsFiles())


def test_bytes_of_a_pack_are_these() -> None:
    """The same in the plain words of docs/format.md."""
    one, other = b"first object", b""
    entries = sorted([sha(one) + struct.pack(">QQ", 0, 12), sha(other) + struct.pack(">QQ", 12, 0)])
    index = b"".join(entries)
    digest = hashlib.sha256(index).digest()
    assert pack_of(one, other) == (digest, one + index + b"KROPACK1" + struct.pack(">Q", 96) + digest)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=300, unique=True))
def test_every_object_is_found_where_it_was_put(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    pack = opened(tmp_path_factory.mktemp("pack"), *pack_of(*contents))
    assert [
        pack.read(entry.offset, entry.length) for entry in lay_out([(sha(c), len(c)) for c in contents])
    ] == contents
    for content in contents:
        entry = pack.find(sha(content))
        assert entry is not None
        assert pack.is_sound(entry)
    assert pack.find(sha(b"none of them" * 9)) is None
    assert pack.entries() == pack.between(b"", None) == sorted(pack.entries())
    middle = pack.entries()[len(contents) // 2].sha256
    assert [*pack.between(b"", middle), *pack.between(middle, None)] == pack.entries()


@pytest.mark.parametrize(
    ("entries", "data", "what"),
    [
        ([(sha(b"a"), 0, 1), (sha(b"b"), 1, 1)], b"ab", "not sorted"),
        ([(sha(b"a"), 0, 1), (sha(b"a"), 1, 1)], b"aa", "not sorted"),
        ([(sha(b"b"), 1, 2), (sha(b"a"), 0, 2)], b"abc", "do not follow"),
        ([(sha(b"b"), 2, 1), (sha(b"a"), 0, 1)], b"abc", "do not follow"),
        ([(sha(b"b"), 1, 1), (sha(b"a"), 0, 1)], b"ab hidden", "end at byte 2"),
        ([(sha(b"a"), 0, 1 << 63)], b"a", "end at byte"),
        ([(sha(b"a"), 1 << 63, 1)], b"a", "do not follow"),
        ([(sha(b"a"), 1, 1)], b"ab", "do not follow"),
    ],
)
def test_index_that_lies_is_refused(
    tmp_path: Path, entries: list[tuple[bytes, int, int]], data: bytes, what: str
) -> None:
    pack = opened(tmp_path, *forged(entries, data))
    assert pack.fault is None
    with pytest.raises(PackDamagedError, match=what):
        pack.entries()


def test_range_outside_of_the_objects_is_never_read(tmp_path: Path) -> None:
    pack = opened(tmp_path, *forged([(sha(b"a"), 0, 1 << 40)], b"a"))
    with pytest.raises(PackDamagedError, match="outside"):
        pack.find(sha(b"a"))


def test_every_cut_of_a_pack_is_refused_and_its_objects_can_still_be_read_by_range(tmp_path: Path) -> None:
    name, data = pack_of(b"some", b"objects", b"more")
    for cut in range(len(data)):
        pack = opened(tmp_path, name, data[:cut])
        assert pack.fault is not None
        with pytest.raises(PackDamagedError):
            pack.entries()
        assert pack.read(4, 7) == data[4:11][: max(cut - 4, 0)]


def test_every_changed_bit_behind_the_objects_is_noticed(tmp_path: Path) -> None:
    name, data = pack_of(b"some", b"objects")
    for at in range(11, len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        pack = opened(tmp_path, name, bytes(changed))
        with pytest.raises(PackDamagedError):
            pack.entries()


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (48 * (MOST_OBJECTS + 1), 48 * (MOST_OBJECTS + 2)),
        (1 << 63, 1 << 20),
        (0, 48),
        (47, 200),
        (96, 100),
        (48, MOST_BYTES + 97),
    ],
)
def test_footer_that_claims_too_much_is_refused_before_anything_is_read(length: int, size: int) -> None:
    with pytest.raises(PackDamagedError, match="claims"):
        parse_footer(FOOTER.pack(b"KROPACK1", length, bytes(32)), size, bytes(32))


def test_footer_of_another_pack_or_kind_is_refused() -> None:
    with pytest.raises(PackDamagedError, match="another pack"):
        parse_footer(FOOTER.pack(b"KROPACK1", 48, bytes(32)), 96, b"\x01" * 32)
    with pytest.raises(PackDamagedError, match="does not end"):
        parse_footer(FOOTER.pack(b"KROPACK2", 48, bytes(32)), 96, bytes(32))
    name, data = pack_of(b"a")
    footer = parse_footer(data[-48:], len(data), name)
    with pytest.raises(PackDamagedError, match="another SHA-256"):
        parse_index(data[1:48] + b"\0", footer, name)


def test_no_pack_is_empty_or_too_large_or_has_an_object_twice() -> None:
    entry = PackEntry(bytes(32), 0, 1)
    for entries in ([], [entry, entry], [PackEntry(bytes(32), 0, MOST_BYTES + 1)]):
        with pytest.raises(ValueError, match="do not make a pack"):
            index_of(entries)


@given(st.lists(st.sampled_from([0, 1, 1 << 20, 9 << 20, 40 << 20, 64 << 20]), max_size=30))
def test_groups_keep_the_order_and_fit_into_packs(sizes: list[int]) -> None:
    objects = [(bytes([at]) * 32, range(size)) for at, size in enumerate(sizes)]
    groups = list(grouped(objects))  # type: ignore[arg-type]  # only lengths are looked at
    assert [one for group in groups for one in group] == objects
    assert all(group and sum(len(data) for _, data in group) <= MOST_BYTES for group in groups)
