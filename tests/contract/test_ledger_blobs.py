"""What every store promises about blobs: snapshots are whole or absent, checkpoint notes are kept once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ledger.stores import LedgerStore


def test_snapshots_are_kept_whole_and_by_kind(store: LedgerStore) -> None:
    assert store.blobs.list_snapshots() == []
    chunks = [bytes([n]) * 70_000 for n in range(5)]
    store.blobs.save_snapshot("pointers", 7, iter(chunks))
    store.blobs.save_snapshot("pointers", 9, [b"x"])
    store.blobs.save_snapshot("other", 7, [])
    assert list(store.blobs.load_snapshot("pointers", 7)) == chunks
    assert list(store.blobs.load_snapshot("other", 7)) == []
    assert list(store.blobs.load_snapshot("pointers", 8)) == []
    assert store.blobs.list_snapshots() == [("other", 7), ("pointers", 7), ("pointers", 9)]
    store.blobs.save_snapshot("pointers", 7, [b"new"])
    assert list(store.blobs.load_snapshot("pointers", 7)) == [b"new"]
    store.blobs.drop_snapshots("pointers", position=9)
    assert store.blobs.list_snapshots() == [("other", 7), ("pointers", 7)]
    store.blobs.drop_snapshots("pointers")
    assert store.blobs.list_snapshots() == [("other", 7)]


def test_a_snapshot_that_was_cut_short_is_none(store: LedgerStore) -> None:
    def broken() -> object:
        yield b"one"
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        store.blobs.save_snapshot("pointers", 7, broken())  # type: ignore[arg-type]
    assert store.blobs.list_snapshots() == []
    assert list(store.blobs.load_snapshot("pointers", 7)) == []
    store.blobs.save_snapshot("pointers", 7, [b"whole"])
    assert list(store.blobs.load_snapshot("pointers", 7)) == [b"whole"]


def test_checkpoints_are_kept_once_and_given_by_size(store: LedgerStore) -> None:
    store.blobs.save_checkpoint(9, "nine\n— ledger A\n")
    store.blobs.save_checkpoint(4, "four\n")
    store.blobs.save_checkpoint(9, "nine\n— ledger B\n")
    store.blobs.save_checkpoint(9, "nine\n— ledger A\n")
    assert list(store.blobs.checkpoints()) == [(4, "four\n"), (9, "nine\n— ledger A\n"), (9, "nine\n— ledger B\n")]
