"""What can go wrong between this program and a bucket: cut, slow and killed uploads, and what servers refuse."""

from __future__ import annotations

import hashlib
import io
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from kropot import processes
from kropot.durable.errors import StorageError, StorageFullError
from kropot.objects.instance import InstanceLock
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published, PublishError
from kropot.objects.stores.objects import RemoteObjects, object_key
from kropot.objects.stores.retry import PassingError, Retries, SlowDownError
from kropot.objects.stores.s3_settings import BucketAccess
from kropot.objects.stores.s3_uploads import BucketUploads
from kropot.secret import Secret
from tests.faults.proxy import Proxy, proxied
from tests.remote_stores import FEW, KEY_ID, SECRET, BucketServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.remote_stores import Servers

pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture(autouse=True)
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_is_forbidden", False)


@pytest.fixture
def server(store_servers: Servers) -> BucketServer:
    found = store_servers.get("seaweedfs")
    assert isinstance(found, BucketServer)
    return found


@pytest.fixture
def proxy(server: BucketServer) -> Iterator[Proxy]:
    with proxied(server.port) as proxy:
        yield proxy


@pytest.fixture
def prefix() -> str:
    return f"faults/{secrets.token_hex(6)}"


def objects(files: Any, tmp_path: Path, rule: PackRule | None = None) -> RemoteObjects:
    return RemoteObjects(files, "one", lock=InstanceLock(str(tmp_path), "one"), pack=rule)


def put(store: RemoteObjects, *contents: bytes) -> list[Published | PublishError]:
    batch = []
    for content in contents:
        upload = store.stage()
        upload.write(content)
        batch.append(upload.finish())
    return store.publish(batch)


def uploads(server: BucketServer, prefix: str) -> BucketUploads:
    from kropot.objects.stores.address import BucketAddress

    access = BucketAccess(endpoint=server.endpoint, region="us-east-1", key_id=Secret(KEY_ID), secret=Secret(SECRET))
    return BucketUploads(BucketAddress("bucket", prefix), access)


# --- requests --------------------------------------------------------------------------------------------------------


def test_20000_small_files_take_at_most_30_puts(
    server: BucketServer, proxy: Proxy, prefix: str, tmp_path: Path
) -> None:
    store = objects(server.files(prefix, endpoint=proxy.endpoint), tmp_path)
    dice = random.Random(1)
    contents = [dice.randbytes(dice.randrange(1, 12_000)) for _ in range(20_000)]
    waiting, size, done = [], 0, 0
    for content in [*contents, None]:
        # As `PrefetchThreads` hands them over: about 8 MiB together.
        if content is not None:
            waiting.append(store.stage_whole(content, hashlib.sha256(content).digest()))
            size += len(content)
        if content is None or size >= 8 << 20:
            outcomes = store.publish(waiting)
            assert all(isinstance(one, Published) and one.place is not None for one in outcomes)
            done, waiting, size = done + len(outcomes), [], 0
    assert done == 20_000
    assert 1 < proxy.count("PUT") <= 30
    with store.open(hashlib.sha256(contents[12_345]).digest()) as file:
        assert file.read() == contents[12_345]
    store.close()


# --- cut, slow, killed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [200_000, 40 << 20])
def test_upload_that_is_cut_is_sent_again(
    server: BucketServer, proxy: Proxy, prefix: str, tmp_path: Path, size: int
) -> None:
    store = objects(server.files(prefix, endpoint=proxy.endpoint), tmp_path, PackRule(below=0))
    store.lock()
    proxy.cut_after, proxy.cuts = size // 4, 2
    content = random.Random(size).randbytes(size)
    (outcome,) = put(store, content)
    assert isinstance(outcome, Published)
    assert proxy.cuts == 0
    with store.open(outcome.sha256) as file:
        assert file.read() == content
    store.close()


