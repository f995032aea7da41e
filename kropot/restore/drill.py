"""The drill: pick the copies to open at random, from all sources that the given kits open.

Nobody can predict which copies it picks, so a keeper cannot prepare for it.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from kropot.errors import IntegrityError, KropotError
from kropot.query.names import FILE_KIND
from kropot.restore.authentic import NoKitError
from kropot.restore.claims import BadFormError, sealed_text
from kropot.restore.element_copy import held_of
from kropot.restore.history import AlteredError
from kropot.restore.opener import open_claim
from kropot.restore.plan import Planned, RestoreProblem
from kropot.sc2.layout import is_list_form, list_form_bytes, parse_header
from kropot.sc2.refused import RefusedError
from kropot.sc2.vault import Vault
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from random import Random

    from kropot.replay.copies import HeldCopy
    from kropot.restore.opener import Key
    from ledger.log import Ledger
    from ledger.replica import Entry

_TRIED: Final = 3
"""How many forms of a source to try before concluding that it needs another kit."""

_WALK: Final = 1000
"""How many elements after a random id to look at. A source with no more elements is read completely."""

_PROBES: Final = 4
"""How many random ids to try for each wanted copy."""


class Sample(Struct, frozen=True, kw_only=True):
    """The copies to open, the number of elements in each source that the kits open, and the sources of other kits.

    `altered` are the picked elements whose events differ from those that were recorded. They count as not opened.
    """

    helds: tuple[HeldCopy, ...]
    altered: tuple[RestoreProblem, ...]
    elements: dict[bytes, int]
    foreign: tuple[bytes, ...]

    @property
    def picked(self) -> Counter[bytes]:
        """How many elements were picked of each source."""
        return Counter(key.source for key in (*(held.key for held in self.helds), *(each.key for each in self.altered)))


class Drawn(Protocol):
    """A place to draw copies from: a ledger, an export, or a keeper."""

    def elements(self) -> Mapping[bytes, int]:
        """Return how many elements each source has, by its id."""
        ...

    def pick(self, source: bytes, wanted: int, count: int, chance: Random) -> Iterable[HeldCopy | RestoreProblem]:
        """Yield about `wanted` copies of a source with `count` elements, or a problem where the events were altered."""
        ...


def draw(drawn: Drawn, kits: Sequence[Key], *, wanted: int, chance: Random) -> Sample:
    """Pick about `wanted` copies, at least one of each source. The time for this does not grow with the ledger."""
    ours, foreign = dict[bytes, int](), []
    for source, count in drawn.elements().items():
        if not count:
            continue
        tried = drawn.pick(source, _TRIED, count, chance)
        if any(isinstance(held, RestoreProblem) or _is_opened(held, kits) for held in tried):
            ours[source] = count
        else:
            foreign.append(source)
    total = sum(ours.values())
    found = [
        held
        for source, count in ours.items()
        for held in drawn.pick(source, max(1, round(wanted * count / total)), count, chance)
    ]
    return Sample(
        helds=tuple(held for held in found if not isinstance(held, RestoreProblem)),
        altered=tuple(each for each in found if isinstance(each, RestoreProblem)),
        elements=ours,
        foreign=tuple(foreign),
    )


class LedgerDrawn:
    """The copies of a ledger, as it is now."""

    def __init__(self, ledger: Ledger) -> None:
        """Draw from this ledger."""
        self._ledger = ledger
        self._position = ledger.head().position

    def elements(self) -> Mapping[bytes, int]:
        """Return how many elements each source has. These sums are maintained, not counted."""
        elements = dict.fromkeys(self._ledger.sources(), 0)
        for tally in self._ledger.tallies():
            elements[tally.source] += tally.elements
        return elements

    def pick(self, source: bytes, wanted: int, count: int, chance: Random) -> Iterator[HeldCopy | RestoreProblem]:
        """Yield about `wanted` copies. The time for this does not grow with the number of elements."""
        for key in _picked(self._ledger, source, wanted, count, chance):
            yield _held(self._ledger, key, self._position)


def planned(held: HeldCopy, kits: Sequence[Key]) -> Planned | RestoreProblem:
    """Return a picked copy under the name in its form, or why it has none."""
    if held.refused is not None:
        return RestoreProblem(problem="refused", key=held.key, name=None, why=held.refused)
    try:
        opened = open_claim(held, kits)
    except NoKitError as error:
        return RestoreProblem(problem="unopened", key=held.key, name=None, why=str(error))
    except BadFormError as error:
        return RestoreProblem(problem="bad_form", key=held.key, name=None, why=str(error))
    except RefusedError as error:
        return RestoreProblem(problem="refused", key=held.key, name=None, why=str(error))
    return Planned(held=held, opened=opened, path=opened.claim.path)


def _picked(ledger: Ledger, source: bytes, wanted: int, count: int, chance: Random) -> list[StreamKey]:
    """Return the keys of some elements of a source that have a copy."""
    if count <= _WALK:
        found = [entry.key for entry in ledger.scan(source=source) if _has_copy(entry)]
        return chance.sample(found, min(wanted, len(found)))
    picked = dict[StreamKey, None]()
    for _ in range(_PROBES * wanted):
        if len(picked) == wanted:
            break
        # The ids of sealed elements are digests, so all beginnings are equally likely.
        start = StreamKey(source=source, kind=FILE_KIND, id=chance.randbytes(32).hex())
        # After the last id, continue at the first one.
        behind = chain(ledger.scan(source=source, after=start), ledger.scan(source=source))
        if (key := next((entry.key for entry in islice(behind, _WALK) if _has_copy(entry)), None)) is not None:
            picked[key] = None
    return list(picked)


def _has_copy(entry: Entry) -> bool:
    return entry.element is not None and entry.element.copy is not None


def _held(ledger: Ledger, key: StreamKey, position: int) -> HeldCopy | RestoreProblem:
    try:
        held = held_of(ledger, key, position)
    except AlteredError as error:
        return RestoreProblem(problem="refused", key=key, name=None, why=str(error))
    if held is None:
        raise IntegrityError(
            f"the projection has the element {key.id}, but the events do not: run `kropotcli verify`, which compares "
            f"them"
        )
    return held


def _is_opened(held: HeldCopy, kits: Sequence[Key]) -> bool:
    """Return whether the kits open the element's source. A form that is refused belongs to such a source, too."""
    sealed = sealed_text(held.form)
    if sealed is None:
        return False
    if is_list_form(sealed):
        return _vault_of(sealed) in {kit.id for kit in kits if isinstance(kit, Vault)}
    try:
        open_claim(held, kits)
    except NoKitError:
        return False
    except KropotError:
        return True
    return True


def _vault_of(sealed: str) -> bytes | None:
    """Return the vault that a form names, None if it cannot be read."""
    try:
        return parse_header(list_form_bytes(sealed)).vault
    except RefusedError:
        return None
