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
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.bench.endtoend import bucket as buckets
from tests.bench.endtoend.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.bench.endtoend.bucket import Bucket

Step = Literal["first", "idle", "changed", "restore"]
STEPS: tuple[Step, ...] = ("first", "idle", "changed", "restore")

_PASSWORD = "of the bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The folder to back up, and where a peer may write: `kept` holds the backup, `back` what is restored.

    Peers with a bucket keep the backup there instead, below `prefix`. `database` is where the ledger is, if not in a
    file there, and `through` the URL under which the gateway is asked, if not its own.
    """

    source: Path
    work: Path
    in_bucket: Bucket | None = None
    database: str | None = None
    through: str | None = None

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
        passwords = dict.fromkeys(("RESTIC_PASSWORD", "BORG_PASSPHRASE", "KOPIA_PASSWORD"), _PASSWORD)
        keys = {} if self.in_bucket is None else self.in_bucket.env
        return {**dict.fromkeys(names, home), **passwords, **keys, "PYTHONDONTWRITEBYTECODE": ""}

    @property
    def bucket(self) -> Bucket:
        """The bucket. Raises: RuntimeError where none was started."""
        if self.in_bucket is None:
            raise RuntimeError("no bucket was started")
        return self.in_bucket

    @property
    def prefix(self) -> str:
        """What is this life's own in the bucket."""
        return f"{self.work.parent.name}/{self.work.name}"


class Peer:
    """One program; `does` says what it does beside copying. `syncs` names the steps that are durable at their end.

    `in_bucket` says that it keeps the backup in a bucket.
    """

    name = ""
    in_bucket = False
    needs: str | None = None
    does = ""
    syncs: frozenset[Step] = frozenset()

    @property
    def missing(self) -> bool:
        """Whether it cannot be run here."""
        return (self.needs is not None and shutil.which(self.needs) is None) or (
            self.in_bucket and not buckets.is_here()
        )

    def prepare(self, place: Place) -> None:
        """Make what the first backup needs. Raises: subprocess.CalledProcessError."""

    def command(self, place: Place, step: Step) -> list[str]:
        """Return what is measured; it runs in `place.back`."""
        raise NotImplementedError  # each kind of peer has its own

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

    def __init__(self, name: str, method: str, *, in_bucket: bool = False) -> None:
        self.name, self.method, self.in_bucket = name, method, in_bucket
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
        storage = f"s3://{place.bucket.name}/{place.prefix}" if self.in_bucket else str(place.kept)
        database = place.database or f"sqlite:///{place.work}/ledger.db"
        ledger = ("--db-string", database, "--storage-path", storage)
        if step == "restore":
            return [*_KROPOT, *ledger, "restore", "--key", str(place.work / "kit.json"), "--to", str(place.back)]
        url = place.through or f"http://127.0.0.1:{(place.work / 'port').read_text()}"
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
        run(place, "restic", "-r", self.repository(place), "init")

    def repository(self, place: Place) -> str:
        """Return what restic calls the place of its backup."""
        return str(place.kept)

    def command(self, place: Place, step: Step) -> list[str]:
        base = ["restic", "-r", self.repository(place), "-q"]
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
    program = "rclone"
    does = "encrypts contents and names (crypt): no history, no sync of its own, no links"

    def prepare(self, place: Place) -> None:
        secret = run(place, self.program, "obscure", _PASSWORD).strip()
        conf = place.work / "rclone.conf"
        vault = f"[vault]\ntype = crypt\nremote = {self.kept(place)}\npassword = {secret}\n"
        conf.write_text(self.remotes(place) + vault)

    def remotes(self, place: Place) -> str:  # noqa: ARG002 -- a folder needs none
        """Return the settings of what the encrypted remote lies on."""
        return ""

    def kept(self, place: Place) -> str:
        """Return what rclone calls the place of its backup."""
        return str(place.kept)

    def command(self, place: Place, step: Step) -> list[str]:
        one, other = ("vault:", str(place.back)) if step == "restore" else (str(place.source), "vault:")
        many = ["--transfers", "16", "--checkers", "16", "--skip-links", "--quiet"]
        return [self.program, "sync", one, other, "--config", str(place.work / "rclone.conf"), *many]


class ResticBucket(Restic):
    name = "restic s3"
    in_bucket = True

    def repository(self, place: Place) -> str:
        return f"s3:{place.bucket.endpoint}/{place.bucket.name}/{place.prefix}"


class RcloneBucket(Rclone):
    """The release that the tests use: Debian's own 1.60 cannot speak to any bucket."""

    name = "rclone s3"
    program = needs = str(Path(sys.executable).with_name("rclone"))
    in_bucket = True

    def remotes(self, place: Place) -> str:
        settings = {
            "type": "s3",
            "provider": "Other",
            "endpoint": place.bucket.endpoint,
            "access_key_id": place.bucket.key_id,
            "secret_access_key": place.bucket.secret,
        }
        return "[bucket]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())

    def kept(self, place: Place) -> str:
        return f"bucket:{place.bucket.name}/{place.prefix}"


class KopiaBucket(Peer):
    name = "kopia s3"
    needs = "kopia"
    does = "encrypts, packs small files, keeps a history; a restore is not synced"
    syncs = frozenset({"first", "idle", "changed"})
    in_bucket = True

    def prepare(self, place: Place) -> None:
        at, keys = f"{place.bucket.host}:{place.bucket.port}", place.bucket
        where = ["--bucket", keys.name, "--endpoint", at, "--disable-tls", "--prefix", f"{place.prefix}/"]
        access = ["--access-key", keys.key_id, "--secret-access-key", keys.secret]
        run(place, "kopia", "--no-progress", "repository", "create", "s3", *where, *access)

    def command(self, place: Place, step: Step) -> list[str]:
        if step == "restore":
            return ["kopia", "--no-progress", "restore", str(place.source), str(place.back)]
        return ["kopia", "--no-progress", "snapshot", "create", str(place.source)]


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
    KropotCli("kropotcli sc2 s3", "sc2", in_bucket=True),
    ResticBucket(),
    RcloneBucket(),
    KopiaBucket(),
)
