"""A worker process of a restore. It opens forms and writes small files, and continues while a batch becomes durable.

Questions are read as soon as they arrive, and syncs run beside the work, so neither the pipe nor the disk delays it. An
answer has the number of its question, because it can come after the answer to a later one. Files are synced when the
parent asks: a sync waits for everything that anybody wrote to the volume, so there should be few of them.
"""

from __future__ import annotations

import marshal
import os
import queue
import threading
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from kropot.durable.refusals import NoRoomError, TreeError
from kropot.replay.copies import flat, from_flat
from ledger.places import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from kropot.replay.copies import HeldCopy
    from kropot.restore.small import SmallFiles, Task, WrittenBatch, Wrote

LOOK, WRITE, SYNC = range(3)
"""A request. A sync has no answer itself: the answers of all batches before it follow."""

_DONE, _BROKEN, _FULL = range(3)
_PLAIN: Final = 2
"""The version of `marshal` that does not look for repeated objects: there are nearly none."""

_PLACE: Final = ("sha256", "pack", "offset", "length")
_flat_place: Final = attrgetter(*_PLACE)

_Event = tuple[int, int, Any]


class _Kind:
    """The kind of an event in a worker: a question, or a batch that was synced. None for an event ends the work."""

    QUESTION: Final = 0
    SYNCED: Final = 1


# --- what goes through the pipe --------------------------------------------------------------------------------------


def look_question(number: int, helds: Sequence[HeldCopy]) -> bytes:
    """Return the question that asks for glances at forms."""
    return _packed((number, LOOK, [flat(held) for held in helds]))


def write_question(number: int, root: str, tasks: Sequence[Task]) -> bytes:
    """Return the question that asks for files to be written."""
    plain = [(at, held and flat(held), path, place and _flat_place(place)) for at, held, path, place in tasks]
    return _packed((number, WRITE, (root, plain)))


def sync_question() -> bytes:
    """Return the question that asks to make everything written so far durable."""
    return _packed((0, SYNC, None))


def read_answer(data: bytes) -> tuple[int, list[Any] | TreeError]:
    """Return the number of a question, and its answer: tuples, or why nothing more can be written."""
    number, how, what = _unpacked(data)
    if how == _DONE:
        return number, what
    return number, NoRoomError(what) if how == _FULL else TreeError(what)


def _tasks_of(plain: Sequence[Any]) -> list[Task]:
    return [
        (at, held and from_flat(held), path, place and Placement(**dict(zip(_PLACE, place, strict=True))))
        for at, held, path, place in plain
    ]


def _answer(number: int, answer: Sequence[tuple[Any, ...] | None] | TreeError) -> bytes:
    if isinstance(answer, TreeError):
        return _packed((number, _FULL if isinstance(answer, NoRoomError) else _BROKEN, str(answer)))
    # `marshal` does not take named tuples, so make them plain tuples.
    return _packed((number, _DONE, [each and tuple(each) for each in answer]))


def _packed(message: tuple[int, int, Any]) -> bytes:
    """Return a message that holds numbers, texts, bytes, tuples and lists."""
    return marshal.dumps(message, _PLAIN)


def _unpacked(data: bytes) -> tuple[int, int, Any]:
    return marshal.loads(data)  # type: ignore[no-any-return]  # noqa: S302 -- both ends are one program that has forked


# --- in the worker ---------------------------------------------------------------------------------------------------


def serve(links: list[Connection], small: SmallFiles, parent: int) -> None:
    """Answer until the parent, the process `parent`, closes its end. Nothing gets a name once it is gone."""
    (link,) = links
    worker = _Worker(small, parent)
    for work in (worker.listen, worker.sync):
        threading.Thread(target=worker.guarded, args=(work, link), daemon=True).start()
    while (event := worker.events.get()) is not None:
        if isinstance(event, BaseException):
            raise event
        kind, number, what = event
        answer = worker.take(number, what) if kind == _Kind.QUESTION else worker.name(*what)
        if answer is not None:
            link.send_bytes(_answer(number, answer))


class _Worker:
    """One thread does the work. Another one listens, and a third waits for the disk."""

    def __init__(self, small: SmallFiles, parent: int) -> None:
        self.events: queue.SimpleQueue[_Event | BaseException | None] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[list[tuple[int, WrittenBatch]]] = queue.SimpleQueue()
        self._unsynced: list[tuple[int, WrittenBatch]] = []
        self._small = small
        self._parent = parent
        self._broken: TreeError | None = None

    def guarded(self, work: Any, link: Connection) -> None:
        """Do a thread's work. Any unforeseen error ends the worker."""
        try:
            work(link)
        except BaseException as error:  # noqa: BLE001 -- the main thread raises it
            self.events.put(error)

    def listen(self, link: Connection) -> None:
        """Take in questions until the parent closes its end."""
        try:
            while True:
                number, kind, what = _unpacked(link.recv_bytes())
                self.events.put((_Kind.QUESTION, number, (kind, what)))
        except (EOFError, OSError):
            self.events.put(None)

    def sync(self, _: Connection) -> None:
        """Make batches durable. All that were asked for during the last sync share the next one."""
        while True:
            written = self._written.get()
            with suppress(queue.Empty):
                while True:
                    written += self._written.get_nowait()
            error: TreeError | None = None
            try:
                self._small.sync(written[-1][1])
            except TreeError as why:
                error = why
            for number, batch in written:
                self.events.put((_Kind.SYNCED, number, (batch, error)))

    def take(self, number: int, question: tuple[int, Any]) -> Sequence[tuple[Any, ...] | None] | TreeError | None:
        """Return the answer to a question; None if there is none, or if it follows once the files are durable."""
        kind, what = question
        if kind == LOOK:
            return self._small.look(list(map(from_flat, what)))
        if kind == SYNC:
            if self._unsynced:
                self._written.put(self._unsynced)
                self._unsynced = []
            return None
        root, tasks = what
        if self._broken is not None:
            return self._broken
        try:
            batch = self._small.begin(root, _tasks_of(tasks))
        except TreeError as error:
            return error
        self._unsynced.append((number, batch))
        return None

    def name(self, batch: WrittenBatch, error: TreeError | None) -> list[Wrote | None] | TreeError:
        """Give the files of a batch their names. After a failed sync, no file gets one: a failure shows only once."""
        self._broken = self._broken or error
        if self._broken is not None:
            self._small.abandon(batch)
            return self._broken
        return self._small.name(batch, goes_on=lambda: os.getppid() == self._parent)
