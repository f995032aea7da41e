"""Fetching in bulk over HTTP: what came whole is kept, the rest is asked for again, and nothing can hold it up."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from kropot.collect.transfer.bulk import BulkFetcher
from kropot.collect.transfer.engine import Server
from kropot.collect.transfer.prefetch import PACK_BYTES, PrefetchThreads
from kropot.collect.transfer.process import TransferLostError, TransferProcess
from kropot.objects.directory import DirectoryObjects
from kropot.objects.memory import MemoryDisk, MemoryObjects
from kropot.securecopy.bulkwire import MAX_ANSWER, MAX_CONTENT, MAX_ELEMENTS, MEDIA_TYPE, PATH, end_frame
from tests.kropot.scripted import Asked, Hang, ScriptedServer, Wait
from tests.kropot.test_bulkread import frame, wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from kropot.collect.transfer.prefetch import PrefetchAnswers, PrefetchEngine
    from kropot.securecopy.bulkread import BulkWanted
    from tests.kropot.scripted import Part

HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE}\r\n"


def asked_for(asked: Asked) -> list[int]:
    return [int(id_[1:]) for id_, _ in json.loads(asked.body)["elements"]]


def stream(asked: Asked) -> bytes:
    """The right answer: the places of the elements in this request count from 0."""
    numbers = asked_for(asked)
    frames = [frame(at, id=f"e{number}", etag=f'"t{number}"') for at, number in enumerate(numbers)]
    return b"".join(frames) + end_frame(len(numbers))


def with_length(body: bytes) -> bytes:
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + coded + b"0\r\n\r\n"


def server_at(url: str, silence_s: float = 5) -> Server:
    return Server(base_url=url, headers={"token": "t", "User-Agent": "tests"}, silence_s=silence_s)


def numbers_of(fetcher: BulkFetcher, orders: list[BulkWanted]) -> list[int]:
    return [content.at for content in fetcher.fetch(orders)]


def test_contents_come_over_one_connection_however_the_body_is_framed() -> None:
    def script(asked: Asked) -> list[Part]:
        body = stream(asked)
        return [with_length(body) if asked.earlier == 0 else chunked(body, [0, 1, 7, 4096][asked.earlier])]

    with ScriptedServer(script) as server:
        fetcher = BulkFetcher(server_at(server.url))
        for _ in range(4):
            assert numbers_of(fetcher, [wanted(at) for at in range(5)]) == [0, 1, 2, 3, 4]
        fetcher.close()
        assert server.connections == 1
        assert {asked.path for asked in server.requests} == {PATH}


def test_no_request_asks_for_too_much() -> None:
    with ScriptedServer(lambda asked: [with_length(stream(asked))]) as server:
        fetcher = BulkFetcher(server_at(server.url))
        assert len(numbers_of(fetcher, [wanted(at) for at in range(MAX_ELEMENTS + 1)])) == MAX_ELEMENTS + 1
        assert [len(asked_for(asked)) for asked in server.requests] == [MAX_ELEMENTS, 1]
        full = MAX_ANSWER // MAX_CONTENT
        assert numbers_of(fetcher, [wanted(at, MAX_CONTENT) for at in range(full + 1)]) == []
        assert [len(asked_for(asked)) for asked in server.requests[2:]] == [full, 1]


def test_a_stream_that_breaks_keeps_what_was_whole_and_the_rest_is_asked_for_once() -> None:
    def script(asked: Asked) -> list[Part]:
        whole = with_length(stream(asked))
        return [whole[: len(whole) // 2], Hang()]

    with ScriptedServer(script) as server:
        fetcher = BulkFetcher(server_at(server.url))
        came = numbers_of(fetcher, [wanted(at) for at in range(64)])
        assert came == list(range(len(came)))
        assert 32 < len(came) < 64
        first, second = map(asked_for, server.requests)
        assert second[0] in range(20, 40)
        assert first[-1] == second[-1] == 63


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 405 Not Allowed\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
        f"{HEAD}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi".encode(),
        f"{HEAD}\r\n".encode() + b"\xff" * 100,
        with_length(b"\xff" * 100),
        chunked(frame(1), 7),
    ],
)
def test_a_server_that_does_not_know_it_after_all_is_not_asked_again(answer: bytes) -> None:
    with ScriptedServer(lambda _: [answer, Hang()]) as server:
        fetcher = BulkFetcher(server_at(server.url))
        for _ in range(3):
            assert numbers_of(fetcher, [wanted(0), wanted(1)]) == []
        assert fetcher.is_off
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, 302])
def test_a_refusal_or_trouble_brings_nothing_this_time(status: int) -> None:
    head = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nLocation: /elsewhere\r\n\r\n".encode()
    with ScriptedServer(lambda asked: [with_length(stream(asked)) if asked.earlier else head]) as server:
        fetcher = BulkFetcher(server_at(server.url))
        assert numbers_of(fetcher, [wanted(0)]) == []
        assert numbers_of(fetcher, [wanted(0)]) == [0]
        assert {asked.path for asked in server.requests} == {PATH}


def dripping() -> Iterator[Part]:
    yield f"{HEAD}Content-Length: 100000\r\n\r\n".encode() + frame(0)
    while True:
        yield b"\0"
        yield Wait(0.02)


@pytest.mark.parametrize(
    "script",
    [
        lambda _: [f"{HEAD}Content-Length: 100\r\n\r\n".encode() + frame(0), Wait(60)],
        lambda _: dripping(),
    ],
    ids=["silent", "dripping"],
)
def test_a_silent_or_dripping_server_holds_nobody(script: Callable[[Asked], Iterable[Part]]) -> None:
    with ScriptedServer(script) as server:
        fetcher = BulkFetcher(server_at(server.url, silence_s=0.3))
        began = time.monotonic()
        assert numbers_of(fetcher, [wanted(0), wanted(1)]) == [0]
        assert time.monotonic() - began < 5


def test_a_whole_answer_has_a_time_limit() -> None:
    def script(asked: Asked) -> Iterator[Part]:
        body = with_length(stream(asked))
        for at in range(0, len(body), 2000):
            yield body[at : at + 2000]
            yield Wait(0.1)

    with ScriptedServer(script) as server:
        fetcher = BulkFetcher(server_at(server.url), longest_s=0.4)
        assert 0 < len(numbers_of(fetcher, [wanted(at) for at in range(400)])) < 400


# --- making it durable ---


def settled(engine: PrefetchEngine, orders: int) -> PrefetchAnswers:
    answers: PrefetchAnswers = {}
    deadline = time.monotonic() + 20
    while len(answers) < orders and time.monotonic() < deadline:
        answers.update(engine.poll(0.1))
    return answers


def test_what_comes_is_published_and_answered_by_number() -> None:
    disk = MemoryDisk()
    with ScriptedServer(lambda asked: [with_length(stream(asked))]) as server:
        threads = PrefetchThreads(server_at(server.url), MemoryObjects("tests", disk))
        threads.submit(7, [wanted(0), wanted(1)])
        threads.submit(8, [wanted(2, size=99)])
        assert threads.poll(0.2) == {} or not disk.objects
        threads.flush()
        answers = settled(threads, 2)
        threads.close()
    assert [one.at for one in answers[7]] == [0, 1]
    assert answers[8] == []
    assert {one.sha256 for one in answers[7]} == set(disk.objects)
    assert threads.in_flight == 0


def test_the_last_contents_fill_a_pack_too(tmp_path: Path) -> None:
    size = 256 << 10
    body = b"\xfe" * (size - 4)

    def script(asked: Asked) -> list[Part]:
        numbers = asked_for(asked)
        frames = [
            frame(at, body + b"%4d" % number, id=f"e{number}", etag=f'"t{number}"') for at, number in enumerate(numbers)
        ]
        return [with_length(b"".join(frames) + end_frame(len(numbers)))]

    store = DirectoryObjects(tmp_path, "tests")
    count = 2 * PACK_BYTES // size + 30
    with ScriptedServer(script) as server:
        threads = PrefetchThreads(server_at(server.url), store)
        for first in range(0, count, 10):
            threads.submit(first, [wanted(at, size) for at in range(first, min(first + 10, count))])
        threads.flush()
        answers = settled(threads, -(-count // 10))
        threads.close()
    store.close()
    came = [one for each in answers.values() for one in each]
    assert len(came) == count
    assert None not in {one.pack for one in came}


def test_a_pack_waits_only_for_what_is_not_ordered(tmp_path: Path) -> None:
    size, count = 512 << 10, PACK_BYTES // (512 << 10) + 2
    body = b"\xfe" * (size - 4)
    is_packed = threading.Event()

    def script(asked: Asked) -> list[Part]:
        numbers = asked_for(asked)
        frames = [frame(at, body + b"%4d" % n, id=f"e{n}", etag=f'"t{n}"') for at, n in enumerate(numbers)]
        if numbers[0] == count:
            assert is_packed.wait(10)
        return [with_length(b"".join(frames) + end_frame(len(numbers)))]

    store = DirectoryObjects(tmp_path, "tests")
    with ScriptedServer(script) as server:
        threads = PrefetchThreads(server_at(server.url), store)
        for first in (0, count):
            threads.submit(first, [wanted(at, size) for at in range(first, first + count)])
        deadline = time.monotonic() + 10
        while not any(tmp_path.glob("packs/*/*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        packs = list(tmp_path.glob("packs/*/*"))
        is_packed.set()
        threads.flush()
        answers = settled(threads, 2)
        threads.close()
    store.close()
    assert len(packs) == 1
    assert [len(answers[first]) for first in (0, count)] == [count, count]


def test_no_room_leaves_the_contents_to_those_who_can_say_so() -> None:
    disk = MemoryDisk()
    disk.capacity = 1000
    with ScriptedServer(lambda asked: [with_length(stream(asked))]) as server:
        threads = PrefetchThreads(server_at(server.url), MemoryObjects("tests", disk), keep_free=999)
        threads.submit(1, [wanted(0), wanted(1)])
        threads.flush()
        assert settled(threads, 1) == {1: []}
        threads.close()
    assert not disk.objects


def unused(_: DirectoryObjects) -> None:
    raise AssertionError("no content is fetched by itself")


@pytest.mark.usefixtures("forking")
def test_orders_to_a_process_that_is_gone_say_so(tmp_path: Path) -> None:
    store = DirectoryObjects(tmp_path, "tests")
    store.lock()
    process = TransferProcess(
        partial(unused, store), store, partial(PrefetchThreads, server_at("http://127.0.0.1:9"), store)
    )
    prefetching = process.prefetching
    prefetching.submit(1, [wanted(0)])
    prefetching.flush()
    assert settled(prefetching, 1) == {1: []}
    process.end()
    with pytest.raises(TransferLostError):
        prefetching.submit(2, [wanted(0)])
    store.close()
