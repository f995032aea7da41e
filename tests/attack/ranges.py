"""How much of a range of hostile values is tried: a seeded sample in `make test`, all of it in `make attack`."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SEED = 11
IS_ALL = os.environ.get("KROPOT_TEST_ATTACK") == "all"


def drawn(values: Iterable[str], *, always: Collection[str], more: int) -> list[str]:
    """Return the values that are tried: `always` those that once broke something, and `more` of the others."""
    names = list(values)
    unknown = set(always) - set(names)
    if unknown:
        raise LookupError(f"not among the values: {', '.join(sorted(unknown))}")
    others = [name for name in names if name not in always]
    tried = {*always, *(others if IS_ALL else random.Random(SEED).sample(others, more))}
    return [name for name in names if name in tried]
