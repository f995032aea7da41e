"""`kropotcli gateway check`: names what a gateway does not serve from a folder, and why."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli import base
from kropot.cli.base import Settings, emit, emit_json, say
from kropot.cli.gateway_scan import selecting, selection_of
from kropot.cli.paths import PATH
from kropot.errors import Exit
from kropot.wording import counts, number, written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kropot.gateway.sources import FolderSource

_MOST_YOUNG: Final = 10_000
_WHY: Final = {
    "sockets": "is a socket, which has no content",
    "pipes": "is a pipe, which has no content",
    "devices": "is a device",
    "links": "is a symlink to a folder, to the outside, or to nothing",
    "unreadable": "cannot be read",
    "unsettled": "is being written to",
    "excluded": "is excluded",
}


@click.command("check", cls=base.KropotCommand, beside=("gateway", "serve"))
@click.option("--source", type=PATH, required=True, metavar="DIR", help="The folder that the gateway serves.")
@selecting
@click.option("--excluded", is_flag=True, help="Also list what is excluded. It does not count as missing.")
def check(settings: Settings, *, source: Path, excluded: bool, **chosen: Any) -> Exit:
    """Name everything in a folder that a gateway does not serve, and say why.

    Run it as the gateway's user. It takes the options of `gateway serve` from the configuration file, so it sees what
    the gateway sees. It needs no running gateway and changes nothing. It checks files that are being written to again
    after two seconds. The exit code is 3 if anything is missing that was not excluded.
    """
    from kropot.gateway.selection import named
    from kropot.gateway.sources import FolderSource

    place = selection_of(source, **chosen).at(named(source))
    tree = FolderSource(os.fsencode(os.path.realpath(source)), os.fsencode(source.absolute()), place=place)
    found: Counter[str] = Counter()
    for kind, path, reason in _missing(tree, found):
        found[kind] += 1
        if kind == "excluded" and not excluded:
            continue
        name = written(path)
        if settings.json:
            emit_json("unserved", {"path": name, "kind": kind, "reason": reason or None}, flush=False)
        else:
            emit(f"{name}  {_WHY[kind]}{f' ({reason})' if reason else ''}", flush=False)
    served = found.pop("served", 0)
    say(f"{number(served, 'file')} served; not served: {counts(found)}")
    return Exit.PARTIAL if found.total() > found["excluded"] else Exit.DONE


def _missing(tree: FolderSource, found: Counter[str]) -> Iterator[tuple[str, bytes, str]]:
    """Yield the kind, path and reason of each file that is not served. Count the served ones in `found`."""
    from kropot.gateway.catalogue import SETTLE_NS
    from kropot.gateway.sources import ScannedEntry, Skipped, Unreadable

    young: list[bytes] = []
    for item in (each for each in tree.walk() if not isinstance(each, ScannedEntry)):
        if isinstance(item, Skipped):
            yield item.kind, item.path, ""
        elif isinstance(item, Unreadable):
            yield "unreadable", item.path, item.reason
        elif not item.is_readable:
            yield "unreadable", item.path, "EACCES"
        elif item.seen.is_settled(time.time_ns(), SETTLE_NS):
            found["served"] += 1
        elif len(young) < _MOST_YOUNG:
            young.append(item.path)
        else:
            yield "unsettled", item.path, ""
    if young:
        time.sleep(SETTLE_NS / 1e9)
    for path in young:
        looks = tree.look(path)
        if looks is not None and not looks.is_settled(time.time_ns(), SETTLE_NS):
            yield "unsettled", path, ""
        else:
            found["served"] += looks is not None
