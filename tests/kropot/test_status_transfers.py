"""`status` shows the transfers that take long, and `verify` knows a token that the last run was refused with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.cli.status import as_text
from kropot.collect.failed_run import record_failure
from kropot.collect.transfer.kept import KeptNote, kept_name
from kropot.objects.opening import open_store
from kropot.objects.upload import HELD_BACK
from kropot.query.facts import gather
from kropot.query.health import Limits, health
from kropot.query.render import status_json
from kropot.verify.reach import reach_of
from ledger.log import Ledger
from ledger.memory import MemoryStore
from tests.ledger.world import SOURCE, began, key, observed

if TYPE_CHECKING:
    from pathlib import Path


def collected() -> Ledger:
    ledger = Ledger(MemoryStore())
    ledger.begin()
    ledger.append([began(), observed("e1")])
    return ledger


def test_a_long_transfer_is_shown(tmp_path: Path) -> None:
    storage = open_store(tmp_path / "storage", "attic")
    objects = storage.objects()
    objects.lock()
    upload = objects.stage(kept_name(key("e1")))
    upload.keep(KeptNote(stream=key("e1"), etag='"tag"', iv=None, length=8 * HELD_BACK).pack())
    upload.write(bytes(2 * HELD_BACK))
    upload.suspend()
    ledger = collected()
    facts = gather(ledger, storage)
    assert facts.storage is not None
    (transfer,) = facts.storage.transfers
    now_us = transfer.heard_us + 5_000_000
    lines = as_text(now_us, facts, health(now_us, facts, Limits()))
    assert "receives e1  2.0 MiB of 8.0 MiB (25%), the last bytes 5 s ago (collector attic)" in lines
    (shown,) = status_json(now_us, facts, [])["storage"]["transfers"]
    assert (shown["id"], shown["received"], shown["length"]) == ("e1", 2 * HELD_BACK, 8 * HELD_BACK)
    objects.close()


def test_a_run_that_was_refused_is_known_to_verify() -> None:
    ledger = collected()
    assert reach_of(ledger) == {}
    record_failure(ledger, SOURCE, "main", "no_answer")
    assert reach_of(ledger) == {}
    record_failure(ledger, SOURCE, "main", "refused")
    assert reach_of(ledger) == {SOURCE: "refused"}
