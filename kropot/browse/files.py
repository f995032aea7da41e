"""The owner's files at a moment: each form is opened once, in the background, and its name is put into an index.

Each copy's record is kept in sealed pieces, and read again when it is needed.
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter, OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from msgspec.structs import replace

from kropot.browse.names import NamedFile, NameIndex
from kropot.browse.sealed_pieces import SealedPieces
from kropot.errors import KropotError
from kropot.restore.authentic import NoKitError
from kropot.restore.opener import open_claim
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from kropot.query.past import KnownSource
    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.opener import Key, Opened
    from ledger.events import StreamKey

KEPT: Final = 2
"""How many moments to keep names for: two, so that they can be compared."""


_STILL_READ_S: Final = 600.0
"""How long the copies of a moment stay open after another moment replaced it."""


class CopyOrigin(Protocol):
    """Where the copies of one moment come from. `hidden` counts withheld elements, once all copies have been read."""

    @property
    def helds(self) -> Iterable[HeldCopy]:
        """The copies, each judged by the history."""
        ...

    @property
    def copies(self) -> Copies:
        """Their sealed bytes."""
        ...

    @property
    def sources(self) -> Mapping[bytes, KnownSource] | None:
        """The sources at that moment, None if they are not known."""
        ...

    @property
    def hidden(self) -> Callable[[], int]:
        """A function that returns how many elements of the history are not among the copies."""
        ...


class BrowsedReplica(Protocol):
    """The replica that the owner looks at."""

    def at(self, position: int) -> AbstractContextManager[tuple[CopyOrigin, list[str]]]:
        """Give the copies at a position, and sentences that say what is proved about the history."""
        ...

    def version(self, key: StreamKey, position: int) -> HeldCopy | None:
        """Return one element's copy as it was at a position, judged by the history; None if it was not known."""
        ...


@dataclass(slots=True)
class Opening:
    """The names opened so far at one moment. `trouble` says why it failed. `said` is proved about the history."""

    position: int
    names: NameIndex = field(default_factory=NameIndex)
    is_done: bool = False
    count: int = 0
    refused: int = 0
    unopened: int = 0
    hidden: int = 0
    sealed: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    trouble: str | None = None

    @property
    def is_wrong_kit(self) -> bool:
        """Whether there are elements, and the kit opened none of them."""
        return self.is_done and self.unopened > 0 and not len(self.names)


