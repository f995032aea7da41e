"""What a kit has seen of each ledger: how many events, and their tree. It is kept in a small file beside the kit.

A keeper can put back an older copy of a ledger, or continue with another history. Both are as consistent as the true
one, so only somebody who remembers the true one can tell.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kropot.durable.dirfd import open_named
from kropot.durable.filesystem import OsFiles
from kropot.durable.newfile import replace_file
from ledger.merkle import Frontier

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "kropotcli-seen-v1"
SUFFIX = ".seen"
_LONGEST = 1 << 20
_MOST_LEDGERS = 1000


class SeenTree(Struct, frozen=True, kw_only=True):
    """The tree of a ledger as it was seen at `at_us`, and the largest checkpoint that it was compared with then."""

    tree: Frontier
    at_us: int
    checkpoint: int | None = None


class SeenFile:
    """The file beside a kit, `<kit>.seen`. If it cannot be read, nothing is remembered, and `trouble` says why."""

    def __init__(self, kit: Path) -> None:
        """Read the file, if there is one."""
        self.path = kit.absolute().with_name(kit.name + SUFFIX)
        self.trouble: str | None = None
        self._ledgers: dict[str, SeenTree] = {}
        try:
            with open_named(self.path) as file:
                self._ledgers = _parsed(file.read(_LONGEST))
        except FileNotFoundError:
            return
        except OSError as error:
            self.trouble = f"{self.path} cannot be read ({error.strerror})"
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.trouble = f"{self.path} is damaged: delete it if you know why"

    def of(self, ledger: str) -> SeenTree | None:
        """Return what was seen of a ledger, by its id in hexadecimal digits."""
        return self._ledgers.get(ledger)

    @property
    def others(self) -> int:
        """How many ledgers were seen."""
        return len(self._ledgers)

    def write(self, ledger: str, seen: SeenTree) -> str | None:
        """Remember a ledger, durably. Return why that was not possible, None if it was.

        A damaged file is kept as is, because the damage might be a sign.
        """
        if self.trouble is not None:
            return self.trouble
        ledgers = {**self._ledgers, ledger: seen}
        newest = sorted(ledgers.items(), key=lambda each: each[1].at_us)[-_MOST_LEDGERS:]
        text = json.dumps({"format": FORMAT, "ledgers": {id_: _shown(each) for id_, each in newest}})
        try:
            temporary = f"{self.path}.{os.getpid()}.new"
            replace_file(OsFiles(), temporary, str(self.path), [text.encode() + b"\n"])
        except OSError as error:
            return f"{self.path} cannot be written ({error.strerror})"
        self._ledgers = dict(newest)
        return None


def _parsed(text: bytes) -> dict[str, SeenTree]:
    held = json.loads(text)
    if held["format"] != FORMAT:
        raise ValueError(FORMAT)
    return {ledger: _read(each) for ledger, each in held["ledgers"].items()}


def _read(held: dict[str, Any]) -> SeenTree:
    checkpoint = held["checkpoint"]
    tree = Frontier.parse(int(held["size"]), bytes.fromhex(held["frontier"]))
    return SeenTree(tree=tree, at_us=int(held["at_us"]), checkpoint=None if checkpoint is None else int(checkpoint))


def _shown(seen: SeenTree) -> dict[str, Any]:
    return {
        "size": seen.tree.size,
        "frontier": seen.tree.stored.hex(),
        "root": seen.tree.root.hex(),
        "at_us": seen.at_us,
        "checkpoint": seen.checkpoint,
    }
