"""What is backed up: folders of random bytes, and a copy of a folder that grew, with links and all."""

from __future__ import annotations

import os
import random
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 1 << 20
_A_FOLDER = 100
"""So many files are in one folder."""

MIXED = Path("/usr/share/doc")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """So many files of the same size in bytes; `copied` is the folder to copy instead."""

    name: str
    files: int = 0
    size: int = 0
    copied: Path | None = None

    def divided(self, by: int) -> DataSet:
        """Return the same in small: fewer files, or smaller ones if they are few. A copied folder stays what it is."""
        if self.copied is not None:
            return self
        if self.files > by:
            return DataSet(name=self.name, files=self.files // by, size=self.size)
        return DataSet(name=self.name, files=self.files, size=max(1, self.size // by))

    def times(self, by: int) -> DataSet:
        """Return the same with so many times the files. A copied folder stays what it is."""
        return self if self.copied is not None else DataSet(name=self.name, files=self.files * by, size=self.size)

    @property
    def title(self) -> str:
        """What a table calls it."""
        if self.copied is not None:
            return f"a copy of {self.copied}"
        return f"{self.files:,} x {f'{self.size // _MIB} MiB' if self.size >= _MIB else f'{self.size / 1024:,.4g} KiB'}"

    def make(self, folder: Path) -> None:
        """Write the files."""
        if self.copied is not None:
            shutil.copytree(self.copied, folder, symlinks=True)
        else:
            for number in range(self.files):
                path = folder / f"{number // _A_FOLDER:04d}" / f"{number:08d}"
                path.parent.mkdir(parents=True, exist_ok=True)
                _fill(path, self.size)
        os.sync()


def regular_files(folder: Path) -> Iterator[Path]:
    """Yield every regular file, also below, in the order of their names."""
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(base) / name
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def count_links(folder: Path) -> int:
    """Return how many symlinks there are."""
    return sum(path.is_symlink() for path in folder.rglob("*"))


def change(folder: Path, seed: int) -> int:
    """Give one file in a hundred, and at least one, other bytes of the same number; return how many."""
    paths = list(regular_files(folder))
    chosen = random.Random(seed).sample(paths, max(1, len(paths) // 100))
    for path in chosen:
        _fill(path, path.stat().st_size)
    os.sync()
    return len(chosen)


def differs(folder: Path, restored: Path) -> str | None:
    """Return how the regular files of a folder differ from those restored, None if they do not."""
    wrong = missing = 0
    for path in regular_files(folder):
        other = restored / path.relative_to(folder)
        if not other.is_file():
            missing += 1
        elif not _is_same(path, other):
            wrong += 1
    return f"{missing} files are missing and {wrong} are different" if missing or wrong else None


def _is_same(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            block = left.read(_MIB)
            if block != right.read(_MIB):
                return False
            if not block:
                return True


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        while size > 0:
            file.write(os.urandom(min(size, _MIB)))
            size -= _MIB


SETS = (
    DataSet(name="small", files=20_000, size=4 << 10),
    DataSet(name="medium", files=2_000, size=256 << 10),
    DataSet(name="large", files=4, size=256 << 20),
    DataSet(name="mixed", copied=MIXED),
)