class OpenedMoment:
    """The names at one moment, and their copies, while the replica is open at that moment."""

    def __init__(self, replica: BrowsedReplica, keys: Sequence[Key], position: int) -> None:
        """Start to open the names, on a separate thread."""
        self.opening = Opening(position)
        self._replica, self._keys = replica, keys
        self._helds = SealedPieces()
        self._stop = threading.Event()
        self._open = ExitStack()
        self._copies: Copies | None = None
        self._tops: dict[bytes, tuple[bytes]] = {}
        self.done = threading.Event()
        threading.Thread(target=self._run, name="names", daemon=True).start()

    def close(self) -> None:
        """Stop the thread, and close everything if it ends within 10 seconds."""
        self._stop.set()
        if self.done.wait(10):
            self._open.close()
            self._helds.close()
            self.opening.names.close()

    @property
    def copies(self) -> Copies:
        """The sealed bytes. Raises: KropotError before the replica is open."""
        if self._copies is None:
            raise KropotError("the replica is not open yet: try again")
        return self._copies

    def within(self, path: bytes) -> tuple[bytes | None, bytes]:
        """Return the source (16 bytes) whose folder a path begins with, None if it has none, and the path within it."""
        top, _, rest = path.partition(b"/")
        found = next((id_ for id_, (name,) in self._tops.items() if name == top), None)
        return (None, path) if found is None else (found, rest)

    def held(self, file: NamedFile) -> HeldCopy:
        """Return the copy of a file. Raises: UnusableFileError."""
        held: HeldCopy = pickle.loads(self._helds.read(file.place))  # noqa: S301 -- this process sealed it
        return held

    def opened(self, held: HeldCopy) -> Opened:
        """Return the opened form of a copy. Raises: as `open_claim`."""
        return open_claim(held, self._keys)

    def _run(self) -> None:
        opening = self.opening
        try:
            origin, said = self._open.enter_context(self._replica.at(opening.position))
            self._copies = origin.copies
            self._tops = _tops(origin.sources or {})
            for held in origin.helds:
                if self._stop.is_set():
                    return
                self._take(held)
            opening.hidden = origin.hidden()
            opening.said = list(said)
            opening.names.sort()
            opening.is_done = True
        except KropotError as error:
            opening.trouble = str(error)
        except Exception as error:  # noqa: BLE001 -- the page must say that it failed
            opening.trouble = f"the replica cannot be read ({type(error).__name__}): run `kropotcli verify`"
        finally:
            self.done.set()

    def _take(self, held: HeldCopy) -> None:
        opening = self.opening
        opening.count += 1
        if held.refused is not None:
            opening.refused += 1
            return
        try:
            opened = self.opened(held)
        except NoKitError:
            opening.unopened += 1
            return
        except KropotError:
            opening.refused += 1
            return
        claim = opened.claim
        if not claim.path:
            return  # this is the served folder itself
        path = b"/".join((*self._tops.get(held.key.source, ()), *claim.path))
        opening.sealed[opened.sealing] += 1
        place = self._helds.add(pickle.dumps(replace(held, events=())))
        opening.names.add(
            NamedFile(
                path=path,
                kind=claim.kind,
                size=held.size if claim.size is None else claim.size,
                mtime_ns=claim.mtime_ns,
                state=held.state,
                place=place,
                mark=int.from_bytes(held.identity[:8]),
                is_stored=held.sha256 is not None or claim.kind is not Kind.FILE,
            )
        )


class OwnerFiles:
    """The owner's files at any moment. The names of a few moments are kept."""

    def __init__(self, replica: BrowsedReplica, keys: Sequence[Key]) -> None:
        """Open files of this replica with these keys. Nothing is read yet."""
        self.replica, self._keys = replica, keys
        self._lock = threading.Lock()
        self._moments: OrderedDict[int, OpenedMoment] = OrderedDict()

    def at(self, position: int) -> OpenedMoment:
        """Return the files at a position. Their names are opened in the background: see `Opening.is_done`."""
        with self._lock:
            found = self._moments.get(position)
            if found is not None and found.opening.trouble is not None:
                del self._moments[position]
                found.close()
                found = None
            if found is None:
                found = self._moments[position] = OpenedMoment(self.replica, self._keys, position)
            self._moments.move_to_end(position)
            gone = [self._moments.popitem(last=False)[1] for _ in range(len(self._moments) - KEPT)]
        for each in gone:
            # A download might still read from it.
            if each.opening.is_done:
                later = threading.Timer(_STILL_READ_S, each.close)
                later.daemon = True
                later.start()
            else:
                each.close()
        return found

    def opened(self, held: HeldCopy) -> Opened:
        """Return the opened form of a copy. Raises: as `open_claim`."""
        return open_claim(held, self._keys)

    def close(self) -> None:
        """Close all moments."""
        with self._lock:
            for each in self._moments.values():
                each.close()
            self._moments.clear()


def _tops(sources: Mapping[bytes, KnownSource]) -> dict[bytes, tuple[bytes]]:
    """Return the top folder of each source, named by its label. A single source needs none."""
    if len(sources) < 2:  # noqa: PLR2004 -- there is nothing to tell apart
        return {}
    shown = {id_: (each.keeping.label or id_.hex()[:8]).replace("/", "_") for id_, each in sources.items()}
    return {id_: (name.encode(errors="surrogateescape"),) for id_, name in shown.items()}
