"""The tree against the published vectors of certificate-transparency, and against a deliberately naive second one."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import merkle
from ledger.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_path,
    inclusion_path,
    verify_consistency,
    verify_inclusion,
)

# The reference data of the certificate-transparency project: eight inputs, and the root after each.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


LEAVES = [leaf(data) for data in INPUTS]


# --- the naive second implementation: RFC 6962, section 2.1, word for word, with slices and recursion -----------------


def naive_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = naive_split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_proof(m: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_proof(m, leaves[:k], whole=whole), naive_root(leaves[k:])]
    return [*naive_proof(m - k, leaves[k:], whole=False), naive_root(leaves[:k])]


def made(count: int) -> list[bytes]:
    return [leaf(b"%d" % number) for number in range(count)]


# --- published vectors -----------------------------------------------------------------------------------------------


def test_the_empty_root_is_sha256_of_nothing() -> None:
    assert Frontier().root == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_of_the_reference_tree_are_the_published_ones(size: int) -> None:
    assert Frontier().extend(LEAVES[:size]).root.hex() == ROOTS[size - 1]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (
            0,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            [
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_inclusion_paths_of_the_reference_tree_are_the_published_ones(index: int, size: int, path: list[str]) -> None:
    found = inclusion_path(index, size, lambda a, b: LEAVES[a:b])
    assert [node.hex() for node in found] == path
    assert verify_inclusion(LEAVES[index], index, size, found, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (1, 1, []),
        (
            1,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            [
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_consistency_paths_of_the_reference_tree_are_the_published_ones(old: int, new: int, path: list[str]) -> None:
    found = consistency_path(old, new, lambda a, b: LEAVES[a:b])
    assert [node.hex() for node in found] == path
    assert verify_consistency(old, new, bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1]), found)


# --- against the naive one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(70), 127, 128, 129, 1000])
def test_a_frontier_has_the_naive_root_however_the_leaves_are_grouped(size: int) -> None:
    leaves = made(size)
    one_by_one = Frontier()
    for item in leaves:
        one_by_one = one_by_one.extend((item,))
    assert one_by_one.root == naive_root(leaves)
    assert one_by_one == Frontier().extend(leaves)
    assert Frontier.parse(size, one_by_one.stored) == one_by_one


@given(st.lists(st.integers(0, 40), max_size=8))
def test_extending_in_batches_equals_extending_at_once(sizes: list[int]) -> None:
    leaves = made(sum(sizes))
    cuts = [0]
    for size in sizes:
        cuts.append(cuts[-1] + size)
    frontier = Frontier()
    for start, stop in pairwise(cuts):
        frontier = frontier.extend(leaves[start:stop])
    assert frontier == Frontier().extend(leaves)


@given(st.integers(1, 90), st.data())
def test_paths_equal_the_naive_ones_and_are_believed(size: int, data: st.DataObject) -> None:
    leaves = made(size)
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(index, size, lambda a, b: leaves[a:b])
    assert list(path) == naive_path(index, leaves)
    assert verify_inclusion(leaves[index], index, size, path, naive_root(leaves))
    old = data.draw(st.integers(1, size))
    proof = consistency_path(old, size, lambda a, b: leaves[a:b])
    assert list(proof) == naive_proof(old, leaves)
    assert verify_consistency(old, size, naive_root(leaves[:old]), naive_root(leaves), proof)


@given(st.integers(2, 60), st.data())
def test_no_changed_proof_is_believed(size: int, data: st.DataObject) -> None:
    leaves = made(size)
    root = naive_root(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = list(inclusion_path(index, size, lambda a, b: leaves[a:b]))
    wrong = bytes(32)
    assert not verify_inclusion(wrong, index, size, path, root)
    assert not verify_inclusion(leaves[index], index, size, path, wrong)
    assert not verify_inclusion(leaves[index], index, size, path[:-1], root)
    assert not verify_inclusion(leaves[index], index, size, [*path, wrong], root)
    assert not verify_inclusion(leaves[index], size, size, path, root)
    assert not verify_inclusion(leaves[index], -1, size, path, root)
    at = data.draw(st.integers(0, len(path) - 1))
    assert not verify_inclusion(leaves[index], index, size, [*path[:at], wrong, *path[at + 1 :]], root)
    other = data.draw(st.integers(0, size - 1).filter(lambda number: number != index))
    assert not verify_inclusion(leaves[index], other, size, path, root)
    old = data.draw(st.integers(1, size - 1))
    proof = list(consistency_path(old, size, lambda a, b: leaves[a:b]))
    old_root = naive_root(leaves[:old])
    assert not verify_consistency(old, size, wrong, root, proof)
    assert not verify_consistency(old, size, old_root, wrong, proof)
    assert not verify_consistency(old, size, old_root, root, proof[:-1])
    assert not verify_consistency(old, size, old_root, root, [*proof, wrong])
    assert not verify_consistency(size, old, root, old_root, proof)


@pytest.mark.parametrize(("index", "size"), [(0, 5000), (4999, 5000), (3000, 5000), (2048, 4097), (1, 4096)])
def test_stored_frontiers_spare_the_reading_of_leaves(index: int, size: int) -> None:
    leaves = made(size)
    asked = 0

    def counted(start: int, stop: int) -> list[bytes]:
        nonlocal asked
        asked += stop - start
        return leaves[start:stop]

    short = inclusion_path(index, size, counted, lambda count: Frontier().extend(leaves[:count]))
    assert asked <= 4 * merkle._CHUNK
    assert short == inclusion_path(index, size, lambda a, b: leaves[a:b])
    old = index + 1
    assert consistency_path(old, size, counted, lambda count: Frontier().extend(leaves[:count])) == consistency_path(
        old, size, lambda a, b: leaves[a:b]
    )


def test_a_frontier_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="does not belong to 3 leaves"):
        Frontier.parse(3, bytes(32))
    with pytest.raises(ValueError, match="does not belong to -1 leaves"):
        Frontier.parse(-1, b"")


def test_what_is_not_in_the_tree_has_no_path() -> None:
    with pytest.raises(ValueError, match="has no leaf 8"):
        inclusion_path(8, 8, lambda a, b: LEAVES[a:b])
    with pytest.raises(ValueError, match="does not extend"):
        consistency_path(9, 8, lambda a, b: LEAVES[a:b])
    assert consistency_path(0, 8, lambda a, b: LEAVES[a:b]) == ()
    assert verify_consistency(0, 8, EMPTY_ROOT, bytes.fromhex(ROOTS[7]), ())
    assert not verify_consistency(0, 8, bytes(32), bytes.fromhex(ROOTS[7]), ())
