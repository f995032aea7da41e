"""Who is measured: the whole program, its transfer engines alone, and the downloaders that people know.

Every command fetches the same files from the same nginx into a fresh folder. Only `kropotcli collect` lists through the
protocol, hashes, syncs and keeps a ledger; rclone lists nginx's index; the others are given the addresses.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.collect.dataset import DataSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to fetch, and where to: `out` for the files, `work` for everything else."""

    data: DataSet
    url: str
    out: Path
    work: Path

    def content_urls(self) -> list[str]:
        """Return the address of every content."""
        return [f"{self.url}/secure-copy/file/{self.data.id_of(n)}/content" for n in range(self.data.files)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One way to fetch; `needs` is the program that must be installed. `durable` says that it syncs by itself."""

    name: str
    needs: str | None
    durable: bool
    command: Callable[[Task], list[str]]

    @property
    def missing(self) -> bool:
        """Whether it cannot be run here."""
        return self.needs is not None and shutil.which(self.needs) is None


def _collect(task: Task) -> list[str]:
    (task.work / "token").write_text("bench-token\n")
    (task.work / "token").chmod(0o600)
    return [
        str(Path(sys.executable).with_name("kropotcli")),
        *("--token-file", str(task.work / "token"), "--server-url", task.url, "--storage-path", str(task.out)),
        *("--db-string", f"sqlite:///{task.work}/ledger.db", "--instance-name", "bench", "collect", "--once"),
    ]


def _engine(kind: str) -> Callable[[Task], list[str]]:
    def command(task: Task) -> list[str]:
        return [sys.executable, "-m", "tests.bench.collect.pipeline", kind, task.data.name, task.url, str(task.out)]

    return command


def _rclone(task: Task) -> list[str]:
    return [
        *("rclone", "copy", ":http:", str(task.out), "--http-url", f"{task.url}/files/", "--http-no-head"),
        *("--transfers", "16", "--checkers", "16", "--config", "/dev/null", "--quiet"),
    ]


def _wget(task: Task) -> list[str]:
    # Every content is called "content": wget keeps them apart by their folders.
    (task.work / "urls").write_text("".join(f"{url}\n" for url in task.content_urls()))
    return ["wget", "-q", "-x", "-nH", "-i", str(task.work / "urls"), "-P", str(task.out)]


def _curl(task: Task) -> list[str]:
    lines = (f'url = "{url}"\noutput = "{task.out}/{number:08d}"\n' for number, url in enumerate(task.content_urls()))
    (task.work / "config").write_text("".join(lines))
    return ["curl", "-s", "--parallel", "--parallel-max", "16", "-K", str(task.work / "config")]


def _aria2(task: Task) -> list[str]:
    lines = (f"{url}\n  out={number:08d}\n" for number, url in enumerate(task.content_urls()))
    (task.work / "input").write_text("".join(lines))
    return [
        *("aria2c", "-q", "-i", str(task.work / "input"), "-d", str(task.out), "-j", "16", "-x", "1"),
        *("--file-allocation=none", "--auto-save-interval=0", "--no-conf"),
    ]


def _requests(task: Task) -> list[str]:
    (task.work / "urls").write_text("".join(f"{url}\n" for url in task.content_urls()))
    return [sys.executable, "-m", "tests.bench.collect.plain_requests", str(task.work / "urls"), str(task.out)]


PEERS = (
    Peer(name="kropotcli collect", needs=None, durable=True, command=_collect),
    Peer(name="curl engine + objects", needs=None, durable=True, command=_engine("curl")),
    Peer(name="plain engine + objects", needs=None, durable=True, command=_engine("plain")),
    Peer(name="rclone", needs="rclone", durable=False, command=_rclone),
    Peer(name="wget", needs="wget", durable=False, command=_wget),
    Peer(name="curl --parallel", needs="curl", durable=False, command=_curl),
    Peer(name="aria2c", needs="aria2c", durable=False, command=_aria2),
    Peer(name="requests", needs=None, durable=False, command=_requests),
)
