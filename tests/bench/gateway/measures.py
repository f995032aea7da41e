"""What is measured of the gateway: scans, pages, and contents pulled over loopback."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pycurl
import structlog

from kropot.gateway.births import Births
from kropot.gateway.catalogue import Catalogue
from kropot.gateway.entries import Sealings
from kropot.gateway.keptforms import KeptForms
from kropot.gateway.keys import MasterKey
from kropot.gateway.listing import PageWanted, build_page
from kropot.gateway.server import GatewayServer
from kropot.gateway.sources import FolderSource, NearbyFiles, ScannedFile, Seen, seen
from kropot.gateway.state import open_state
from kropot.gateway.telling import Tellings
from kropot.gateway.tokens import TokenBook
from kropot.sc2.layout import MEDIA_TYPE
from kropot.securecopy.bulkwire import MAX_CONTENT, MAX_ELEMENTS, PATH, encode_request, end_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEALED = {"roles": ["securecopy.stream"], "expires": "never", "data": {"secureCopyEncryptionMethod": "aes-256-cbc"}}
STRETCHED = {
    **SEALED,
    "data": {
        "secureCopyEncryptionKey": "a passphrase of a person",
        "secureCopyEncryptionMethod": "aes-256-cbc",
        "secureCopyDigestMethod": "sha512",
        "secureCopyDigestRounds": 6000,
        "secureCopyDigestSalt": "salt",
    },
}
VAULTED = {"roles": ["securecopy.stream"], "expires": "never", "data": {"secureCopyEncryptionMethod": "sc2"}}
CONNECTIONS = 16


class NearbyMadeUp(NearbyFiles):
    """Opens files that take no disk."""

    def open(self, path: bytes) -> tuple[int, Seen]:
        return self._tree.open(path)


class MadeUp(FolderSource):
    """A folder of any size that takes no disk: 1,000 files in each of its folders."""

    def __init__(self, files: int) -> None:
        self.files = files

    def walk(self) -> Iterator[ScannedFile]:
        looks = seen(Path(__file__).stat())
        for number in range(self.files):
            yield ScannedFile(path=b"folder-%d/file-%d.txt" % divmod(number, 1000), seen=looks)

    def mark(self) -> bytes:
        return b"made up"

    def device_number(self) -> int:
        return 1

    def has_entry(self, path: bytes) -> bool:  # noqa: ARG002 - the signature of the real one
        return True

    def open(self, path: bytes) -> tuple[int, Seen]:  # noqa: ARG002 - the signature of the real one
        return os.open(__file__, os.O_RDONLY), seen(Path(__file__).stat())

    def nearby(self) -> NearbyFiles:
        return NearbyMadeUp(self)

    def open_entry(self, path: bytes) -> int:  # noqa: ARG002 - the signature of the real one
        # Any regular file will do: what it is described by is the same for all.
        return os.open(__file__, os.O_RDONLY)


def scanned(files: int, place: str) -> dict[str, Any]:
    """Scan twice, list everything, and tell how long it took and what it held in memory."""
    state = open_state(f"sqlite:///{place}/{files}.db", create=True)
    catalogue = Catalogue(state, MadeUp(files), hash_up_to=-1)
    first, again = timed(catalogue.scan), timed(catalogue.scan)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    master, source = MasterKey(bytes(32)), bytes(16)
    book, sealings = TokenBook(state, master), Sealings(source)
    tellings = Tellings(state, sealings, Births(state, master, book.vaults, source, time.time_ns), KeptForms(master))
    pages = {}
    made, vaulted = book.create(SEALED).token, book.create(VAULTED).token
    for name, token in (
        ("made key", made),
        ("made key again", made),
        ("6,000 rounds", book.create(STRETCHED).token),
        ("sc2", vaulted),
        ("sc2 again", vaulted),
    ):
        pages[name] = timed(
            lambda token=token: build_page(state, tellings, token, PageWanted(None, 256, ""))  # type: ignore[misc]
        )
    middle = state.source().last_date or 0
    pages["made key, in the middle"] = timed(
        lambda: build_page(state, tellings, made, PageWanted(middle - files // 512, 256, ""))
    )
    return {
        "files": files,
        "first scan, files/s": round(files / first),
        "scan again, files/s": round(files / again),
        "peak memory, MiB": memory,
        "pages of 256, ms": {name: round(seconds * 1000, 1) for name, seconds in pages.items()},
    }


def served(count: int, size: int, place: Path) -> list[dict[str, Any]]:
    """Serve real files and pull them all, once with each sealing. The server is a process of its own."""
    folder = place / f"{count}x{size}"
    for number in range(count):
        (folder / str(number // 1000)).mkdir(parents=True, exist_ok=True)
        with (folder / str(number // 1000) / str(number)).open("wb") as file:
            for at in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - at)))
    found = []
    ways = (pull, pull_in_bulk) if size < MAX_CONTENT else (pull,)
    for spec, way in itertools.product((SEALED, VAULTED), ways):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(_pulled, folder, count, size, spec, way).result())
    return found


def _pulled(
    folder: Path, count: int, size: int, spec: dict[str, Any], way: Callable[[str, str, Any], None]
) -> dict[str, Any]:
    method = spec["data"]["secureCopyEncryptionMethod"]
    quiet()
    with GatewayServer(folder, f"sqlite:///{folder}.{method}.{way.__name__}.db", bytes(32)) as gateway:
        scan = time.process_time()
        token, _ = gateway.create_token(spec)
        parent, child = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=way, args=(gateway.url, token, child))
        process.start()
        parent.recv()
        listing = time.process_time()
        seconds, pulled = parent.recv()
        serving = time.process_time()
        process.join()
    return {
        "sealing": method,
        "by": "bulk" if way is pull_in_bulk else "one request a file",
        "files": count,
        "CPU s of the server": {
            "start and scan": round(scan, 2),
            "lists": round(listing - scan, 2),
            "contents": round(serving - listing, 2),
        },
        "bytes each": size,
        "files/s": round(pulled / seconds, 1),
        "MB/s": round(pulled * size / seconds / 1e6, 1),
        "peak memory of the server, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def listed(url: str, token: str) -> Iterator[dict[str, Any]]:
    """Yield all entries."""
    since = ""
    while True:
        page = fetch(f"{url}/secure-copy/file/list?limit=8191&since={since}", token)
        entries = [json.loads(line) for line in page.partition(b"\n\n")[2].splitlines()]
        if not entries:
            return
        yield from entries
        since = f"@{entries[-1]['date']}"


def pull_in_bulk(url: str, token: str, answer: Any) -> None:
    """List everything, then fetch every content, MAX_ELEMENTS in a request, and say how long the fetching took."""
    asked = [(entry["id"], entry["etag"]) for entry in listed(url, token) if entry.get("etag")]
    answer.send("listed")
    began, taken = time.perf_counter(), 0
    for at in range(0, len(asked), MAX_ELEMENTS):
        some = asked[at : at + MAX_ELEMENTS]
        body = fetch(url + PATH, token, encode_request(some))
        if not body.endswith(end_frame(len(some))):
            raise RuntimeError("the answer was cut")
        taken += len(some)
    answer.send((time.perf_counter() - began, taken))


def pull(url: str, token: str, answer: Any) -> None:
    """List everything, then fetch every content, CONNECTIONS at a time, and say how long the fetching took."""
    ids = [entry["id"] for entry in listed(url, token)]
    answer.send("listed")
    began = time.perf_counter()
    multi, waiting, running, done = pycurl.CurlMulti(), list(ids), 0, 0
    free = [handle(token) for _ in range(CONNECTIONS)]
    while waiting or running:
        while waiting and free:
            one = free.pop()
            one.setopt(pycurl.URL, f"{url}/secure-copy/file/{waiting.pop()}/content")
            multi.add_handle(one)
            running += 1
        multi.perform()
        _, finished, failed = multi.info_read()
        if failed:
            raise RuntimeError(failed[0][2])
        for one in finished:
            if one.getinfo(pycurl.RESPONSE_CODE) != 200:
                raise RuntimeError(one.getinfo(pycurl.RESPONSE_CODE))
            multi.remove_handle(one)
            free.append(one)
            running -= 1
            done += 1
        if not finished:
            multi.select(1.0)
    answer.send((time.perf_counter() - began, done))


def handle(token: str) -> pycurl.Curl:
    """Return a handle that throws away what it gets."""
    one = pycurl.Curl()
    one.setopt(pycurl.HTTPHEADER, [f"token: {token}", f"Accept: {MEDIA_TYPE}, */*"])
    one.setopt(pycurl.WRITEFUNCTION, lambda _: None)
    one.setopt(pycurl.BUFFERSIZE, 512 * 1024)
    return one


def fetch(url: str, token: str, body: bytes | None = None) -> bytes:
    """Return one answer, to a POST if there is a body."""
    parts: list[bytes] = []
    one = handle(token)
    if body is not None:
        one.setopt(pycurl.POSTFIELDS, body)
        one.setopt(pycurl.HTTPHEADER, [f"token: {token}", f"Accept: {MEDIA_TYPE}, */*", "Expect:"])
    one.setopt(pycurl.WRITEFUNCTION, parts.append)
    one.setopt(pycurl.URL, url)
    one.perform()
    return b"".join(parts)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that it took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def quiet() -> None:
    """Keep the scans' log lines out of the figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
