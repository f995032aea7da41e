"""Decide which objects of a batch go into packs when it is published, and which stay files of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.durable.errors import StorageError
from kropot.objects.packs.format import MOST_BYTES
from kropot.objects.packs.writer import PACK_BELOW, PACK_FROM, PACK_MANY
from kropot.objects.store import Published, PublishError
from ledger.places import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from kropot.objects.packs.packed import PackedObjects
    from kropot.objects.packs.writer import PackWriter
    from kropot.objects.store import Staged


class PackRule(Struct, frozen=True, kw_only=True):
    """Objects of fewer than `below` bytes go into packs if a batch has a pack's worth of them; 0 makes no packs.

    That is `worth` bytes, or `many` objects, because tiny ones never add up to that many bytes, and each costs a file.
    """

    below: int = PACK_BELOW
    worth: int = PACK_FROM
    many: int = PACK_MANY

    def is_worth(self, objects: int, size: int) -> bool:
        """Whether this many objects, of this many bytes together, are a pack's worth."""
        return objects > 0 and (size >= self.worth or objects >= self.many)

    def takes(self, size: int) -> bool:
        """Whether an object of this size goes into packs at all; no pack holds more than `MOST_BYTES`."""
        return size < self.below and size <= MOST_BYTES


class Packing:
    """Packs those objects of a batch that should be packed.

    `read` returns the bytes of an object that was staged into a file, `with_files` returns the objects that already
    have a file of their own, and `set_aside` puts a damaged one into quarantine.
    """

    def __init__(
        self,
        rule: PackRule,
        packed: PackedObjects,
        writer: PackWriter,
        *,
        read: Callable[[Staged], bytes],
        with_files: Callable[[Collection[bytes]], Collection[bytes]],
        set_aside: Callable[[bytes], str],
    ) -> None:
        """Touch nothing yet."""
        self._rule = rule
        self._packed = packed
        self._writer = writer
        self._read = read
        self._with_files = with_files
        self._set_aside = set_aside

    def publish(self, batch: Sequence[Staged]) -> dict[int, Published | PublishError]:
        """Pack objects; return the results of those now in packs, and of those that failed, by their index in `batch`.

        The others need files of their own.
        """
        small = {at: staged for at, staged in enumerate(batch) if self._rule.takes(staged.size)}
        if not small:
            return {}
        outcomes, set_aside = self._known(small)
        fresh: dict[bytes, int] = {}
        again: list[tuple[int, bytes]] = []
        for at, staged in small.items():
            if at not in outcomes and fresh.setdefault(staged.sha256, at) != at:
                again.append((at, staged.sha256))
        for sha256 in self._with_files(fresh.keys()):
            del fresh[sha256]
        if not self._rule.is_worth(len(fresh), sum(small[at].size for at in fresh.values())):
            return outcomes
        outcomes |= self._write(batch, fresh, set_aside)
        for at, sha256 in again:
            if sha256 not in fresh:
                continue
            first = outcomes[fresh[sha256]]
            outcomes[at] = (
                Published(sha256=sha256, size=first.size, existed=True, place=first.place)
                if isinstance(first, Published)
                else first
            )
        return outcomes

    def _known(self, small: Mapping[int, Staged]) -> tuple[dict[int, Published | PublishError], dict[bytes, str]]:
        """Read the objects that the ledger places in packs; return results, and where damaged ones were set aside."""
        outcomes: dict[int, Published | PublishError] = {}
        set_aside: dict[bytes, str] = {}
        found = self._packed.find([staged.sha256 for staged in small.values()])
        for at, staged in small.items() if found else ():
            places = found.get(staged.sha256, ())
            if not places or staged.sha256 in set_aside:
                continue
            try:
                sound = next((sound for one in places if (sound := self._packed.sound_place(one)) is not None), None)
                if sound is not None:
                    outcomes[at] = Published(sha256=staged.sha256, size=staged.size, existed=True, place=sound)
                else:
                    set_aside[staged.sha256] = self._set_aside(staged.sha256)
            except StorageError as error:
                outcomes[at] = PublishError(sha256=staged.sha256, size=staged.size, error=error)
        return outcomes, set_aside

    def _write(
        self, batch: Sequence[Staged], fresh: Mapping[bytes, int], set_aside: Mapping[bytes, str]
    ) -> dict[int, Published | PublishError]:
        outcomes: dict[int, Published | PublishError] = {}
        whole: list[tuple[bytes, bytes]] = []
        for sha256, at in fresh.items():
            waiting = batch[at].pending
            try:
                whole.append((sha256, waiting if type(waiting) is bytes else self._read(batch[at])))
            except StorageError as error:
                outcomes[at] = PublishError(sha256=sha256, size=batch[at].size, error=error)
        for (sha256, data), result in zip(whole, self._writer.write(whole), strict=True):
            outcomes[fresh[sha256]] = (
                Published(sha256, len(data), existed=False, set_aside=set_aside.get(sha256), place=result)
                if isinstance(result, Placement)
                else PublishError(sha256=sha256, size=len(data), error=result)
            )
        return outcomes
