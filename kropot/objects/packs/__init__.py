"""Packs: immutable files that hold many small objects back to back, with an index of them at the end.

`format.py` is the bytes, and pure (docs/format.md, "Packs"). `packing.py` says what of a batch goes into packs,
`writer.py` makes them, `reader.py` reads one. `folder.py` finds packs and what is in them by their indexes alone, and
`packed.py` reads objects by their placements first. `gather.py` and `reindex.py` are the work of `kropotcli storage`.
"""
