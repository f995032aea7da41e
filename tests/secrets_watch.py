"""A watch over the whole test run: whatever the program is given in secret must come out of it nowhere.

Every run of the program through the fixture `run_cli` is watched: the tokens that it was given (in its environment, on
its command line, or in a file named by --token-file), its passphrases (--passphrase-file) and the keys in its kits must
be in none of its output, and, when the test ends, in no file of the test's folder but for those that it was given, the
kits that it wrote, and those that MAY_HOLD names.
"""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

LONG_ENOUGH = 12
"""A shorter one may well stand somewhere by chance."""

MOST_BYTES = 8 << 20
MAY_HOLD = {
    "token": "the user's own token file: a test puts it there for --token-file",
    "token.txt": "the same",
    "*.toml": "the user's own configuration, in which a token may stand",
    "kit*.json": "a key kit: it names the token that it belongs to",
}
"""Files by pattern, each with the reason why a token may stand in them."""

PASSPHRASES = ("--passphrase-file", "--new-passphrase-file")
KEYS = ("secureCopyEncryptionKey", "masters", "id_key", "etag_key", "passphrase")
"""The fields of kits that hold keys."""


class Watch:
    """Remembers the secrets of one test, and looks for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._secrets: set[str] = set()
        self._theirs: set[Path] = set()

    def give(self, args: Sequence[str], env: Mapping[str, str] | None) -> None:
        """Remember what a run is given."""
        words = dict(pairwise(args))
        given = [word.partition("=")[2] for word in args if word.startswith("--token=")]
        given += [words.get("--token", ""), (env or {}).get("KROPOT_TOKEN", "")]
        file = self._folder / (words.get("--token-file") or (env or {}).get("KROPOT_TOKEN_FILE") or "no file")
        if file.is_file():
            given.append(file.read_text(errors="replace").strip())
        files = [self._folder / value for option, value in pairwise(args) if option in PASSPHRASES]
        given += [file.read_text(errors="replace").strip() for file in files if file.is_file()]
        kits = [self._folder / value for option, value in pairwise(args) if option == "--key"]
        if "kit" in args:
            kits += [self._folder / each for each in args[args.index("kit") :]]
        given += [key for kit in kits for key in keys_in(kit)]
        self._theirs |= {*files, *kits}
        self._secrets |= {secret for secret in given if len(secret) >= LONG_ENOUGH}

    def expect_silence(self, done: subprocess.CompletedProcess[str]) -> None:
        """Fail where an output of a run holds a secret."""
        for secret in self._secrets:
            assert secret not in done.stdout, f"the output of {done.args[1:3]} holds a secret"
            assert secret not in done.stderr, f"the messages of {done.args[1:3]} hold a secret"

    def expect_nothing_kept(self) -> None:
        """Fail where a file below the test's folder holds a secret, in its name or in its bytes."""
        if not self._secrets:
            return
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                if path in self._theirs or any(path.match(each) for each in MAY_HOLD) or not path.is_file():
                    continue
                with path.open("rb") as file:
                    held = os.fsencode(name) + file.read(MOST_BYTES)
                for secret in self._secrets:
                    assert secret.encode() not in held, f"{path} holds a secret"


def keys_in(kit: Path) -> list[str]:
    """Return the keys in a kit; none if the file is no kit, or a locked one."""
    try:
        found = json.loads(kit.read_bytes())
    except (OSError, ValueError):
        return []
    if not isinstance(found, dict):
        return []
    keys, waiting = list[str](), [found]
    while waiting:
        at = waiting.pop()
        for name, value in at.items() if isinstance(at, dict) else enumerate(at):
            if name in KEYS:
                keys += value if isinstance(value, list) else [value]
            elif isinstance(value, dict | list):
                waiting.append(value)
    return keys
