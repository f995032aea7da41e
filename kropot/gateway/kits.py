"""Key kits: where the keys that the gateway makes are written to, each in a new file that only its owner can read."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kropot.durable.newfile import write_new
from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


def keep_kit(kit: Mapping[str, Any], folder: Path) -> Path:
    """Write a kit into a folder, under a name that is still free, and return its path."""
    for number in count(1):
        path = folder / (f"kit-{kit['id'][:8]}.json" if number == 1 else f"kit-{kit['id'][:8]}-{number}.json")
        try:
            return write_kit(kit, path)
        except FileExistsError:
            continue
    raise AssertionError("counting never ends")


def write_kit(kit: Mapping[str, Any], path: Path) -> Path:
    """Write a kit to a new durable file of mode 0600, and return its path.

    Raises:
        FileExistsError: there is a file of this name.
    """
    write_new(path, json.dumps(kit, indent=2).encode() + b"\n")
    return path


def refuse_inside(root: Path, *secrets: Path | None) -> None:
    """Refuse to keep secrets in the folder that is served, where every token could fetch them.

    Raises:
        UsageError: one of them lies there.
    """
    for path in secrets:
        if path is not None and Path(os.path.realpath(path)).is_relative_to(root):
            raise UsageError(f"{path} lies in the folder that is served, {root}: keep it elsewhere")
