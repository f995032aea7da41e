"""Who is measured: each backs the same folder up into a place of its own, three times, and restores it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tests.bench.endtoend.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Step = Literal["first", "idle", "changed", "restore"]
STEPS: tuple[Step, ...] = ("first", "idle", "changed", "restore")

_PASSWORD = "of the bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The folder to back up, and where a peer may write: `kept` holds the backup, `back` what is restored."""

    source: Path
    work: Path

    @property
    def kept(self) -> Path:
        return self.work / "kept"

    @property
    def back(self) -> Path:
        return self.work / "back"

    @property
    def env(self) -> Mapping[str, str]:
        """Every program keeps its caches and settings in here, and is told its password.

        An installed program has its bytecode, so ours may keep it, too.
        """
        home = str(self.work / "home")
        names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "BORG_BASE_DIR")
        passwords = dict.fromkeys(("RESTIC_PASSWORD", "BORG_PASSPHRASE"), _PASSWORD)
        return {**dict.fromkeys(names, home), **passwords, "PYTHONDONTWRITEBYTECODE": ""}


class Peer:
    """One program; `does` says what it does beside copying. `syncs` names the steps that are durable at their end."""

    name = ""
    needs: str | None = None
    does = ""
    syncs: frozenset[Step] = frozenset()

    @property
    def missing(self) -> bool:
        """Whether it cannot be run here."""
        return self.needs is not None and shutil.which(self.needs) is None

    def prepare(self, place: Place) -> None:
        """Make what the first backup needs. Raises: subprocess.CalledProcessError."""

    def command(self, place: Place, step: Step) -> list[str]:
        """Return what is measured; it runs in `place.back`."""
        raise NotImplementedError

    def restored(self, place: Place) -> Path:
        """Return where the folder is after a restore."""
        return place.back

    @contextmanager
    def serving(self, place: Place, step: Step) -> Iterator[Gateway | None]:  # noqa: ARG002 -- most serve nothing
        """Run the other side during a step, for those that have one."""
        yield None


class KropotCli(Peer):
    """The whole program: a gateway over the folder, and a collector that pulls from it over HTTP."""

    syncs = frozenset(STEPS)

    def __init__(self, name: str, method: str) -> None:
        self.name, self.method = name, method
        self.does = f"seals by {method} at the gateway; the collector cannot read it, syncs, and appends to a ledger"

    def prepare(self, place: Place) -> None:
        data = {"secureCopyEncryptionMethod": self.method}
        spec = place.work / "spec.json"
        spec.write_text(json.dumps({"roles": ["securecopy.stream"], "expires": "never", "data": data}))
        kit = ["--kit", str(place.work / "kit.json")]
        made = run(place, *_KROPOT, "gateway", "token", "create", *_state(place), *kit, str(spec))
        with socket.socket() as probe:
            # One address for all steps: a token that turns up elsewhere is refused.
            probe.bind(("127.0.0.1", 0))
            (place.work / "port").write_text(str(probe.getsockname()[1]))
        token = place.work / "token"
        token.write_text(made.strip().splitlines()[-1] + "\n")
        token.chmod(0o600)

    def command(self, place: Place, step: Step) -> list[str]:
        ledger = ("--db-string", f"sqlite:///{place.work}/ledger.db", "--storage-path", str(place.kept))
        if step == "restore":
            return [*_KROPOT, *ledger, "restore", "--key", str(place.work / "kit.json"), "--to", str(place.back)]
        url = f"http://127.0.0.1:{(place.work / 'port').read_text()}"
        return [*_KROPOT, *ledger, "--token-file", str(place.work / "token"), "--server-url", url, "collect", "--once"]

    @contextmanager
    def serving(self, place: Place, step: Step) -> Iterator[Gateway | None]:
        if step == "restore":
            yield None
            return
        options = ["--source", str(place.source), "--port", (place.work / "port").read_text(), "--scan-every", "3600"]
        serve = [*_KROPOT, "--log-level", "debug", "--log-format", "json", "gateway", "serve", *options, *_state(place)]
        with Gateway(serve, place.work / f"gateway-{step}.txt", {**os.environ, **place.env}) as gateway:
            yield gateway


class Restic(Peer):
    name = "restic"
    needs = "restic"
    does = "encrypts, syncs each pack of a backup, keeps a history; a restore is not synced"
    syncs = frozenset({"first", "idle", "changed"})

    def prepare(self, place: Place) -> None:
        run(place, "restic", "-r", str(place.kept), "init")

    def command(self, place: Place, step: Step) -> list[str]:
        base = ["restic", "-r", str(place.kept), "-q"]
        if step == "restore":
            return [*base, "restore", "latest", "--target", str(place.back)]
        return [*base, "backup", str(place.source)]

    def restored(self, place: Place) -> Path:
        return place.back / str(place.source).lstrip("/")


class Borg(Peer):
    name = "borg"
    needs = "borg"
    does = "encrypts, compresses (lz4), syncs each segment of a backup, keeps a history; a restore is not synced"
    syncs = frozenset({"first", "idle", "changed"})

    def prepare(self, place: Place) -> None:
        run(place, "borg", "init", "-e", "repokey-blake2", str(place.kept))

    def command(self, place: Place, step: Step) -> list[str]:
        if step == "restore":
            return ["borg", "extract", f"{place.kept}::changed"]
        return ["borg", "create", f"{place.kept}::{step}", str(place.source)]

    def restored(self, place: Place) -> Path:
        return place.back / str(place.source).lstrip("/")


class Rsync(Peer):
    name = "rsync"
    needs = "rsync"
    does = "copies: no encryption, no history, no sync of its own"

    def command(self, place: Place, step: Step) -> list[str]:
        one, other = (place.kept, place.back) if step == "restore" else (place.source, place.kept)
        return ["rsync", "-a", "--delete", f"{one}/", f"{other}/"]


class Rclone(Peer):
    name = "rclone"
    needs = "rclone"
    does = "encrypts contents and names (crypt): no history, no sync of its own, no links"

    def prepare(self, place: Place) -> None:
        secret = run(place, "rclone", "obscure", _PASSWORD).strip()
        conf = place.work / "rclone.conf"
        conf.write_text(f"[vault]\ntype = crypt\nremote = {place.kept}\npassword = {secret}\n")

    def command(self, place: Place, step: Step) -> list[str]:
        one, other = ("vault:", str(place.back)) if step == "restore" else (str(place.source), "vault:")
        many = ["--transfers", "16", "--checkers", "16", "--skip-links", "--quiet"]
        return ["rclone", "sync", one, other, "--config", str(place.work / "rclone.conf"), *many]


def run(place: Place, *command: str) -> str:
    """Run what is not measured, and return what it prints. Raises: subprocess.CalledProcessError."""
    env = {**os.environ, **place.env}
    done = subprocess.run(command, cwd=place.work, env=env, capture_output=True, text=True, check=True)
    return done.stdout


def _state(place: Place) -> list[str]:
    return ["--state", f"sqlite:///{place.work}/gateway.db", "--revocations", str(place.work / "revoked")]


_KROPOT = (sys.executable, "-m", "kropot")

PEERS: tuple[Peer, ...] = (
    KropotCli("kropotcli cbc", "aes-256-cbc"),
    KropotCli("kropotcli sc2", "sc2"),
    Restic(),
    Borg(),
    Rsync(),
    Rclone(),
)
