"""Plan a restore: open each copy's form and choose the file's name, before anything is written."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kropot.errors import WrongKeyError
from kropot.replay.fold import pages
from kropot.restore.authentic import NoKitError
from kropot.restore.claims import BadFormError
from kropot.restore.kits import describe
from kropot.restore.opener import Opened, open_claim
from kropot.restore.parallel import in_order
from kropot.restore.spool import Spool
from kropot.sc2.form import Kind
from kropot.sc2.kit import CbcKey
from kropot.sc2.refused import RefusedError
from kropot.wording import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from kropot.replay.copies import HeldCopy
    from kropot.restore.crew import Crew
    from kropot.restore.names import NameGiver
    from kropot.restore.opener import Key
    from kropot.restore.patterns import Fit, Patterns
    from ledger.events import StreamKey

TRIES = 3
"""How many forms of one source must fail before its key counts as missing. A single form might be damaged."""

_PAGE = 16
"""How many forms to open at a time."""

EARLY = 1000
"""How many problems of one source to keep until one of its forms opens. They are reported only then."""

Problem = Literal[
    "refused",
    "unproved",
    "missing",
    "damaged",
    "unopened",
    "bad_form",
    "bad_content",
    "unstored",
    "in_the_way",
    "too_large",
    "unplaceable",
    "unreadable",
    "absent",
    "differs",
    "same_name",
]


class RestoreProblem(Struct, frozen=True, kw_only=True):
    """An element that could not be restored: the problem, its name (None if unknown), and the reason in words."""

    problem: Problem
    key: StreamKey
    name: str | None
    why: str


class Planned(Struct, frozen=True, kw_only=True):
    """A copy that can be opened, and its path below the target folder. `numbered` means that its own name was taken."""

    held: HeldCopy
    opened: Opened
    path: tuple[bytes, ...]
    numbered: bool = False

    @property
    def shown(self) -> str:
        """The path as it is printed, and accepted as a pattern."""
        return written(b"/".join(self.path)) or "."


@dataclass(slots=True)
class RestoreCounts:
    """Counts of a plan.

    `vanished` counts elements that were left out because they had vanished. `past` counts, for each past source (16
    bytes) that was left out, its elements. `outdated` counts files of past sources that were left out because a source
    in use has a file with the same name. `locked` counts, for each source that no kit opens, its elements. `opened`
    counts opened forms.
    """

    vanished: int = 0
    past: dict[bytes, int] = field(default_factory=dict)
    outdated: int = 0
    locked: dict[bytes, int] = field(default_factory=dict)
    opened: int = 0


class Selection(Struct, frozen=True, kw_only=True):
    """What to restore: matching names, sources (ids of 16 bytes; none means all), and vanished elements or not.

    `past` includes past sources, which are otherwise restored only if `sources` names them. `both`: if two sources have
    a file with the same name, restore both. `by_path`: plan the files in the order of their paths.
    """

    patterns: Patterns
    sources: frozenset[bytes] = frozenset()
    vanished: bool = False
    past: bool = False
    both: bool = False
    by_path: bool = False


def plan(
    helds: Iterable[HeldCopy],
    *,
    kits: Sequence[Key],
    wanted: Selection,
    giver: Callable[[], NameGiver],
    pool: Executor,
    tally: RestoreCounts,
    sources: int | None = None,
    crew: Crew | None = None,
) -> Iterator[Planned | RestoreProblem]:
    """Yield the plan for each held copy. Forms are opened several at a time, and names are given in order.

    With a `crew`, small files are planned with a glance at their forms, which is enough only for `restore`.

    `giver` is called only after a form was opened, so nothing is written before that. `sources` is the number of all
    sources, or None if it is unknown. Where two sources have the same name, the first one's file is restored. The plan
    adds its counts to `tally`.

    Raises:
        WrongKeyError: some forms are sealed, and not one form was opened.

    """
    named = _named(helds, kits=kits, wanted=wanted, giver=giver, pool=pool, tally=tally, sources=sources, crew=crew)
    if not (wanted.patterns or wanted.by_path):
        yield from (each.what for each in named)
        return
    # Which files the patterns mean is known only at the end, because a file with exactly the given name beats a glob.
    with Spool[_Named](kept=kits) as spool:
        for each in named:
            if each.fits is None:
                yield each.what
            else:
                spool.add(each.path, each)
        yield from (each.what for each in _meant(spool.in_order(), wanted.patterns))


def _meant(ordered: Iterable[_Named], patterns: Patterns) -> Iterator[_Named]:
    """Yield what the patterns mean, each after the folders above it: these are restored with their modes, too."""
    above: list[_Named] = []
    for each in ordered:
        # Names such as "folder-2" sort between a folder and its contents, and "folder0" sorts after them all.
        while above and each.path >= above[-1].path + b"0":
            above.pop()
        if patterns.mean(each.fits or ()):
            yield from (folder for folder in above if each.path.startswith(folder.path + b"/"))
            above = [folder for folder in above if not each.path.startswith(folder.path + b"/")]
            yield each
        elif each.is_folder:
            above.append(each)


class _Named(Struct, frozen=True):
    """The outcome for a copy, its path, and how the patterns fit it: None for a problem that is always reported."""

    what: Planned | RestoreProblem
    path: bytes = b""
    fits: tuple[Fit, ...] | None = None

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder, which is restored with anything in it that is."""
        return isinstance(self.what, Planned) and self.what.opened.claim.kind is Kind.FOLDER


