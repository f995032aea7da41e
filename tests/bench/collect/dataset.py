"""What is served: files of random bytes as a server's ciphertexts, made once and kept for the next run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kropot.securecopy.wire import Listed, canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MIB = 1 << 20
_FIRST_DATE = 1_700_000_000
_FORM = canonical_json({"encrypted": "QUJD" * 60})


@dataclass(frozen=True, slots=True)
class DataSet:
    """So many files of the same size, in bytes."""

    name: str
    files: int
    size: int

    @property
    def bytes(self) -> int:
        """All of them together."""
        return self.files * self.size

    @property
    def title(self) -> str:
        """What a table calls it."""
        size = f"{self.size // _MIB} MiB" if self.size >= _MIB else f"{self.size >> 10} KiB"
        return f"{self.files:,} x {size}"

    def id_of(self, number: int) -> str:
        """Return a file's id: 128 hexadecimal digits, as SHA-512 ids have."""
        return f"{number:0128x}"

    def folder(self, root: Path) -> Path:
        """Return the folder of the files."""
        return root / self.name / "files"

    def make(self, root: Path) -> None:
        """Write the files, unless an earlier run did."""
        folder = self.folder(root)
        done = root / self.name / f"complete-{self.files}-{self.size}"
        if done.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(self.files):
            with (folder / self.id_of(number)).open("wb") as file:
                for _ in range(max(1, self.size // _MIB)):
                    file.write(os.urandom(min(self.size, _MIB)))
        done.touch()
        os.sync()

    def warm(self, root: Path) -> None:
        """Read every file once, so that all who are measured find it in the page cache."""
        buffer = bytearray(_MIB)
        for number in range(self.files):
            with (self.folder(root) / self.id_of(number)).open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def listed(self) -> Iterator[Listed]:
        """Yield the entries of the list, oldest first, one a second."""
        for number in range(self.files):
            yield Listed(type="file", id=self.id_of(number), date=_FIRST_DATE + number, tz="UTC", form=_FORM)


SETS = (
    DataSet("small", 20_000, 4 << 10),
    DataSet("medium", 2_000, 256 << 10),
    DataSet("large", 8, 256 << 20),
)
