"""The world in which commands are disturbed: gateways, tokens, kits, and the folders that scenarios begin in."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kropot.errors import Exit
from kropot.gateway.server import GatewayServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from tests.faults.scenarios import Scenario

    Ask = Callable[[tuple[str, ...]], str]

SEALED = {
    "roles": ["securecopy.stream"],
    "expires": "never",
    "data": {"secureCopyEncryptionMethod": "aes-256-cbc", "secureCopyDigestMethod": "sha512"},
}
PLAIN = {"roles": ["securecopy.stream"], "expires": "never"}
# What the first collect found and the second one did not is let go at once.
POLICY = '[retention]\nkeep-last = 1\nmin-age = "0s"\nkeep-vanished = "0s"\n'
# Enough for several batches of everything that is done in batches.
MANY = 700


@dataclass(slots=True)
class World:
    """Everything outside the disturbed folder. `run` gives a command line in a folder with an environment.

    With `has_many` there is a server of many files, too.
    """

    root: Path
    files: int
    seed: int
    run: Callable[[tuple[str, ...], Path, dict[str, str]], tuple[int, str]]
    has_many: bool = True
    _tokens: dict[str, str] = field(default_factory=dict)
    _urls: dict[str, str] = field(default_factory=dict)

    def env(self, scenario: Scenario) -> dict[str, str]:
        """Return the environment of a scenario's commands."""
        token = scenario.token if scenario.server == "few" else scenario.server
        return {"KROPOT_TOKEN": self._tokens[token], "KROPOT_SERVER_URL": self._urls[scenario.server]}

    def filled(self, command: tuple[str, ...], scenario: Scenario, ask: Ask) -> list[str]:
        """Return a command line with its placeholders filled in; `ask` gives the words of a command there."""
        env = self.env(scenario)
        known = {"token": env["KROPOT_TOKEN"], "url": env["KROPOT_SERVER_URL"]}
        if any("{source}" in word for word in command):
            known["source"] = json.loads(ask(("source", "list", "--json")).splitlines()[0])["source"]
        return [word.format(**known) for word in command]

    def build(self, stack: ExitStack) -> None:
        """Start the gateways and make every base folder."""
        dice = random.Random(self.seed)
        source = self.root / "source"
        for number in range(self.files):
            _file(source, number).write_bytes(dice.randbytes(dice.choice((0, 16, 700, 5_000, 70_000))))
        gateway = self._gateway(stack, "few", source, dice)
        for name, spec, kit_name in (
            ("sealed", SEALED, "kit.json"),
            ("second", SEALED, "kit2.json"),
            ("plain", PLAIN, ""),
        ):
            self._tokens[name], kit = gateway.create_token(spec)
            if kit_name:
                (self.root / kit_name).write_text(json.dumps(kit))
                (self.root / kit_name).chmod(0o600)
        if self.has_many:
            many = self.root / "many"
            for number in range(MANY):
                _file(many, number).write_bytes(dice.randbytes(100))
            self._tokens["many"], _ = self._gateway(stack, "many", many, dice).create_token(SEALED)
        (self.root / "spec.json").write_text(json.dumps({**SEALED, "data": {}}))
        for name in ("empty", "collected", "gateway"):
            self._base(name)
        collect = ("collect", "--once", "--full")
        self._must(collect, "collected")
        # Some files change, some go, some come: what the second collect meets, and every other scenario stands on.
        for number in range(0, self.files, 4):
            _file(source, number).write_bytes(dice.randbytes(900 + number))
        for number in range(1, self.files, 6):
            _file(source, number).unlink()
        for number in range(self.files, self.files + 3):
            _file(source, number).write_bytes(dice.randbytes(100 * number))
        gateway.rescan()
        shutil.copytree(self.root / "collected", self.root / "held")
        self._must((*collect, "--missing-percent", "0", "--missing-count", "0"), "held", expected=Exit.PARTIAL)
        shutil.copytree(self.root / "collected", self.root / "current")
        self._must(collect, "current")
        (self.root / "current" / "policy.toml").write_text(POLICY)
        self._must(("checkpoint", "init", "--key", "signer.key"), "current")
        (self.root / "current" / "notes").mkdir(mode=0o700)
        shutil.copytree(self.root / "current", self.root / "packed")
        self._must(("storage", "pack", "--all"), "packed")
        shutil.copytree(self.root / "current", self.root / "two")
        self._must(collect, "two", token="second")
        shutil.copytree(self.root / "current", self.root / "damaged")
        self._damage(self.root / "damaged", dice)
        self._let_go(dice)

    def _let_go(self, dice: random.Random) -> None:
        """Make a folder in which releases wait, and one with orphans and with objects that were set aside."""
        shutil.copytree(self.root / "current", self.root / "released")
        self._must(("--config", "policy.toml", "prune"), "released")
        shutil.copytree(self.root / "damaged", self.root / "untidy")
        self._must(("verify", "--repair"), "untidy")
        for orphan in (dice.randbytes(300), dice.randbytes(5_000)):
            path = _object(self.root / "untidy", hashlib.sha256(orphan).hexdigest())
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_bytes(orphan)

    def _base(self, name: str) -> None:
        """Make a folder with kits of its own: what a kit remembers of a ledger lies beside it."""
        (self.root / name).mkdir()
        for kit_name in ("kit.json", "kit2.json"):
            shutil.copy(self.root / kit_name, self.root / name)

    def _gateway(self, stack: ExitStack, name: str, source: Path, dice: random.Random) -> GatewayServer:
        state_url = f"sqlite:///{self.root / name}.gateway.db"
        gateway = stack.enter_context(GatewayServer(source, state_url, dice.randbytes(32), settle_s=0))
        self._urls[name] = gateway.url
        return gateway

    def _must(self, command: tuple[str, ...], base: str, token: str = "sealed", expected: Exit = Exit.DONE) -> str:
        env = {"KROPOT_TOKEN": self._tokens[token], "KROPOT_SERVER_URL": self._urls["few"]}
        code, output = self.run(command, self.root / base, env)
        if code != expected:
            raise AssertionError(f"{command}: exit {code}: {output}")
        return output

    def _damage(self, folder: Path, dice: random.Random) -> None:
        """Break the objects of current copies: one changed, one cut, one gone."""
        lines = self._must(("replay", "--list", "--json"), folder.name).splitlines()
        entries: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
        names = {entry["sha256"] for entry in entries if entry.get("state") == "current"}
        changed, cut, gone = (_object(folder, name) for name in dice.sample(sorted(names), 3))
        data = bytearray(changed.read_bytes())
        data[len(data) // 2] ^= 1
        changed.write_bytes(data)
        cut.write_bytes(cut.read_bytes()[:-1])
        gone.unlink()


def _object(folder: Path, name: str) -> Path:
    return folder / "storage" / "objects" / name[:2] / name


def _file(source: Path, number: int) -> Path:
    folder = source / f"folder-{number % 3}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"file-{number:02}.bin"