def test_upload_in_parts_that_never_ends_is_aborted_and_nothing_is_seen_of_it(
    server: BucketServer, proxy: Proxy, prefix: str, tmp_path: Path
) -> None:
    files = server.files(prefix, endpoint=proxy.endpoint)
    store = objects(files, tmp_path)
    store.lock()
    proxy.cut_after = 1 << 20
    (outcome,) = put(store, random.Random(1).randbytes(40 << 20))
    assert isinstance(outcome, PublishError)
    assert "the connection broke" in str(outcome.error)
    assert list(server.files(prefix).walk("objects")) == []
    assert list(uploads(server, prefix)._listed(prefix)) == []
    store.close()


def test_slow_connection_is_waited_for(server: BucketServer, proxy: Proxy, prefix: str, tmp_path: Path) -> None:
    store = objects(server.files(prefix, endpoint=proxy.endpoint), tmp_path)
    store.lock()
    proxy.rate = 2 << 20
    (outcome,) = put(store, bytes(3 << 20))
    assert isinstance(outcome, Published)
    store.close()


def test_store_that_is_away_is_an_error_and_back_again_is_none(
    server: BucketServer, proxy: Proxy, prefix: str, tmp_path: Path
) -> None:
    store = objects(server.files(prefix, endpoint=proxy.endpoint), tmp_path)
    (first,) = put(store, b"before")
    proxy.is_away = True
    (second,) = put(store, b"while it is away")
    assert isinstance(second, PublishError)
    assert "cannot be reached" in str(second.error)
    proxy.is_away = False
    (third,) = put(store, b"while it is away")
    assert isinstance(third, Published)
    with store.open(first.sha256) as file:
        assert file.read() == b"before"
    store.close()


KILLED = """
import os, sys
from pathlib import Path
from kropot.objects.opening import open_store
from kropot.objects.stores.address import parse_storage
store = open_store(parse_storage(sys.argv[1]), "one").objects()
upload = store.stage()
upload.write(bytes(48 << 20))
staged = upload.finish()
print("sending", flush=True)
store.publish([staged])
"""


def test_upload_of_a_killed_process_is_nothing_and_is_swept_a_day_later(
    server: BucketServer, proxy: Proxy, prefix: str, tmp_path: Path
) -> None:
    proxy.rate = 8 << 20
    env = {**os.environ, **server.env(), "AWS_ENDPOINT_URL": proxy.endpoint, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, server.address(prefix)], env=env, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"sending\n"
        end = time.monotonic() + 30
        while not (begun := list(uploads(server, prefix)._listed(prefix))) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert len(begun) == 1
    assert begun[0].key.endswith(object_key(hashlib.sha256(bytes(48 << 20)).digest()))
    files = server.files(prefix)
    assert list(files.walk("objects")) == []
    assert files.sweep("one") == 0  # somebody may be at it
    assert uploads(server, prefix).abort_old(older_than_s=-60) == 1
    assert list(uploads(server, prefix)._listed(prefix)) == []