def _named(
    helds: Iterable[HeldCopy],
    *,
    kits: Sequence[Key],
    wanted: Selection,
    giver: Callable[[], NameGiver],
    pool: Executor,
    tally: RestoreCounts,
    sources: int | None,
    crew: Crew | None,
) -> Iterator[_Named]:
    """Yield the copies that have a name, or fit a pattern if there are any, and all problems that have no name."""
    forms = FormOpener(kits)
    failures = _Failures(forms, tally)
    names: NameGiver | None = None
    for held, outcome in _opened(_chosen(helds, wanted, tally), forms, pool, crew):
        if isinstance(outcome, NoKitError):
            yield from map(_Named, failures.failed(held, outcome))
            if not tally.opened and sources is not None and len(tally.locked) >= sources:
                break
            continue
        if isinstance(outcome, RefusedError):
            yield _Named(RestoreProblem(problem="refused", key=held.key, name=None, why=str(outcome)))
            continue
        if isinstance(outcome, BadFormError):
            yield _Named(RestoreProblem(problem="bad_form", key=held.key, name=None, why=str(outcome)))
            continue
        tally.opened += 1
        yield from map(_Named, failures.succeeded(held))
        if names is None:
            names = giver()
        found = _name(held, outcome, names, wanted, tally, several=sources != 1)
        if found is not None and (found.fits or not wanted.patterns or found.is_folder):
            yield found
    if not tally.opened and tally.locked:
        raise WrongKeyError(_no_key(kits, tally, failures.vaults))


def _opened(
    helds: Iterable[HeldCopy], forms: FormOpener, pool: Executor, crew: Crew | None
) -> Iterator[tuple[HeldCopy, Opened | NoKitError | BadFormError | RefusedError]]:
    """Yield each copy with its opened form, or the error if it cannot be opened."""
    if crew is not None:
        for held, opened in crew.looks(helds):
            yield held, forms.open(held) if opened is None else opened
        return
    kept = deque[list["HeldCopy"]]()
    opening = in_order(pool, lambda page: [forms.open(held) for held in page], _kept(helds, kept), window=8)
    for page in opening:
        yield from zip(kept.popleft(), page, strict=True)


def _kept(helds: Iterable[HeldCopy], kept: deque[list[HeldCopy]]) -> Iterator[list[HeldCopy]]:
    """Yield the copies page by page, and keep each page until its answer comes."""
    for page in pages(helds, _PAGE):
        kept.append(page)
        yield page


def _name(
    held: HeldCopy, opened: Opened, names: NameGiver, wanted: Selection, tally: RestoreCounts, *, several: bool
) -> _Named | None:
    """Give an opened copy its name, or say why it has none. Return None if it is left out, and counted."""
    claim, is_folder = opened.claim, opened.claim.kind is Kind.FOLDER
    own = names.would_give_folder(claim.path) if is_folder else names.would_give(claim.path)
    own_path = b"/".join(own)
    if held.refused is not None:
        problem = RestoreProblem(problem="refused", key=held.key, name=written(own_path), why=held.refused)
        return _Named(problem, own_path, wanted.patterns.fits([own_path]))
    if held.sha256 is None:
        # It gets no name, so that a file that can be restored keeps its own.
        why = f"it had no copy at that moment ({held.state}): collect it first, or choose a later moment"
        problem = RestoreProblem(problem="unstored", key=held.key, name=written(own_path), why=why)
        return _Named(problem, own_path, wanted.patterns.fits([own_path], is_folder=is_folder))
    if is_folder:
        return _name_folder(held, opened, names, wanted)
    if several and not wanted.both and names.is_of_another(claim.path, held.key.source):
        fits = wanted.patterns.fits([own_path])
        if held.is_past:
            tally.outdated += bool(fits) or not wanted.patterns
            return None
        why = "another source has a file with this name: choose one with --source, or restore both with --both"
        problem = RestoreProblem(problem="same_name", key=held.key, name=written(own_path), why=why)
        return _Named(problem, own_path, fits)
    path = names.give(claim.path, held.key.stored)
    joined = b"/".join(path)
    planned = Planned(held=held, opened=opened, path=path, numbered=path != own)
    # A pattern means every file that claims a matching name, not only the first one.
    return _Named(planned, joined, wanted.patterns.fits(dict.fromkeys((joined, own_path))))


