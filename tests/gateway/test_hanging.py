"""A file system may hang, lie about sizes and never rest: it costs those who ask for such a file, and nobody else."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
from msgspec.structs import replace

from kropot.gateway import restless
from kropot.gateway.sources import FolderSource, Seen
from tests.gateway.serve import PLAIN, SEALED, SETTLE_S, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BIG = os.urandom(300_000)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Served(tmp_path)
    for name, content in {"slow": b"slow", "small": b"small", "big": BIG}.items():
        (gateway.folder / name).write_bytes(content)
    time.sleep(2 * SETTLE_S)
    with gateway:
        yield gateway


# --- file systems that hang ---


def test_files_that_do_not_open_hold_up_no_list_no_token_and_no_other_content(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, goes_on, hanging = FolderSource.open, threading.Event(), threading.Semaphore(0)

    def opened(self: FolderSource, path: bytes) -> tuple[int, Seen]:
        if path == b"slow":
            hanging.release()
            goes_on.wait(60)
        return real(self, path)

    client = served.client()
    ids = client.ids()
    monkeypatch.setattr(FolderSource, "open", opened)
    asked = 12
    with ThreadPoolExecutor(asked) as pool:
        try:
            slow = [pool.submit(served_content, client.url, client.token, ids[b"slow"]) for _ in range(asked)]
            for _ in range(asked):
                assert hanging.acquire(timeout=30)
            assert set(client.ids()) == {b"slow", b"small", b"big"}
            assert client.content(ids[b"small"]).plain == b"small"
            assert client.content(ids[b"big"]).plain == BIG
            assert client.get(f"/secure-copy/file/{ids[b'small']}/submitdata").status_code == 200
            assert len(served.client().ids()) == 3, "another token"
            assert not any(each.done() for each in slow)
        finally:
            goes_on.set()
        assert {each.result() for each in slow} == {200}


def served_content(url: str, token: str, element: str) -> int:
    with requests.get(f"{url}/secure-copy/file/{element}/content", headers={"token": token}, timeout=60) as answer:
        return answer.status_code


def test_no_call_to_the_file_system_or_the_database_is_made_on_the_event_loop(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[tuple[str, str]] = Counter()

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*args: Any, **options: Any) -> Any:
            calls[name, threading.current_thread().name] += 1
            return real(*args, **options)

        monkeypatch.setattr(owner, name, watched)

    client = served.client()
    ids = client.ids()
    for name in ("open", "close", "read", "pread", "preadv", "fstat", "stat", "readlink", "scandir", "unlink", "mkdir"):
        watch(os, name)
    for name in ("read", "write"):
        watch(type(served.server.service.state), name)
    (served.folder / "small").write_bytes(b"other")
    time.sleep(2 * SETTLE_S)
    for made in (client, served.client(SEALED), served.client(PLAIN)):
        here = made.ids()
        for path in (b"small", b"big"):
            made.content(here[path])
            made.content(here[path], headers={"Range": "bytes=0-9"})
            made.session.head(f"{made.url}/secure-copy/file/{here[path]}/content", timeout=20)
            made.get(f"/secure-copy/file/{here[path]}/submitdata")
    (served.folder / "slow").unlink()
    assert client.get(f"/secure-copy/file/{ids[b'slow']}/content").status_code == 404
    assert client.get(f"/secure-copy/file/{ids[b'slow']}/submitdata").status_code == 404
    assert {name for name, _ in calls} >= {"open", "close", "pread", "fstat", "read"}
    assert not [name for name, thread in calls if thread == "gateway"], calls


# --- sizes that are not true ---


@pytest.mark.parametrize("told", [0, 100_000])
@pytest.mark.parametrize("spec", [SEALED, PLAIN], ids=["sealed", "plain"])
def test_a_file_with_more_bytes_than_its_size_tells_gives_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int, spec: dict[str, Any]
) -> None:
    """Whole bodies of the told size would be believed: nothing else in the protocol shows that bytes are missing."""

    def seen(found: os.stat_result) -> Seen:
        looks = real(found)
        return replace(looks, size=min(told, looks.size))

    from kropot.gateway import describing, sameness, sources

    real = sources.seen
    for module in (sources, describing, sameness):
        monkeypatch.setattr(module, "seen", seen)
    monkeypatch.setattr(Seen, "is_of", lambda looks, found: seen(found) == looks)
    gateway = Served(tmp_path)
    (gateway.folder / "more").write_bytes(BIG)
    (gateway.folder / "true").write_bytes(b"")
    time.sleep(2 * SETTLE_S)
    with gateway:
        client = gateway.client(spec)
        ids = client.ids()
        assert client.content(ids[b"true"]).plain == b""
        with pytest.raises((requests.RequestException, AssertionError)):
            client.content(ids[b"more"])
        forms = {entry.id: client.form(entry) for entry in client.page(limit=10).entries}
        assert "sha256" not in forms[ids[b"more"]]


# --- files that never rest ---


class Clock:
    """The gateway's clock, which the test sets forward."""

    def __init__(self) -> None:
        self.ahead_s = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_s * 1_000_000_000


