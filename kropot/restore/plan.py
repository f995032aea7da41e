"""What a restore would do: each held copy with its opened form and the name it gets, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from kropot.errors import WrongKeyError
from kropot.restore.claims import BadFormError
from kropot.restore.kits import describe
from kropot.restore.opener import NoKitError, Opened, open_claim
from kropot.restore.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from kropot.replay.copies import HeldCopy
    from kropot.restore.names import NameGiver
    from kropot.restore.patterns import Patterns
    from kropot.securecopy.sealing import Kit
    from ledger.events import StreamKey

TRIES = 3
"""Forms of one source that are tried before its key is taken to be missing: one of them may just be damaged."""

EARLY = 1000
"""Findings of one source that are kept back until one of its forms was opened."""

Problem = Literal[
    "missing", "damaged", "unopened", "bad_form", "bad_content", "unstored", "in_the_way", "unplaceable", "unreadable"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreProblem:
    """Something that could not be given back: what it is, its name where that is known, and why in words."""

    problem: Problem
    key: StreamKey
    name: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A copy that can be opened, and the path below the folder that it gets; `numbered` where its own was taken."""

    held: HeldCopy
    opened: Opened
    path: tuple[bytes, ...]
    numbered: bool = False

    @property
    def shown(self) -> str:
        """The path for messages."""
        return b"/".join(self.path).decode(errors="backslashreplace")


@dataclass(slots=True)
class RestoreCounts:
    """What went by: copies left out since the source had let go of them, and those of sources that no kit opens."""

    vanished: int = 0
    locked: dict[bytes, int] = field(default_factory=dict)
    opened: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is to be given back: names that match, sources (ids of 16 bytes; none means all), vanished ones or not."""

    patterns: Patterns
    sources: frozenset[bytes] = frozenset()
    vanished: bool = False


def plan(
    helds: Iterable[HeldCopy],
    *,
    kits: Sequence[Kit],
    wanted: Selection,
    giver: Callable[[], NameGiver],
    pool: Executor,
    tally: RestoreCounts,
    sources: int | None = None,
) -> Iterator[Planned | RestoreProblem]:
    """Yield what each held copy becomes; forms are opened several at a time, names are given in order.

    `giver` is asked for only when a form was opened: until then nothing needs to be written. `sources` is how many
    sources there are in all, if that is known. `tally` is counted up.

    Raises:
        WrongKeyError: something is sealed, and nothing at all was opened.

    """
    forms = _Forms(kits, tally)
    names: NameGiver | None = None
    for held, outcome in in_order(pool, forms.open, _chosen(helds, wanted, tally), window=64):
        if isinstance(outcome, NoKitError):
            yield from forms.failed(held, outcome)
            if not tally.opened and sources is not None and len(tally.locked) >= sources:
                break
            continue
        if isinstance(outcome, BadFormError):
            yield RestoreProblem(problem="bad_form", key=held.key, name=None, why=str(outcome))
            continue
        tally.opened += 1
        yield from forms.succeeded(held)
        if names is None:
            names = giver()
        own = names.would_give(outcome.claim.path)
        if held.sha256 is None:
            # It takes no name away from what can be given back.
            if wanted.patterns.match(b"/".join(own)):
                why = f"no copy was stored of it at that moment ({held.state})"
                yield RestoreProblem(problem="unstored", key=held.key, name=outcome.claim.what, why=why)
            continue
        path = names.give(outcome.claim.path, held.key.stored)
        # Whoever asks for a name means every file that has it, not just the one that came first.
        if wanted.patterns.match(b"/".join(path)) or (path != own and wanted.patterns.match(b"/".join(own))):
            yield Planned(held=held, opened=outcome, path=path, numbered=path != own)
    if not tally.opened and tally.locked:
        raise WrongKeyError(
            f"{describe(kits)} the elements: nothing was written; "
            "give the JSON of the request that made the token (--key, more than once for several tokens)"
            if kits
            else "the elements are encrypted: give the JSON of the request that made the token with --key"
        )


class _Forms:
    """Opens forms, and remembers for each source which kit fits or that none does."""

    def __init__(self, kits: Sequence[Kit], tally: RestoreCounts) -> None:
        self._kits = tuple(kits)
        self._fitting: dict[bytes, Kit] = {}
        self._failures: dict[bytes, int] = {}
        self._open: set[bytes] = set()
        self._early: dict[bytes, list[RestoreProblem]] = {}
        self._tally = tally

    def open(self, held: HeldCopy) -> tuple[HeldCopy, Opened | NoKitError | BadFormError]:
        """Return the opened form, or why it cannot be opened; called by several threads."""
        source = held.key.source
        if source not in self._fitting and self._failures.get(source, 0) >= TRIES:
            return held, NoKitError("no kit opened the forms before this one")
        fitting = self._fitting.get(source)
        kits = self._kits if fitting is None else (fitting, *(kit for kit in self._kits if kit is not fitting))
        try:
            opened = open_claim(held, kits)
        except (NoKitError, BadFormError) as error:
            return held, error
        if opened.kit is not None:
            self._fitting[source] = opened.kit
        return held, opened

    def failed(self, held: HeldCopy, error: NoKitError) -> Iterator[RestoreProblem]:
        """Take note of a form that no kit opened; a finding of its own where others of its source were opened."""
        source = held.key.source
        self._failures[source] = self._failures.get(source, 0) + 1
        finding = RestoreProblem(problem="unopened", key=held.key, name=None, why=str(error))
        if source in self._open:
            yield finding
            return
        self._tally.locked[source] = self._tally.locked.get(source, 0) + 1
        if len(early := self._early.setdefault(source, [])) < EARLY:
            early.append(finding)

    def succeeded(self, held: HeldCopy) -> Iterator[RestoreProblem]:
        """Take note of an opened form; what failed before it of the same source are findings after all."""
        source = held.key.source
        if source not in self._open:
            self._open.add(source)
            self._tally.locked.pop(source, None)
            yield from self._early.pop(source, ())


def _chosen(helds: Iterable[HeldCopy], wanted: Selection, tally: RestoreCounts) -> Iterator[HeldCopy]:
    for held in helds:
        if wanted.sources and held.key.source not in wanted.sources:
            continue
        if held.state == "vanished" and not wanted.vanished:
            tally.vanished += 1
            continue
        yield held
