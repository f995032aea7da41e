"""Runs the simulator by hand: `python -m tests.oldserver --files 1000 --fault-rate 0.2 --seed 7`, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import threading
from collections import Counter
from random import Random

from kropot.securecopy.sealing import Kit
from tests.oldserver import (
    CONTENT_FAULTS,
    LIST_FAULTS,
    TOKEN,
    Fault,
    Generated,
    OldServer,
    Plan,
    Quirks,
    Request,
    seeded,
)


def both_kinds(seed: int, rate: float) -> Plan:
    """Return a plan with faults of lists for lists and of contents for contents."""
    lists = seeded(seed, rate, LIST_FAULTS, "list", "submitdata")
    contents = seeded(seed, rate, CONTENT_FAULTS, "content")

    def plan(request: Request) -> Fault | None:
        return lists(request) or contents(request)

    return plan


def main() -> None:
    """Serve generated files until interrupted, then say what was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--files", type=int, default=100, help="how many files, of up to --size bytes")
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--zone", default="UTC")
    parser.add_argument("--plain", action="store_true", help="a token that does not encrypt, on a server mended for it")
    parser.add_argument("--passphrase", default="bread and roses")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of requests that go wrong, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = Random(given.seed)
    files = {f"{number:06}.bin": Generated(rng.randrange(given.size + 1), seed=number) for number in range(given.files)}
    server = OldServer(
        files,
        encrypted=not given.plain,
        kit=Kit(given.passphrase, rounds=given.rounds),
        zone=given.zone,
        quirks=Quirks(plain_content_fails=not given.plain),
        plan=both_kinds(given.seed, given.fault_rate) if given.fault_rate else None,
        seed=given.seed,
    )
    server.start(given.port)
    print(f"{len(files)} files at {server.url}, token {TOKEN}", flush=True)
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    asked_to_stop.wait()
    server.stop()
    print(", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in server.requests).items()))


if __name__ == "__main__":
    main()