def _name_folder(held: HeldCopy, opened: Opened, names: NameGiver, wanted: Selection) -> _Named | None:
    """Give a folder its name. Return None if another source described it already: the files of both go into it."""
    components = opened.claim.path
    if names.is_of_another((*components, b""), held.key.source):
        return None
    path = names.give_folder(components)
    planned = Planned(held=held, opened=opened, path=path, numbered=path != names.would_give_folder(components))
    fits = wanted.patterns.fits([b"/".join(path)], is_folder=True) if path else ()
    return _Named(planned, b"/".join(path), fits)


def _no_key(kits: Sequence[Key], tally: RestoreCounts, vaults: Sequence[str]) -> str:
    whose = f"the kit of the vault {' and of the vault '.join(vaults)}" if vaults else "the kit of their token"
    if not kits:
        return f"the elements are encrypted: give {whose} with --key"
    each = "" if vaults else ", once for each token"
    text = f"{describe(kits)} the elements, and nothing was written: give {whose} with --key{each}"
    return f"{text}; if it is the kit of a past source, add --past-sources" if tally.past else text


class FormOpener:
    """Opens forms. It remembers for each source which kit fits, or that none does. Several threads may open."""

    def __init__(self, kits: Sequence[Key], *, keep: bool = False) -> None:
        """Take the keys to try. `keep` is passed to `open_claim`."""
        self._kits = tuple(kits)
        self._keep = keep
        self._fitting: dict[bytes, Key] = {}
        self._failures: dict[bytes, int] = {}

    def open(self, held: HeldCopy) -> Opened | NoKitError | BadFormError | RefusedError:
        """Return the opened form, or the error if it cannot be opened."""
        source = held.key.source
        if source not in self._fitting and self._failures.get(source, 0) >= TRIES:
            return NoKitError("no kit opens the forms of this source: give the kit of its token with --key")
        fitting = self._fitting.get(source)
        kits = self._kits
        if isinstance(fitting, CbcKey):
            kits = (fitting, *(kit for kit in self._kits if kit is not fitting))
        try:
            opened = open_claim(held, kits, keep=self._keep)
        except (NoKitError, BadFormError, RefusedError) as error:
            return error
        if opened.kit is not None:
            self._fitting[source] = opened.kit
        return opened

    def failed(self, held: HeldCopy) -> int:
        """Note a form that no kit opened. Return how many there have been of its source."""
        count = self._failures[held.key.source] = self._failures.get(held.key.source, 0) + 1
        return count


class _Failures:
    """The forms that no kit opened. They are problems only if another form of their source was opened."""

    def __init__(self, forms: FormOpener, tally: RestoreCounts) -> None:
        self._forms = forms
        self._open: set[bytes] = set()
        self._kept: dict[bytes, list[RestoreProblem]] = {}
        self._tally = tally
        self._vaults: dict[str, None] = {}

    @property
    def vaults(self) -> Sequence[str]:
        """The ids of the vaults that no kit opens, in hexadecimal digits: at most one for each source."""
        return tuple(self._vaults)

    def failed(self, held: HeldCopy, error: NoKitError) -> Iterator[RestoreProblem]:
        """Record a form that no kit opened. If other forms of its source were opened, yield it as a problem."""
        source = held.key.source
        count = self._forms.failed(held)
        if error.vault is not None and not count > TRIES:
            self._vaults[error.vault.hex()] = None
        finding = RestoreProblem(problem="unopened", key=held.key, name=None, why=str(error))
        if source in self._open:
            yield finding
            return
        self._tally.locked[source] = self._tally.locked.get(source, 0) + 1
        if len(early := self._kept.setdefault(source, [])) < EARLY:
            early.append(finding)

    def succeeded(self, held: HeldCopy) -> Iterator[RestoreProblem]:
        """Record an opened form. Yield the earlier failures of the same source, which are now problems."""
        source = held.key.source
        if source not in self._open:
            self._open.add(source)
            self._tally.locked.pop(source, None)
            yield from self._kept.pop(source, ())


def _chosen(helds: Iterable[HeldCopy], wanted: Selection, tally: RestoreCounts) -> Iterator[HeldCopy]:
    for held in helds:
        if held.refused is not None:
            # Its source, and whether it vanished, cannot be trusted here.
            yield held
            continue
        if wanted.sources and held.key.source not in wanted.sources:
            continue
        if held.is_past and not (wanted.past or wanted.sources):
            tally.past[held.key.source] = tally.past.get(held.key.source, 0) + 1
            continue
        if held.state == "vanished" and not wanted.vanished:
            tally.vanished += 1
            continue
        yield held
