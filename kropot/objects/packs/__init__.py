"""Packs: immutable files that hold many small objects back to back, with an index of them at the end.

`format.py` defines the bytes, and is pure (docs/format.md, "Packs"). `packing.py` decides which objects of a batch go
into packs, `writer.py` makes packs, `reader.py` reads one. `folder.py` finds packs and their objects by indexes alone,
and `packed.py` reads objects by their placements first. `gather.py` and `reindex.py` serve `kropotcli storage`.
"""
