"""What the demonstration works on: a sample folder, the changes made to it, and the notes it leaves behind."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SEED: Final = 1842

COPY_BYTES: Final = 256 << 20
COPY_FILES: Final = 20_000
"""A folder up to this size is copied before files in it are changed and deleted; a larger one is served untouched."""

_WORDS: Final = (
    "mutual aid is as much a law of animal life as mutual struggle and sociability is as much a law of nature"
)
_TEXTS: Final = 40
_BIG_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where everything of one demonstration lies; `source` is the folder that is served."""

    folder: Path
    source: Path

    @property
    def token(self) -> Path:
        """The file with the access token."""
        return self.folder / "token"

    @property
    def kit(self) -> Path:
        """The file with the key, which belongs off-line."""
        return self.folder / "key-kit.json"

    @property
    def config(self) -> Path:
        """The configuration that the commands share."""
        return self.folder / "kropotcli.toml"

    @property
    def state(self) -> Path:
        """The gateway's database; its master key is beside it."""
        return self.folder / "gateway" / "gateway.db"

    @property
    def master_key(self) -> Path:
        """The gateway's master key, where `kropotcli gateway` looks for it by itself."""
        return self.state.with_name(self.state.name + ".key")

    @property
    def notes(self) -> Path:
        """The commands to go on by hand."""
        return self.folder / "COMMANDS.txt"


def token_spec() -> dict[str, Any]:
    """Return what the demonstration asks the gateway for: an encrypted token, with a key that the gateway makes."""
    return {
        "roles": ["securecopy.stream"],
        "expires": "never",
        "data": {"secureCopyEncryptionMethod": "aes-256-cbc", "secureCopyDigestMethod": "sha512"},
    }


def make_folder(wanted: Path) -> Path:
    """Make a new folder of mode 0700 and return it: `wanted`, or with a number behind it if that is taken."""
    for number in range(1, 10_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            continue
        return folder
    raise UsageError(f"there are 9,999 folders like {wanted}: remove some of them")


def write_sample(folder: Path, *, seed: int = SEED) -> None:
    """Fill a folder with what folders hold: texts, an empty file, odd names, one large file; the same every time."""
    chance = random.Random(seed)  # noqa: S311 - sample texts, no secrets
    for number in range(_TEXTS):
        place = folder / ("letters", "letters/1902", "accounts")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        text = " ".join(chance.choices(_WORDS.split(), k=chance.randrange(20, 2000)))
        (place / f"page-{number:02}.txt").write_text(text + "\n")
    (folder / "empty").touch()
    (folder / "zażółć gęślą jaźń.txt").write_text("A name that many programs stumble over.\n")
    (folder / "photograph.bin").write_bytes(chance.randbytes(_BIG_BYTES))


def is_small(folder: Path) -> bool:
    """Return whether a folder is small enough to be copied for the demonstration."""
    files = size = 0
    for path in _files(folder):
        files, size = files + 1, size + path.lstat().st_size
        if files > COPY_FILES or size > COPY_BYTES:
            return False
    return True


def copy_folder(source: Path, target: Path) -> list[str]:
    """Copy a folder, links as links; return what could not be read, as paths.

    Sockets, pipes and devices are left out.
    """
    try:
        shutil.copytree(source, target, symlinks=True, ignore=_no_specials)
    except shutil.Error as error:
        # It has gone on with the rest.
        return sorted(str(name) for name, *_ in error.args[0])
    finally:
        if target.is_dir():
            # The copy is changed afterwards, whether or not the folder itself may be.
            target.chmod(0o700)
    return []


def change(folder: Path) -> list[str]:
    """Change, delete and add some files in the folder; return what was done, a line each."""
    files = sorted(path for path in _files(folder) if not path.is_symlink() and _may_change(path))
    done = []
    for path in files[:2]:
        path.write_bytes(b"rewritten after the first collect\n")
        done.append(f"rewrote {path.relative_to(folder)}")
    for path in files[2:4]:
        path.unlink()
        done.append(f"deleted {path.relative_to(folder)}")
    added = folder / "added-after-the-first-collect.txt"
    added.write_text("new\n")
    return [*done, f"added   {added.relative_to(folder)}"]


def config_text(url: str) -> str:
    """Return the configuration that the demonstration's commands share; its paths are relative to its folder."""
    return (
        "# The options that the commands of this demonstration share.\n"
        f'server-url = "{url}"\n'
        'token-file = "token"\n'
        'db-string = "sqlite:///ledger.db"\n'
        'storage-path = "storage"\n'
    )


def kit_text(kit: dict[str, Any]) -> str:
    """Return a key kit as its file holds it."""
    return json.dumps(kit, indent=2) + "\n"


def commands(places: Places, port: int) -> list[tuple[str, Sequence[str]]]:
    """Return the commands to go on by hand, each with what it is for."""
    shared = ("kropotcli", "--config", places.config.name)
    return [
        (
            "Start the gateway again (in a terminal of its own; the next two commands need it)",
            (
                "kropotcli",
                *("gateway", "serve", "--source", str(places.source), "--port", str(port)),
                *("--state", f"sqlite:///{places.state.relative_to(places.folder)}"),
            ),
        ),
        ("Collect once", (*shared, "collect", "--once")),
        ("Collect for ever, every five minutes", (*shared, "collect")),
        ("See how the replica is", (*shared, "status")),
        ("List what is in it", (*shared, "ls")),
        ("Check that everything is what it was", (*shared, "verify")),
        ("Bring the files back, with the key", (*shared, "restore", "--key", places.kit.name, "--to", "restored")),
    ]


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; links to folders are not followed."""
    for place, _, names in os.walk(folder):
        for name in names:
            yield folder.__class__(place, name)


def _may_change(path: Path) -> bool:
    """Return whether a file may be written to and deleted: a copied one is as read-only as the one it was made of."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def _no_specials(place: str, names: list[str]) -> list[str]:
    """Return those of the names that are sockets, pipes or devices."""
    left = []
    for name in names:
        path = os.path.join(place, name)  # noqa: PTH118 - shutil passes strings
        if not (os.path.islink(path) or os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH112, PTH113, PTH114 - as above
            left.append(name)
    return left
