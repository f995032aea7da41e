"""A watch over the whole test run: whatever the program is given in secret must come out of it nowhere.

Every run of the program through the fixture `run_cli` is watched: the tokens that it was given (in its environment, on
its command line, or in a file named by --token-file) must be in none of its output, and, when the test ends, in no file
of the test's folder but for those that MAY_HOLD names.
"""

from __future__ import annotations

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


class Watch:
    """Remembers the secrets of one test, and looks for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._secrets: set[str] = set()

    def give(self, args: Sequence[str], env: Mapping[str, str] | None) -> None:
        """Remember what a run is given."""
        words = dict(pairwise(args))
        given = [word.partition("=")[2] for word in args if word.startswith("--token=")]
        given += [words.get("--token", ""), (env or {}).get("KROPOT_TOKEN", "")]
        file = self._folder / (words.get("--token-file") or (env or {}).get("KROPOT_TOKEN_FILE") or "no file")
        if file.is_file():
            given.append(file.read_text(errors="replace").strip())
        self._secrets |= {secret for secret in given if len(secret) >= LONG_ENOUGH}

    def expect_silence(self, done: subprocess.CompletedProcess[str]) -> None:
        """Fail where an output of a run holds a secret."""
        for secret in self._secrets:
            assert secret not in done.stdout, f"the output of {done.args[1:3]} holds the token"
            assert secret not in done.stderr, f"the messages of {done.args[1:3]} hold the token"

    def expect_nothing_kept(self) -> None:
        """Fail where a file below the test's folder holds a secret, in its name or in its bytes."""
        if not self._secrets:
            return
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                if any(path.match(pattern) for pattern in MAY_HOLD) or not path.is_file():
                    continue
                with path.open("rb") as file:
                    held = os.fsencode(name) + file.read(MOST_BYTES)
                for secret in self._secrets:
                    assert secret.encode() not in held, f"{path} holds the token"
