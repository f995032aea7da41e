"""Which engine moves contents, and where: libcurl in a process of its own, or what comes nearest to it."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kropot.objects.directory import DirectoryObjects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.collect.transfer.engine import EngineMaker, Server, TransferEngine
    from kropot.objects.store import ObjectStore, Published, PublishError, Staged


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """The chosen kind of engine; `warning` is a sentence for the user where it is the slower one, else None."""

    name: str
    make: EngineMaker
    warning: str | None


def choose_engine(load: Callable[[str], object] = importlib.import_module) -> EngineChoice:
    """Choose the fastest engine that can be loaded; `load` imports a module by name."""
    from kropot.collect.transfer.plain import PlainEngine

    try:
        load("pycurl")
    except ImportError as error:
        warning = f"contents come through the slower engine, because pycurl cannot be loaded ({error}); install pycurl"
        return EngineChoice(name="http.client", make=PlainEngine, warning=warning)
    from kropot.collect.transfer.curl import CurlEngine

    return EngineChoice(name="libcurl", make=CurlEngine, warning=None)


class Transfers(Protocol):
    """Where contents are fetched and published; one thread uses the engine, another may publish."""

    def engine(self) -> TransferEngine:
        """Return an engine; the next may be made when it is closed."""
        ...

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Publish what an engine staged, as `ObjectStore.publish` does."""
        ...

    def close(self) -> None:
        """Break everything off."""
        ...


class TransfersHere:
    """Transfers in this process."""

    def __init__(self, server: Server, objects: ObjectStore, keep_free: int) -> None:
        """Remember what engines need."""
        self._server = server
        self._objects = objects
        self._keep_free = keep_free
        self._engines: list[TransferEngine] = []

    def engine(self) -> TransferEngine:
        """Make an engine of the chosen kind."""
        self._engines = [choose_engine().make(self._server, self._objects, keep_free=self._keep_free)]
        return self._engines[0]

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Publish in the store."""
        return self._objects.publish(batch)

    def close(self) -> None:
        """Close the last engine."""
        for engine in self._engines:
            engine.close()
        self._engines.clear()


def open_transfers(
    server: Server,
    objects: ObjectStore,
    *,
    keep_free: int = 0,
    processors: int | None = None,
    told: Callable[[str], None],
) -> Transfers:
    """Return transfers in a process of their own where there are processors for it, else in this one.

    `told` is told in a sentence when that process died and was started again.

    Raises: LockedError, StorageError.
    """
    if (processors or os.cpu_count() or 1) > 1 and isinstance(objects, DirectoryObjects):
        from kropot.collect.transfer.surviving import SurvivingTransfers

        return SurvivingTransfers(server, objects, keep_free=keep_free, told=told)
    return TransfersHere(server, objects, keep_free)
