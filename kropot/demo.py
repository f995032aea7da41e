"""The demo's sample folder, the changes to it, and the list of commands that it leaves."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SEED: Final = 1842

COPY_BYTES: Final = 256 << 20
COPY_FILES: Final = 20_000
"""The demo copies a folder up to this size and changes the copy. It serves a larger folder and changes nothing."""

_WORDS: Final = (
    "mutual aid is as much a law of animal life as mutual struggle and sociability is as much a law of nature"
)
_TEXTS: Final = 40
_BIG_BYTES: Final = 8 << 20


class Places(Struct, frozen=True, kw_only=True):
    """The files and folders of one demo. The gateway serves `source`."""

    folder: Path
    source: Path

    @property
    def token(self) -> Path:
        """The file with the access token."""
        return self.folder / "token"

    @property
    def kit(self) -> Path:
        """The key kit, which the owner must keep off-line."""
        return self.folder / "key-kit.json"

    @property
    def config(self) -> Path:
        """The configuration that the commands share."""
        return self.folder / "kropotcli.toml"

    @property
    def state(self) -> Path:
        """The gateway's database. Its master key is next to it."""
        return self.folder / "gateway" / "gateway.db"

    @property
    def master_key(self) -> Path:
        """The gateway's master key, where `kropotcli gateway` looks for it by default."""
        return self.state.with_name(self.state.name + ".key")

    @property
    def notes(self) -> Path:
        """The commands to continue by hand."""
        return self.folder / "COMMANDS.txt"


def vault_spec() -> dict[str, Any]:
    """Return the specification of the demo's token. It seals with sc2, and the gateway makes the vault."""
    return {"roles": ["securecopy.stream"], "expires": "never", "data": {"secureCopyEncryptionMethod": "sc2"}}


def make_folder(wanted: Path) -> Path:
    """Make a new folder of mode 0700 and return it: `wanted`, or that name with a number if it exists."""
    for number in range(1, 10_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            continue
        return folder
    raise UsageError(f"there are 9,999 folders like {wanted} already: remove some, or name another with --folder")


def write_sample(folder: Path, *, seed: int = SEED) -> None:
    """Fill a folder with texts, an empty file, odd names and one large file. The result is always the same."""
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
    """Return whether a folder is small enough for the demo to copy it."""
    files = size = 0
    for path in _files(folder):
        files, size = files + 1, size + path.lstat().st_size
        if files > COPY_FILES or size > COPY_BYTES:
            return False
    return True


def copy_folder(source: Path, target: Path) -> list[str]:
    """Copy a folder, and return the paths that could not be read.

    Links are copied as links. Sockets, pipes and devices are left out.
    """
    try:
        shutil.copytree(source, target, symlinks=True, ignore=_no_specials)
    except shutil.Error as error:
        # shutil has copied everything else.
        return sorted(str(name) for name, *_ in error.args[0])
    finally:
        if target.is_dir():
            # The demo changes the copy later, even if the original folder is read-only.
            target.chmod(0o700)
    return []


def change(folder: Path) -> list[str]:
    """Change, delete and add some files in the folder. Return one line for each change."""
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
    """Return the configuration that the demo's commands share. Its paths are relative to its folder."""
    return (
        "# The options that all commands of this demo share.\n"
        f'server-url = "{url}"\n'
        'token-file = "token"\n'
        'db-string = "sqlite:///ledger.db"\n'
        'storage-path = "storage"\n'
    )


def commands(places: Places, port: int) -> list[tuple[str, Sequence[str]]]:
    """Return the commands to continue by hand, each with its purpose."""
    shared = ("kropotcli", "--config", places.config.name)
    return [
        (
            "Start the gateway again (in a second terminal; the next two commands need it)",
            (
                "kropotcli",
                *("gateway", "serve", "--source", str(places.source), "--port", str(port)),
                *("--state", f"sqlite:///{places.state.relative_to(places.folder)}"),
            ),
        ),
        ("Collect once", (*shared, "collect", "--once")),
        ("Collect every five minutes, until you stop it", (*shared, "collect")),
        ("Show the status of the replica", (*shared, "status")),
        ("List its elements", (*shared, "ls")),
        ("Verify the ledger and the copies", (*shared, "verify")),
        ("Look at all of it in a browser, with names and contents", browse_command(places)),
        ("Restore the files with the kit", (*shared, "restore", "--key", places.kit.name, "--to", "restored")),
    ]


def browse_command(places: Places) -> Sequence[str]:
    """Return the command that opens the page on the demo, to be run in its folder."""
    return ("kropotcli", "--config", places.config.name, "browse", "--key", places.kit.name)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder. Links to folders are not followed."""
    for place, _, names in os.walk(folder):
        for name in names:
            yield folder.__class__(place, name)


def _may_change(path: Path) -> bool:
    """Return whether the demo can write to a file and delete it. A copy of a read-only file is read-only too."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def _no_specials(place: str, names: list[str]) -> list[str]:
    """Return the names that are sockets, pipes or devices."""
    left = []
    for name in names:
        path = os.path.join(place, name)  # noqa: PTH118 - shutil passes strings
        if not (os.path.islink(path) or os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH112, PTH113, PTH114 - as above
            left.append(name)
    return left
