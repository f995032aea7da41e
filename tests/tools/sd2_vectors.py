"""Write the vectors of the state digest: python tests/tools/sd2_vectors.py. The same bytes come out every time."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from msgspec.structs import replace

from ledger.digest import StateDigest, row, text_of
from ledger.events import Copy, Element, StreamKey
from ledger.lthash import LtHash

HERE = Path(__file__).resolve().parent.parent / "vectors" / "sd2.json"
SOURCES = (bytes(range(16)), bytes(range(16, 32)))


def elements() -> dict[str, tuple[StreamKey, Element]]:
    """Return one element of each state by its name, in two sources."""
    plain = Element(
        date=1_790_000_000,
        tz="UTC",
        form=b'{"fileName":"a.txt"}',
        revision=1,
        present=True,
        epoch=0,
        size=None,
        etag=None,
        copy=None,
        damage=None,
        failure=None,
    )
    copy = Copy(sha256=sha256(b"a").digest(), size=1, iv=None, revision=1, instance="main")
    sealed = replace(copy, sha256=sha256(b"sealed").digest(), size=4_112, iv=bytes(range(16)))
    states = {
        "pending": plain,
        "current": replace(plain, copy=copy),
        "sealed": replace(plain, date=-1, tz="Europe/Warsaw", form=b'{"encrypted":"AA"}', copy=sealed),
        "older": replace(plain, revision=2, copy=copy),
        "vanished": replace(plain, present=False, copy=copy),
        "damaged": replace(plain, copy=copy, damage="damaged"),
        "lost": replace(plain, copy=sealed, damage="lost"),
    }
    keys = (StreamKey(source=SOURCES[at % 2], kind="file", id=f"{name} ż") for at, name in enumerate(states))
    return dict(zip(states, zip(keys, states.values(), strict=True), strict=True))


def vectors() -> str:
    """Return the vectors as JSON: the rows, the lanes and the digest of some sets of elements."""
    made = elements()
    sets = {
        "nothing": [],
        **{name: [name] for name in made},
        "the first source": [name for name, (key, _) in made.items() if key.source == SOURCES[0]],
        "the second source": [name for name, (key, _) in made.items() if key.source == SOURCES[1]],
        "everything": list(made),
    }
    return (
        json.dumps({"sets": [_set(name, [made[each] for each in held]) for name, held in sets.items()]}, indent=1)
        + "\n"
    )


def _set(name: str, held: list[tuple[StreamKey, Element]]) -> dict[str, object]:
    value, before = LtHash(), StateDigest()
    rows = [row(key, element) for key, element in sorted(held, key=lambda pair: pair[0].stored)]
    for (key, _), packed in zip(sorted(held, key=lambda pair: pair[0].stored), rows, strict=True):
        value.add(packed)
        before.add_row(key.stored, packed)
    lanes = value.lanes
    return {
        "name": name,
        "rows": [packed.hex() for packed in rows],
        "lanes": lanes.hex(),
        "digest": text_of(lanes),
        "sd1": before.text,
    }


if __name__ == "__main__":
    HERE.write_text(vectors())
