"""Transfer and objects without list and ledger: run with an engine's name, a data set's, an address and a folder."""

from __future__ import annotations

import queue
import sys
import threading
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from kropot.collect.decide.inputs import Received
from kropot.collect.transfer.curl import CurlEngine
from kropot.collect.transfer.engine import Server
from kropot.collect.transfer.plain import PlainEngine
from kropot.objects.directory import DirectoryObjects
from kropot.objects.store import Published
from tests.bench.collect.dataset import SETS
from tests.kropot.jobs import fetch_job

if TYPE_CHECKING:
    from kropot.collect.transfer.engine import TransferEngine
    from kropot.objects.store import Staged

BATCH = 500
BATCH_BYTES = 64 << 20
AHEAD = 2000


def main(kind: str, name: str, url: str, out: Path) -> int:
    """Fetch everything; return 1 if anything was not published."""
    data = next(one for one in SETS if one.name == name)
    store = DirectoryObjects(out, "bench")
    store.lock()
    headers = {"token": "bench-token", "User-Agent": "kropotcli/bench", "Accept-Encoding": "identity"}
    server = Server(base_url=url, headers=headers)
    engine: TransferEngine = CurlEngine(server, store) if kind == "curl" else PlainEngine(server, store)
    todo: queue.SimpleQueue[list[Staged] | None] = queue.SimpleQueue()
    published = 0

    def publish() -> None:
        nonlocal published
        while (batch := todo.get()) is not None:
            published += sum(isinstance(outcome, Published) for outcome in store.publish(batch))

    publisher = threading.Thread(target=publish)
    publisher.start()
    jobs = (fetch_job(n, data.id_of(n)) for n in range(data.files))
    batch: list[Staged] = []
    size = 0
    while True:
        if engine.in_flight < AHEAD:
            engine.submit(list(islice(jobs, AHEAD)))
        if not engine.in_flight:
            break
        for result in engine.poll(1.0):
            if isinstance(result, Received):
                batch.append(result.staged)
                size += result.staged.size
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            todo.put(batch)
            batch, size = [], 0
    todo.put(batch)
    todo.put(None)
    publisher.join()
    engine.close()
    store.close()
    return 0 if published == data.files else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