def test_a_file_that_never_rests_is_offered_as_it_is_after_a_while_and_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    gateway = Served(tmp_path, clock_ns=clock)
    with gateway:
        service = gateway.server.service
        # So long after a write, a file still counts as written: as if somebody wrote to it all the time.
        monkeypatch.setattr(service.catalogue, "_settle_ns", 10**15)
        (gateway.folder / "log").write_bytes(b"line\n" * 3)
        client = gateway.client()
        assert service.catalogue.scan().unsettled == 1
        assert client.ids() == {}
        clock.ahead_s += restless.RESTLESS_NS // 1_000_000_000 - 60
        assert service.catalogue.scan().unsettled == 1
        clock.ahead_s += 120
        assert service.catalogue.scan().restless == 1
        [entry] = client.page(limit=10).entries
        assert (entry.size, entry.etag) == (None, None), "nothing is promised about its bytes"
        form = client.form(entry)
        assert form["restless"] is True
        assert not {"size", "sha256"} & set(form)
        with (gateway.folder / "log").open("ab") as file:
            first = client.content(entry.id)
            file.write(b"more\n")
        second = client.content(entry.id)
        assert (first.plain, second.plain) == (b"line\n" * 3, b"line\n" * 3 + b"more\n")
        assert first.iv != second.iv
        assert client.content(entry.id).iv != second.iv, "each download is sealed under a nonce of its own"
        assert not {"etag", "accept-ranges"} & set(second.response.headers)
        # It is offered again now and then, and not at every scan.
        assert service.catalogue.scan().restless == 0
        clock.ahead_s += restless.OFFER_EVERY_S
        assert service.catalogue.scan().restless == 1
        later = client.page(limit=10).entries[0]
        assert later.date > entry.date
        # Once it rests, it is a version like any other.
        clock.ahead_s += 2_000_000
        assert service.catalogue.scan().changed == 1
        [settled] = client.page(limit=10).entries
        assert settled.etag is not None
        assert "restless" not in client.form(settled)
        assert client.content(settled.id).sealed == client.content(settled.id).sealed


def test_a_file_that_never_rests_is_sealed_by_sc2_as_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with Served(tmp_path, clock_ns=clock) as gateway:
        catalogue = gateway.server.service.catalogue
        monkeypatch.setattr(catalogue, "_settle_ns", 10**15)
        (gateway.folder / "log").write_bytes(b"line\n" * 3)
        catalogue.scan()
        clock.ahead_s += restless.RESTLESS_NS // 1_000_000_000 + 60
        assert catalogue.scan().restless == 1
        client = gateway.vault_client()
        entry, listed = client.listed()[b"log"]
        assert (entry.size, entry.etag) == (None, None)
        first = client.object(entry.id)
        with (gateway.folder / "log").open("ab") as file:
            file.write(b"x" * 100_000)
        second = client.object(entry.id)
        assert (first.plain, second.plain) == (b"line\n" * 3, b"line\n" * 3 + b"x" * 100_000)
        assert first.header == second.header == listed.header, "a reader finds the version that the list names"
        assert (second.form.size, second.form.sha256) == (100_015, None)
        assert not {"etag", "accept-ranges"} & set(second.response.headers)


def test_a_file_that_rests_now_and_then_is_not_restless() -> None:
    tracker = restless.Restless(after_ns=100)
    assert not tracker.is_offered(b"log", None, 0)
    tracker.begin_scan()
    assert not tracker.is_offered(b"log", None, 99)
    tracker.rests(b"log")
    tracker.begin_scan()
    assert not tracker.is_offered(b"log", None, 200)
    tracker.begin_scan()
    assert tracker.is_offered(b"log", None, 300)
    # A scan that did not meet it unsettled begins anew.
    tracker.begin_scan()
    tracker.begin_scan()
    assert not tracker.is_offered(b"log", None, 500)
