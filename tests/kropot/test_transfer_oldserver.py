"""Both engines against the simulator of the server of 2020: what it sends soundly is believed, and nothing else."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

import pytest

from kropot.collect.decide.inputs import NotReceived, Receipt, Received
from kropot.collect.transfer.curl import CurlEngine
from kropot.collect.transfer.engine import Server, TransferEngine
from kropot.collect.transfer.plain import PlainEngine
from kropot.objects.memory import MemoryObjects
from kropot.objects.store import Published
from kropot.securecopy.client import SecureCopyClient
from kropot.securecopy.sealing import open_stream
from tests.kropot.jobs import fetch_job
from tests.oldserver.faults import BORNE_FAULTS, CONTENT_FAULTS, Status, always
from tests.oldserver.repository import Quirks
from tests.oldserver.server import OldServer

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {
    f"file-{size}.bin": hashlib.sha256(b"%d" % size).digest() * (size // 32 + 1) for size in (1, 16, 5000, 300_000)
}
NOTICED = [fault for fault in CONTENT_FAULTS if fault not in BORNE_FAULTS]
AGENT = "kropotcli/test"
MAKERS: dict[str, Callable[..., TransferEngine]] = {
    "curl": partial(CurlEngine, handles=4),
    "curl and finishers": partial(CurlEngine, handles=4, middling=0),
    "plain": PlainEngine,
}


@pytest.fixture(params=list(MAKERS))
def maker(request: pytest.FixtureRequest) -> Callable[..., TransferEngine]:
    return MAKERS[request.param]


def fetch_all(
    server: OldServer, maker: Callable[..., TransferEngine], store: MemoryObjects, *, opaque: bool = True
) -> dict[str, Receipt]:
    """List the server, fetch every element, and return what came by name."""
    with SecureCopyClient(server.url, server.token, silence_s=20, user_agent=AGENT) as client:
        client.list(None, 256)
        headers = client.headers()
    where = Server(base_url=server.url, headers=headers, silence_s=1)
    engine = maker(where, store)
    names = list(enumerate(server.ids().items()))
    engine.submit([fetch_job(n, id_, opaque=opaque) for n, (_, id_) in names])
    results: dict[str, Receipt] = {}
    while engine.in_flight:
        for result in engine.poll(5):
            results[names[result.entry.stream][1][0]] = result
    engine.close()
    return results


def test_ciphertexts_come_whole_and_open_to_the_files(maker: Callable[..., TransferEngine]) -> None:
    store = MemoryObjects()
    with OldServer(FILES) as server:
        results = fetch_all(server, maker, store)
    for name, content in FILES.items():
        result = results[name]
        assert isinstance(result, Received)
        assert result.iv is not None
        outcome = store.publish([result.staged])[0]
        assert isinstance(outcome, Published)
        with store.open(outcome.sha256) as sealed:
            opened = b"".join(open_stream([sealed.read()], server.kit.key(result.iv), result.iv))
        assert opened == content


def test_plain_contents_come_as_they_are(maker: Callable[..., TransferEngine]) -> None:
    store = MemoryObjects()
    with OldServer(FILES, encrypted=False, quirks=Quirks(plain_content_fails=False)) as server:
        results = fetch_all(server, maker, store, opaque=False)
    for name, content in FILES.items():
        result = results[name]
        assert isinstance(result, Received)
        assert (result.iv, result.staged.sha256) == (None, hashlib.sha256(content).digest())


@pytest.mark.parametrize("number", range(len(BORNE_FAULTS)))
def test_slowness_is_borne(maker: Callable[..., TransferEngine], number: int) -> None:
    fault = BORNE_FAULTS[number]
    store = MemoryObjects()
    with OldServer({"slow": b"x" * 200}, plan=always(fault, "content")) as server:
        assert isinstance(fetch_all(server, maker, store)["slow"], Received)


@pytest.mark.parametrize("number", range(len(NOTICED)))
def test_no_fault_of_a_content_is_believed(maker: Callable[..., TransferEngine], number: int) -> None:
    fault = NOTICED[number]
    store = MemoryObjects()
    with OldServer({"broken": b"y" * 20_000}, plan=always(fault, "content")) as server:
        result = fetch_all(server, maker, store)["broken"]
    assert isinstance(result, NotReceived), result
    assert result.reason
    assert not result.storage
    assert store.disk.used == 0


def test_error_in_the_middle_of_a_file_is_seen_behind_the_clean_end(maker: Callable[..., TransferEngine]) -> None:
    store = MemoryObjects()
    with OldServer(FILES) as server:
        server.fail_reading("file-300000.bin", 65536)
        results = fetch_all(server, maker, store)
    broken = results.pop("file-300000.bin")
    assert isinstance(broken, NotReceived)
    assert (broken.reason, broken.status) == ("error_page", 200)
    assert all(isinstance(result, Received) for result in results.values())


@pytest.mark.parametrize("status", [401, 403])
def test_refused_token_is_told_as_such(maker: Callable[..., TransferEngine], status: int) -> None:
    with OldServer({"a": b"a"}, plan=always(Status(status), "content")) as server:
        result = fetch_all(server, maker, MemoryObjects())["a"]
    assert isinstance(result, NotReceived)
    assert (result.reason, result.status, result.refused) == (f"http_{status}", status, True)
