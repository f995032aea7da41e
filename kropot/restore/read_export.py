"""Read an export: the manifest lists the copies, and the files hold them. Nothing in it is trusted."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kropot.durable.dirfd import open_below
from kropot.durable.errors import storage_error
from kropot.errors import IntegrityError, UsageError
from kropot.objects.store import ObjectMissingError
from kropot.replay.copies import HeldCopy
from kropot.restore.evidence import HISTORY, read_history, with_events
from kropot.restore.export import MANIFEST
from kropot.restore.journal import read_name
from kropot.securecopy.wire import canonical_json
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from kropot.restore.evidence import Origin
    from ledger.places import Placement

_SOURCE = 16
_SHA256 = 32
_IV = 16


class ExportedCopies:
    """A folder that `kropotcli replay --export` wrote."""

    def __init__(self, root: Path) -> None:
        """Open the folder. Raises: UsageError if it is not an export."""
        self.root = root
        self._is_proved = False
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(
                f"the export {root} cannot be opened ({error.strerror}): name a folder that `replay --export` wrote"
            ) from None

    def close(self) -> None:
        """Close the folder."""
        os.close(self._fd)

    def places(self, helds: Sequence[HeldCopy]) -> list[Placement | None]:
        """Return None for each copy, because each has a file of its own."""
        return [None] * len(helds)

    def read(self, held: HeldCopy, place: Placement | None) -> bytes:  # noqa: ARG002 -- it has a file of its own
        """Read the copy's file."""
        with self.open(held) as file:
            return file.read()

    def open(self, held: HeldCopy) -> BinaryIO:
        """Open the copy's file. Raises: ObjectMissingError, StorageError."""
        if held.file is None or held.sha256 is None:
            raise ObjectMissingError(held.sha256 or b"")
        try:
            return os.fdopen(open_below(self._fd, held.file), "rb", buffering=0)
        except FileNotFoundError:
            raise ObjectMissingError(held.sha256) from None
        except OSError as error:
            raise storage_error(error, f"reading {self.root}/{os.fsdecode(b'/'.join(held.file))}") from None

    def helds(self) -> Iterator[HeldCopy]:
        """Yield the copies that the manifest lists, in its order. Raises: UsageError if it is not a manifest."""
        place = self.root / os.fsdecode(MANIFEST)
        try:
            file = os.fdopen(open_below(self._fd, (MANIFEST,)), "rb")
        except OSError as error:
            raise UsageError(
                f"the manifest {place} cannot be read ({error.strerror}): run the export again, it may be incomplete"
            ) from None
        with file:
            for number, line in enumerate(file, 1):
                try:
                    yield self._held(json.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    raise UsageError(
                        f"line {number} of {place} is not a line of an export's manifest: run the export again"
                    ) from None

    def history(self) -> tuple[Origin, Iterator[bytes]] | None:
        """Return where the export comes from, and the headers of all events; None for an older export.

        Raises: IntegrityError if the file exists but is not such a history.
        """
        place = self.root / os.fsdecode(HISTORY)
        try:
            found = read_history(open_below(self._fd, (HISTORY,)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, f"reading {place}") from None
        except ValueError:
            raise IntegrityError(
                f"{place} is not the history of an export, so nothing was written: run the export again"
            ) from None
        self._is_proved = True
        return found

    def _held(self, line: dict[str, Any]) -> HeldCopy:
        held = _held(line)
        return with_events(held, line.get("events")) if self._is_proved else held


def _held(line: dict[str, Any]) -> HeldCopy:
    """Return the copy that a manifest line describes. Raises: ValueError, TypeError, KeyError, AttributeError."""
    parts = None if "problem" in line else tuple(read_name("file", line).split(b"/"))
    if parts is not None and any(part in {b"", b".", b".."} for part in parts):
        raise ValueError(parts)
    iv = line["iv"]
    return HeldCopy(
        key=StreamKey(source=_bytes(line["source"], _SOURCE), kind=_text(line["type"]), id=_text(line["id"])),
        form=canonical_json(line["form"]),
        date=int(line["date"]),
        tz=_text(line["tz"]),
        state=_text(line["state"]),
        sha256=_bytes(line["sha256"], _SHA256),
        size=int(line["size"]),
        iv=None if iv is None else _bytes(iv, _IV),
        is_older=bool(line["is_older"]),
        # Older exports do not say this.
        is_past=bool(line.get("is_past", False)),
        file=parts,
    )


def _bytes(text: str, length: int) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != length:
        raise ValueError(text)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
