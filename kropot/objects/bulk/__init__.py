"""Reading many objects and comparing them with their names: something that a store can offer.

`protocol.py` says what a caller gives and gets. `any_store.py` reads over any object store with two threads
(`reading.py`). `folder.py` is what a folder offers: whole ranges (`folder_ranges.py`), in processes (`processes.py`).
"""
