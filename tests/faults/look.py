"""What the crash laboratory looks at: what verify finds, what was promised, and what a scenario leads to."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from kropot.errors import Exit
from ledger.errors import BadCheckpointError
from ledger.note import SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.scenarios import Scenario

# What differs from run to run and says nothing of the replica.
PASSING = {"source", "position", "recorded_at"}
# What tells when files were written, and in which order.
DATED = {"kropot-manifest.jsonl"}


class Looker:
    """Looks at one folder; `run` gives a command line in it."""

    def __init__(self, scenario: Scenario, folder: Path, run: Callable[..., tuple[int, str]]) -> None:
        self._scenario = scenario
        self._folder = folder
        self._run = run

    def promises(self, position: int) -> list[str]:
        """Return a fault where the ledger has lost what was acknowledged."""
        if not position:
            return []
        code, output = self._run("replay", "--no-digest", "--json")
        if code != Exit.DONE:
            return [f"position {position} was acknowledged, and replay ends with {code}: {output.strip()[-300:]}"]
        found = _objects(output)
        if not found:
            return [f"position {position} was acknowledged, and replay says nothing but {output!r}"]
        reached = found[-1]["position"]
        return [] if reached >= position else [f"position {position} was acknowledged, and {reached} is there"]

    def findings(self, when: str) -> list[str]:
        """Return what verify has to say, orphans and leftovers aside."""
        code, output = self._run("verify", "--no-record", "--json")
        if code == Exit.NO_LEDGER:
            return self._secrets(when)
        bad = [line for line in _objects(output) if line.get("severity") not in (None, "note")]
        if code == Exit.DONE and not bad:
            return self._secrets(when)
        shown = "; ".join(f"{line.get('kind')}: {line.get('detail')}" for line in bad[:3]) or output.strip()[-300:]
        return [f"verify {when}: exit {code}: {shown}"]

    def seen(self) -> Any:
        """Return what is compared with an undisturbed run."""
        return [self._entries(), self._beside()]

    def _beside(self) -> Any:
        look: dict[str, Callable[[], Any]] = {
            "replica": lambda: None,
            "tree": lambda: _tree(self._folder / "out"),
            "copy": lambda: self._entries("--db-string", "sqlite:///copy.db"),
            "sources": self._sources,
            # What a kill leaves under a temporary name harms nobody, and is removed in time.
            "notes": lambda: sorted(_held(self._folder / "notes", "checkpoint-*")),
            # Each damaged object once or more, by its digest, and whatever was left of its bytes.
            "quarantine": lambda: sorted(
                {(name.partition(".")[0], held) for name, held in _held(self._folder / "storage" / "quarantine", "*")}
            ),
            "tokens": self._tokens,
            "key": self._key,
            "space": self._space,
        }
        return look[self._scenario.look]()

    def _sources(self) -> Any:
        _, output = self._run("source", "list", "--json")
        return [{"urls": row["urls"], "held": row["held"]} for row in _objects(output)]

    def _space(self) -> Any:
        """What lies in the storage for which reason, and which copies were released."""
        _, output = self._run("status", "--space", "--json")
        space = next((row["space"] for row in _objects(output) if "space" in row), output)
        parts = {"current", "older", "vanished", "waiting", "orphans", "quarantine", "unused_in_packs"}
        names = {path.name for path in (self._folder / "storage" / "objects").glob("*/*")}
        return [{name: space[name] for name in sorted(parts)} if isinstance(space, dict) else space, sorted(names)]

    def _key(self) -> Any:
        """Whether there is a whole key to sign by, and beside it the one to verify with."""
        held = dict(_held(self._folder / "keys", "signer.key*"))
        try:
            key = SigningKey.parse(held["signer.key"].decode())
        except (KeyError, BadCheckpointError):
            return sorted(held)
        return [sorted(held), key.verifier.text == held.get("signer.key.pub", b"").decode().strip()]

    def _tokens(self) -> Any:
        code, output = self._run("gateway", "token", "list", "--json")
        rows = [row for row in _objects(output) if row.get("message_type") == "token"] if code == Exit.DONE else []
        return [bool(rows), {(row["status"], row["encrypted"]) for row in rows}]

    def _secrets(self, when: str) -> list[str]:
        """Return a fault for each token whose key is nowhere: what is pulled with it could never be opened."""
        if self._scenario.look != "tokens":
            return []
        kits = [json.loads(path.read_text()) for path in self._folder.glob("kit-*.json")]
        code, output = self._run("gateway", "token", "list", "--json")
        if code == Exit.NO_LEDGER:
            return []
        if code != Exit.DONE:
            return [f"token list {when}: exit {code}: {output.strip()[-300:]}"]
        vaults = {kit["vault"] for kit in kits if kit["masters"]}
        return [
            f"{when}: the token {row['id']} has no kit"
            for row in _objects(output)
            if row.get("message_type") == "token" and row["vault"] not in vaults
        ]

    def _entries(self, *more: str) -> list[dict[str, Any]]:
        code, output = self._run("replay", "--list", "--json", *more)
        if code != Exit.DONE:
            # Each worker has a folder of its own, and each run its time.
            said = re.sub(r'"timestamp":"[^"]*"', "", output.replace(str(self._folder), "folder"))
            return [{"replay": code, "said": said}]
        rows = [{key: value for key, value in row.items() if key not in PASSING} for row in _objects(output)]
        # They come by source, whose ids are random.
        return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def _objects(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def _held(folder: Path, names: str) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in folder.glob(names) if path.is_file()]


def _tree(made: Path) -> list[tuple[str, bytes]]:
    """Return what was made, by its path below `made`, but for what is hidden: a leftover there harms nobody."""
    there = ((path.relative_to(made), path) for path in sorted(made.rglob("*")))
    return [
        (str(name), path.read_bytes())
        for name, path in there
        if path.is_file()
        and not path.is_symlink()
        and not any(part.startswith(".") for part in name.parts)
        and path.name not in DATED
    ]