# --- what servers refuse ---------------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, code: str, *, times: int = 1000, then: bytes = b"") -> Iterator[str]:
    """Run a server that refuses everything, and after so many times gives `then`."""
    left = [times]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            left[0] -= 1
            refused = left[0] >= 0
            body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode() if refused else then
            self.send_response(status if refused else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.md5(then, usedforsecurity=False).hexdigest()}"')
            self.send_header("Last-Modified", "Sun, 29 Nov 2026 18:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{served.server_address[1]}"
    finally:
        served.shutdown()
        served.server_close()
        thread.join()


REFUSALS = [
    (403, "RequestTimeTooSkewed", "the clocks of this machine and of the store differ too much", StorageError),
    (403, "SignatureDoesNotMatch", "does not accept these keys", StorageError),
    (403, "InvalidAccessKeyId", "does not accept these keys", StorageError),
    (403, "AccessDenied", "may list, read, write and delete", StorageError),
    (404, "NoSuchBucket", "there is no bucket bucket", StorageError),
    (403, "QuotaExceeded", "its quota is used up", StorageFullError),
    (507, "InsufficientStorage", "the store is full", StorageFullError),
    (507, "XMinioStorageFull", "the store is full", StorageFullError),
    (503, "SlowDown", "asks for fewer requests", SlowDownError),
    (429, "TooManyRequests", "asks for fewer requests", SlowDownError),
    (500, "InternalError", "an internal error", PassingError),
    (400, "WhateverElse", "the store answered WhateverElse", StorageError),
]


@pytest.mark.parametrize(("status", "code", "sentence", "kind"), REFUSALS, ids=[row[1] for row in REFUSALS])
def test_refusal_is_one_clear_sentence_without_a_secret(
    status: int, code: str, sentence: str, kind: type[StorageError]
) -> None:
    with answering(status, code) as endpoint:
        files = BucketServer(1).files("p", endpoint=endpoint, retries=Retries(attempts=1))
        # A head of what is not there has no answer with a reason: it is not there.
        heads = [] if status == 404 else [lambda: files.stat("a")]
        for ask in (lambda: files.put("a", b"1"), lambda: list(files.walk("")), *heads):
            with pytest.raises(StorageError) as caught:
                ask()
            said = str(caught.value)
            assert sentence in said
            assert type(caught.value) is kind
            assert said.count("\n") == 0
            assert SECRET not in said
            assert KEY_ID not in said


def test_store_that_asks_to_slow_down_for_a_while_is_asked_again() -> None:
    waits: list[float] = []
    retries = Retries(attempts=5, first_s=0.01, sleep=waits.append)
    with answering(503, "SlowDown", times=5, then=b"content") as endpoint:
        assert BucketServer(1).files("p", endpoint=endpoint, retries=retries).get("a") == b"content"
    assert waits
    assert all(0 < wait <= 0.2 for wait in waits)


def test_wrong_keys_are_told_by_a_real_server(server: BucketServer, prefix: str) -> None:
    files = server.files(prefix, secret="another-secret-of-this-test")
    for ask in (lambda: files.put("a", b"1"), lambda: files.stat("a")):
        with pytest.raises(StorageError, match=r"does not accept these keys \(SignatureDoesNotMatch\)"):
            ask()


def test_missing_bucket_is_told_by_a_real_server(server: BucketServer, prefix: str) -> None:
    files = server.files(prefix, bucket="no-such-bucket")
    for ask in (lambda: files.put("a", b"1"), lambda: files.get("a"), lambda: list(files.walk(""))):
        with pytest.raises(
            StorageError, match="there is no bucket no-such-bucket: create it, or correct --storage-path"
        ):
            ask()


def test_server_that_is_not_there_is_told() -> None:
    files = BucketServer(1).files("p", endpoint="http://127.0.0.1:1", retries=FEW)
    with pytest.raises(StorageError, match=r"cannot be reached .*check AWS_ENDPOINT_URL"):
        files.stat("a")


def test_object_that_the_store_did_not_keep_is_not_believed(
    server: BucketServer, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = server.files(prefix)
    store = objects(files, tmp_path)
    store.lock()
    import obstore

    real = obstore.put
    monkeypatch.setattr(obstore, "put", lambda client, key, data, **more: real(client, key, data[:-1] + b"?", **more))
    (outcome,) = put(store, b"as it was sent")
    assert isinstance(outcome, PublishError)
    assert "different bytes in the store than were sent" in str(outcome.error)
    monkeypatch.setattr(obstore, "put", lambda client, key, data, **more: real(client, key, data[:-1], **more))
    (outcome,) = put(store, b"as it was sent")
    assert isinstance(outcome, PublishError)
    assert "bytes in the store, but 14 were sent" in str(outcome.error)
    monkeypatch.undo()
    (outcome,) = put(store, b"as it was sent")
    assert isinstance(outcome, Published)
    assert outcome.set_aside is not None
    store.close()


def test_file_is_read_in_pieces_and_searched(server: BucketServer, prefix: str) -> None:
    from kropot.objects.stores.reading import RemoteReader

    files = server.files(prefix)
    content = random.Random(3).randbytes(3 << 20)
    files.put("a", content)
    reader = io.BufferedReader(RemoteReader(files, "a", len(content)))
    assert reader.read(10) == content[:10]
    assert reader.seek(-100, io.SEEK_END) == len(content) - 100
    assert reader.read() == content[-100:]
    reader.seek(1 << 20)
    assert reader.read() == content[1 << 20 :]
