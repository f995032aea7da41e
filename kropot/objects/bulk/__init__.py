"""Read many objects and compare them with their names: something that a store can offer.

`protocol.py` says what a caller passes and receives. `any_store.py` reads from any object store with two threads
(`reading.py`). `folder.py` reads whole ranges of a folder (`folder_ranges.py`), in processes (`processes.py`).
"""
