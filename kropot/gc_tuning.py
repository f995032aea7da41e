"""How often Python looks for reference cycles: long runs make objects by the million, and hardly any cycle."""

from __future__ import annotations

import gc
from typing import Final

LOOK_EVERY: Final = 200_000
"""How many new objects to examine together. Python's default of 700 cost a collector a tenth of its processor time."""


def look_for_cycles_rarely() -> None:
    """Never look at what is there by now again, which stays to the end, and at what comes only now and then."""
    gc.freeze()
    gc.set_threshold(LOOK_EVERY, 20, 20)
