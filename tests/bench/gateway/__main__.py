"""How the gateway scales and serves: `python -m tests.bench.gateway [--files N] [--small N] [--large N]`.

Scans of N and 4N made-up files (rate, memory), pages of each kind of token, and real contents over loopback pulled by
libcurl with 16 connections, and in bulk over one, with both sealings.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.gateway.measures import quiet, scanned, served

if TYPE_CHECKING:
    from collections.abc import Callable


def alone(work: Callable[..., dict[str, Any]], *args: Any) -> None:
    """Run in a process of its own, so that its memory is its own, and print what it found."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(json.dumps(pool.apply(work, args)), flush=True)


def main() -> None:
    """Run it all."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=50_000)
    options.add_argument("--small", type=int, default=20_000)
    options.add_argument("--large", type=int, default=4)
    given = options.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as place:
        alone(scanned, given.files, place)
        alone(scanned, 4 * given.files, place)
        for count, size in ((given.small, 4096), (given.large, 256 << 20)):
            for found in served(count, size, Path(place)):
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
