"""Put files in a locked bucket again before their locks end: the same bytes, as a new version with its own lock.

The bucket itself says when a file was put. Nothing is remembered beyond a process, and nothing is recorded.
"""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from kropot.durable.errors import storage_error
from kropot.logs import log
from kropot.objects.stores.files import MARKER, PIECE, NoSuchKeyError
from kropot.objects.stores.judging import digest_of, wrong_with
from kropot.objects.stores.versioned import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.stores.files import RemoteFiles, RemoteStat
    from kropot.objects.stores.locks import LockRule

ROUND_S: Final = 15.0
"""After this many seconds a round ends, and the next one continues, because the same thread writes segments."""

REST_S: Final = 6 * 3600.0
"""How long to wait between two checks of all files. Every lock leaves more time than this to put a file again."""


@dataclass(slots=True, kw_only=True)
class Renewed:
    """How many files and bytes a round put again. `unsound` files did not match their names, and were left alone."""

    files: int = 0
    bytes: int = 0
    unsound: int = 0
    is_whole: bool = False


class Renewal:
    """Renews one storage, round by round, in one thread."""

    def __init__(
        self,
        files: RemoteFiles,
        rule: LockRule,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        round_s: float = ROUND_S,
    ) -> None:
        """Ask nothing yet. `clock` gives seconds since 1970."""
        self._files = files
        self._rule = rule
        self._clock = clock
        self._monotonic = monotonic
        self._round_s = round_s
        self._walk: Iterator[RemoteStat] | None = None
        self._rests_until: float | None = None

    def round(self) -> Renewed:
        """Put due files again until the round's time is over. Raises: StorageError; the next round then starts over."""
        done = Renewed()
        began = self._monotonic()
        if self._rests_until is not None and began < self._rests_until:
            return done
        walk = self._walk or self._ring()
        self._walk = None  # an error ends the walk
        for stat in walk:
            if self._rule.is_due(stat.changed_s, self._clock()):
                self._one(stat, done)
            if self._monotonic() - began >= self._round_s:
                self._walk = walk
                return done
        done.is_whole = True
        self._rests_until = self._monotonic() + REST_S
        return done

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _ring(self) -> Iterator[RemoteStat]:
        """Yield every file, objects and packs from a random place on, so that rounds cut short reach other parts."""
        for kind in CURRENT:
            start = f"{kind}/{random.randrange(256):02x}" if kind != CURRENT[-1] else ""  # noqa: S311 -- no secret
            yield from self._files.walk(kind, start)
            if start:
                for stat in self._files.walk(kind):
                    if stat.key > start:
                        break
                    yield stat
        marker = self._files.stat(MARKER)
        if marker is not None:
            yield marker

    def _one(self, stat: RemoteStat, done: Renewed) -> None:
        """Read a file, and write it again if it matches its name."""
        try:
            with tempfile.SpooledTemporaryFile(PIECE) as spooled:
                file = cast("BinaryIO", spooled)
                self._files.fetch(stat.key, file)
                wrong = wrong_with(stat.key, digest_of(file), file)
                if wrong is not None:
                    log.warning("lock_not_renewed", key=stat.key, reason=wrong)
                    done.unsound += 1
                    return
                now = self._files.stat(stat.key)
                if now is None:
                    return  # freed meanwhile: it must not come back
                self._files.put_file(stat.key, file)
        except NoSuchKeyError:
            return
        except OSError as error:
            raise storage_error(error, f"keeping {stat.key} in {tempfile.gettempdir()} until it is sent") from error
        done.files += 1
        done.bytes += stat.size
