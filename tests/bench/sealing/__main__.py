"""Sealing on one core, sc2 beside AES-CBC in the same run: `python -m tests.bench.sealing [--seconds N]`.

Large contents in GB/s, sealed and opened, and small files in microseconds each, with everything that a file needs: its
keys, its form and its content. CBC seals form and content with two keys of PBKDF2, 4 rounds each, as the gateway makes
them. The two take turns, the best of five rounds counts, and time is that of the processor, so that a busy machine
slows both alike.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from typing import TYPE_CHECKING

from kropot.sc2.form import Form, Kind
from kropot.sc2.opening import open_object
from kropot.sc2.seal import Sealing
from kropot.sc2.vault import Vault, keyring
from kropot.securecopy.sealing import Kit, Opener, Sealer, open_form, seal_form
from kropot.securecopy.wire import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 32 << 20
SMALL = 4096
ROUNDS = 5
PIECE = 1 << 20
FORM = {
    "fileName": "photos/2026/IMG_0001.jpg",
    "path": "cGhvdG9zLzIwMjYvSU1HXzAwMDEuanBn",
    "mode": 0o644,
    "mtime_ns": "1790000000123456789",
    "size": SMALL,
}


class Sc2:
    """Seals and opens by sc2."""

    def __init__(self) -> None:
        """Make a vault."""
        self.vault = Vault.make()
        self.ring = keyring([self.vault])

    def sealing(self, size: int) -> Sealing:
        form = Form(
            path=b"photos/2026/IMG_0001.jpg",
            kind=Kind.FILE,
            sealed_us=time.time_ns() // 1000,
            size=size,
            mode=0o644,
            mtime_ns=1_790_000_000_123_456_789,
            uid=1000,
            gid=1000,
        )
        return Sealing(self.vault, form, source=bytes(16), version=self.vault.version(bytes(16)))

    def seal(self, plain: bytes) -> bytes:
        return self.sealing(len(plain)).whole(plain)

    def seal_large(self, plain: bytes) -> None:
        for _ in self.sealing(len(plain)).span(lambda at, size: plain[at : at + size]):
            pass

    def open(self, data: bytes) -> None:
        for _ in open_object(io.BytesIO(data), self.ring).chunks:
            pass


class Cbc:
    """Seals and opens by AES-CBC, as tokens of 2020 do."""

    def __init__(self) -> None:
        """Make a kit."""
        self.kit = Kit(os.urandom(32).hex(), rounds=4)
        self.iv, self.form_iv = os.urandom(16), os.urandom(16)
        self.form = seal_form(canonical_json(FORM), self.kit, self.form_iv)

    def seal(self, plain: bytes) -> bytes:
        seal_form(canonical_json(FORM), self.kit, self.form_iv)
        sealer, out = Sealer(self.kit.key(self.iv), self.iv), bytearray(Sealer.room(len(plain)))
        size = sealer.update_into(plain, out)
        return bytes(memoryview(out)[:size]) + sealer.finish()

    def seal_large(self, plain: bytes) -> None:
        sealer, out = Sealer(self.kit.key(self.iv), self.iv), bytearray(Sealer.room(PIECE))
        for at in range(0, len(plain), PIECE):
            size = sealer.update_into(plain[at : at + PIECE], out)
            bytes(memoryview(out)[:size])
        sealer.finish()

    def open(self, data: bytes) -> None:
        json.loads(open_form(self.form, self.kit))
        opener, out = Opener(self.kit.key(self.iv), self.iv), bytearray(Opener.room(PIECE))
        for at in range(0, len(data), PIECE):
            opener.update_into(data[at : at + PIECE], out)
        opener.finish()


def best(works: list[Callable[[], object]], seconds: float) -> list[float]:
    """Return the best time of one call of each, in seconds. They take turns."""
    found = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            began, count = time.process_time(), 0
            while count == 0 or time.process_time() - began < seconds / ROUNDS / len(works):
                work()
                count += 1
            found[number] = min(found[number], (time.process_time() - began) / count)
    return found


def main() -> None:
    """Measure, and print one line for each measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=3, help="so long for each measure")
    seconds = options.parse_args().seconds
    sc2, cbc = Sc2(), Cbc()
    large, small = os.urandom(LARGE), os.urandom(SMALL)
    large_sc2, large_cbc, small_sc2, small_cbc = sc2.seal(large), cbc.seal(large), sc2.seal(small), cbc.seal(small)
    measures: dict[str, list[Callable[[], object]]] = {
        "seal_large": [lambda: sc2.seal_large(large), lambda: cbc.seal_large(large)],
        "open_large": [lambda: sc2.open(large_sc2), lambda: cbc.open(large_cbc)],
        "seal_small": [lambda: sc2.seal(small), lambda: cbc.seal(small)],
        "open_small": [lambda: sc2.open(small_sc2), lambda: cbc.open(small_cbc)],
    }
    for name, works in measures.items():
        times = best(works, seconds)
        is_large = name.endswith("large")
        shown = [LARGE / each / 1e9 if is_large else each * 1e6 for each in times]
        ratio = times[1] / times[0]
        unit = "GB/s" if is_large else "us a file of 4 KiB"
        told = {"measure": name, "unit": unit, "sc2": round(shown[0], 2), "cbc": round(shown[1], 2)}
        print(json.dumps(told | {"sc2_speed_over_cbc": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    main()
