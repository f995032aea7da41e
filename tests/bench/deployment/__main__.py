"""What an element costs a PostgreSQL and a bucket, and what that comes to: python -m tests.bench.deployment [--help].

A gateway, a collector, a PostgreSQL of its own and SeaweedFS, all on this machine. The requests to gateway and bucket
are counted by proxies. The last table multiplies, and measures nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.collect.measure import measure
from tests.bench.deployment.database import CpuTime, Table, tables, wal_bytes
from tests.bench.endtoend import bucket as buckets
from tests.bench.endtoend.dataset import DataSet, change
from tests.bench.endtoend.peers import KropotCli, Place
from tests.faults.proxy import proxied
from tests.ledger.private_servers import private_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.endtoend.peers import Step
    from tests.faults.proxy import Proxy
    from tests.ledger.private_servers import PrivateServer

_STEPS: tuple[Step, ...] = ("first", "idle", "changed")
_TITLES = {"first": "first backup", "idle": "nothing changed", "changed": "1 % changed"}
_SCALES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_MIB, _GIB = 1 << 20, 1 << 30


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    options = _options(arguments)
    data = DataSet(name="elements", files=options.elements, size=options.size)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deployment-", dir=options.data)))
        server = stack.enter_context(private_server("postgresql"))
        bucket = stack.enter_context(buckets.running(folder / "bucket"))
        store = stack.enter_context(proxied(bucket.port))
        host, _, port = store.address.partition(":")
        bucket = replace(bucket, host=host, port=int(port))
        data.make(folder / "source")
        (folder / "life").mkdir()
        peer = KropotCli("kropotcli", "sc2", in_bucket=True)
        place = Place(source=folder / "source", work=folder / "life", in_bucket=bucket, database=server.url)
        for each in (place.kept, place.back, place.work / "home"):
            each.mkdir()
        peer.prepare(place)
        gateway = stack.enter_context(proxied(int((place.work / "port").read_text())))
        place = replace(place, through=gateway.endpoint)
        print(f"{data.title}; {os.cpu_count()} processors, load {os.getloadavg()[0]:.0f}; CPU seconds")
        print(f"{'':16}{'collector':>10}{'gateway':>9}{'database':>9}{'WAL MiB':>9}  requests to gateway; bucket")
        cpu_s = 0.0
        for step in _STEPS:
            if step == "changed":
                change(place.source, 1)
            took = _step(peer, place, step, server, (gateway, store))
            if step == "first":
                cpu_s, first = took, (store.requests.copy(), tables(server.url))
            gateway.requests.clear()
            store.requests.clear()
        _show_tables(first[1], options.elements)
        _reckon(options.elements, options.size, cpu_s, len(first[0]), first[1])
    return 0


def _step(peer: KropotCli, place: Place, step: Step, server: PrivateServer, asked: tuple[Proxy, Proxy]) -> float:
    """Run and print one step; return the CPU seconds of collector and database. `asked` are gateway and bucket."""
    before, wal = CpuTime(server.pid), wal_bytes(server.url)
    with peer.serving(place, step) as served:
        command = peer.command(place, step)
        ran = measure(command, into=place.work, cwd=place.back, env=place.env, log=place.work / f"{step}.txt")
    if ran.problem is not None:
        raise RuntimeError(f"{_TITLES[step]}: {ran.problem}")
    database_s = CpuTime(server.pid).since(before)
    wal = wal_bytes(server.url) - wal
    gateway_s = served.served.cpu_s if served is not None and served.served is not None else 0.0
    line = f"{_TITLES[step]:16}{ran.cpu_s:10.1f}{gateway_s:9.1f}{database_s:9.1f}{wal / _MIB:9.1f}"
    print(f"{line}  {'; '.join(_counted(proxy.requests) for proxy in asked)}", flush=True)
    return ran.cpu_s + database_s


def _counted(requests: list[str]) -> str:
    """Say how many requests of each method there were; a list of the bucket is a GET with a prefix."""
    counts = Counter("LIST" if "list-type=" in line else line.split(" ", 1)[0] for line in requests)
    return ", ".join(f"{count:,} {method}" for method, count in sorted(counts.items())) or "none"


def _show_tables(found: list[Table], elements: int) -> None:
    print(f"\nledger after the first backup, an element\n{'table':16}{'rows':>10}{'bytes':>9}{'with indexes':>14}")
    for each in found:
        print(
            f"{each.name:16}{each.rows / elements:10.4f}{each.bytes / elements:9,.0f}{each.all_bytes / elements:14,.0f}"
        )
    print(f"{'all':16}{sum(each.rows for each in found) / elements:10.4f}", end="")
    print(
        f"{sum(each.bytes for each in found) / elements:9,.0f}{sum(each.all_bytes for each in found) / elements:14,.0f}"
    )


def _reckon(elements: int, size: int, cpu_s: float, requests: int, found: list[Table]) -> None:
    """Multiply."""
    rows, octets = sum(each.rows for each in found), sum(each.all_bytes for each in found)
    print(
        f"\nreckoned, not measured: so many elements of {size:,} bytes\n{'elements':>14}{'rows':>16}{'ledger GiB':>12}",
        end="",
    )
    print(f"{'contents GiB':>14}{'requests':>14}{'CPU hours':>11}")
    for scale in _SCALES:
        by = scale / elements
        print(f"{scale:14,}{rows * by:16,.0f}{octets * by / _GIB:12,.0f}{size * scale / _GIB:14,.0f}", end="")
        print(f"{requests * by:14,.0f}{cpu_s * by / 3600:11,.1f}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.deployment", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()), help="where to write (%(default)s)")
    parser.add_argument("--elements", type=int, default=20_000, help="so many files (%(default)s)")
    parser.add_argument("--size", type=int, default=4096, help="bytes in each (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
