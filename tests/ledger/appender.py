"""A writer in a process of its own, to be killed: appends numbered elements batch by batch, and says so."""

from __future__ import annotations

import sys

from ledger.errors import LedgerUnavailableError
from ledger.log import Ledger
from ledger.sql import open_store
from tests.ledger.world import observed


def main(url: str, writer: str, count: int) -> None:
    """Append elements "WRITER 0" to "WRITER COUNT-1" in batches of five; one that stands already is not added again."""
    ledger = Ledger(open_store(url), writer=writer)
    print("ready", flush=True)
    for number in range(0, count, 5):
        names = [f"{writer} {number + n}" for n in range(5)]
        while True:
            try:
                ledger.append([observed(name) for name in names], batch_key=names[0].encode())
                break
            except LedgerUnavailableError:
                continue
        print(names[-1], flush=True)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
