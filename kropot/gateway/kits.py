"""Writes kits: the keys that the gateway makes, each in a new file that only its owner can read.

The kit of a CBC token is the JSON of its request, with the key in it. A token of sc2 has the kit of its vault.
"""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kropot.durable.newfile import write_new
from kropot.errors import UsageError
from kropot.sc2.kit import OwnerKit

if TYPE_CHECKING:
    from collections.abc import Mapping


def keep_kit(kit: Mapping[str, Any] | OwnerKit, folder: Path) -> Path:
    """Write a kit into a folder under an unused name, and return its path."""
    name = kit["id"] if not isinstance(kit, OwnerKit) else "" if kit.vault is None else kit.vault.id.hex()
    for number in count(1):
        path = folder / (f"kit-{name[:8]}.json" if number == 1 else f"kit-{name[:8]}-{number}.json")
        try:
            return write_kit(kit, path)
        except FileExistsError:
            continue
    raise AssertionError("counting never ends")


def write_kit(kit: Mapping[str, Any] | OwnerKit, path: Path) -> Path:
    """Write a kit to a new, durable file with mode 0600, and return its path.

    Raises:
        FileExistsError: a file with this name exists already.
    """
    write_new(path, kit.encode() if isinstance(kit, OwnerKit) else json.dumps(kit, indent=2).encode() + b"\n")
    return path


def refuse_inside(root: Path, *secrets: Path | None) -> None:
    """Refuse to keep secrets in the served folder, where every token could fetch them.

    Raises:
        UsageError: one of the paths is inside the folder.
    """
    for path in secrets:
        if path is not None and Path(os.path.realpath(path)).is_relative_to(root):
            raise UsageError(f"{path} is inside the served folder {root}, where tokens can fetch it: keep it elsewhere")
