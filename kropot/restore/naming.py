"""The names of elements, as their sealed forms state them, and the ids of a name. Only a holder of the keys knows them.

A form of `sc2` is authenticated, and its id follows from its name. A form that a CBC token sealed can state any name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.replay.copies import HeldCopy
from kropot.restore.authentic import NoKitError
from kropot.restore.claims import BadFormError
from kropot.restore.opener import open_claim
from kropot.sc2.kit import CbcKey
from kropot.sc2.refused import RefusedError
from kropot.sc2.vault import Vault
from kropot.securecopy.sealing import element_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kropot.restore.opener import Key
    from ledger.events import Element, StreamKey

_TRIES = 3
"""How many forms of one source can fail before its other forms are no longer tried."""


class Namer:
    """Opens forms for their names."""

    def __init__(self, kits: Sequence[Key]) -> None:
        """Take the keys. Plain forms need none."""
        self._kits = tuple(kits)
        self._fitting: dict[bytes, Key | None] = {}
        self._failures: dict[bytes, int] = {}

    def name(self, key: StreamKey, element: Element) -> bytes | None:
        """Return the path, or the name, in the element's form; None if no kit opens it, or it is not sound."""
        return self.of_copy(
            HeldCopy(
                key=key,
                form=element.form,
                date=element.date,
                tz=element.tz,
                state=element.state,
                sha256=None,
                size=0,
                iv=None,
                is_older=False,
            )
        )

    def of_copy(self, held: HeldCopy) -> bytes | None:
        """Return the same as `name`, for a copy."""
        source = held.key.source
        if self._failures.get(source, 0) >= _TRIES:
            return None
        fitting = self._fitting.get(source)
        kits = self._kits if fitting is None else (fitting, *(kit for kit in self._kits if kit is not fitting))
        try:
            opened = open_claim(held, kits)
        except (NoKitError, BadFormError, RefusedError):
            if source not in self._fitting:
                self._failures[source] = self._failures.get(source, 0) + 1
            return None
        self._fitting[source] = opened.kit
        return b"/".join(opened.claim.path)

    def ids(self, name: bytes) -> list[str]:
        """Return the ids that an element with exactly this name has, as far as the kits can tell."""
        return ids_of(name, self._kits)

    @property
    def knows_all_ids(self) -> bool:
        """Whether `ids` is sure to hold the id of every element that a kit opens."""
        return all(isinstance(kit, Vault) or kit.stored_salt is not None for kit in self._kits)


def ids_of(path: bytes, keys: Iterable[Key]) -> list[str]:
    """Return the ids that an element with this path can have: one for each key from which it follows. Pure."""
    found: dict[str, None] = {}
    for key in keys:
        match key:
            case Vault():
                found[key.element(path).hex()] = None
            case CbcKey() if key.stored_salt is not None:
                found[element_id(key.stored_salt, path, key.kit.digest)] = None
            case _:
                pass
    return list(found)
