"""What a verification says of the history beside the objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.objects.memory import MemoryObjects
from kropot.segments import SegmentFolder
from kropot.verify import Scope, Verification
from ledger.events import InstanceBegan
from ledger.log import Ledger, NewFact, instance_key
from ledger.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.verify.findings import Summary
    from ledger.audit import Finding

SPAN = 4


def grown(ledger: Ledger, count: int) -> Ledger:
    for _ in range(count):
        fact = InstanceBegan(program="1", host=str(ledger.head().position))
        ledger.append([NewFact(key=instance_key("i"), fact=fact, observed_us=1)])
    return ledger


def new_ledger(writer: str = "main") -> Ledger:
    ledger = Ledger(MemoryStore(), writer=writer, clock=lambda: 1_000_000, entropy=bytes)
    ledger.begin()
    return grown(ledger, 9)


def folder(root: Path) -> SegmentFolder:
    scratch = root / "tmp" / "main"
    scratch.mkdir(parents=True, exist_ok=True)
    return SegmentFolder(root, scratch=scratch, span=SPAN)


def verified(ledger: Ledger, root: Path, *, quick: bool = False) -> tuple[list[Finding], Summary]:
    run = Verification(ledger, MemoryObjects(), Scope(segments=folder(root), record=False, quick=quick))
    return list(run.findings()), run.summary


def broken(root: Path, name: str, change: Callable[[bytearray], bytearray]) -> None:
    path = root / "ledger" / name
    path.write_bytes(change(bytearray(path.read_bytes())))


def flipped(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 1
    return data


def test_sound_segments_are_read_to_their_ends(tmp_path: Path) -> None:
    ledger = new_ledger()
    folder(tmp_path).write(ledger)
    findings, summary = verified(ledger, tmp_path)
    assert findings == []
    covered = summary.covered["segments"]
    assert (covered["files"], covered["events_read"], covered["reach"]) == (3, 10, 10)
    assert summary.complete


def test_quick_says_that_it_did_not_read_them(tmp_path: Path) -> None:
    ledger = new_ledger()
    folder(tmp_path).write(ledger)
    findings, summary = verified(ledger, tmp_path, quick=True)
    assert findings == []
    assert summary.covered["segments"]["events_read"] == 0
    assert any("segments" in gap for gap in summary.not_covered)


def test_a_flipped_bit_within_a_segment_is_found(tmp_path: Path) -> None:
    ledger = new_ledger()
    folder(tmp_path).write(ledger)
    broken(tmp_path, "00000001.segment", flipped)
    findings, summary = verified(ledger, tmp_path)
    assert [finding.kind for finding in findings] == ["bad_segment", "missing_segment"]
    assert "00000001.segment" in findings[0].detail
    assert not summary.sound


def test_a_cut_segment_and_one_under_another_name_are_found(tmp_path: Path) -> None:
    ledger = new_ledger()
    folder(tmp_path).write(ledger)
    broken(tmp_path, "00000002.partial-10", lambda data: data[:-1])
    held = tmp_path / "ledger"
    (held / "00000001.segment").rename(held / "00000005.segment")
    findings, _ = verified(ledger, tmp_path)
    assert {finding.kind for finding in findings} == {"bad_segment"}
    assert len(findings) == 2


def test_a_segment_beyond_the_ledger_says_that_it_was_rolled_back(tmp_path: Path) -> None:
    folder(tmp_path).write(grown(new_ledger(), 3))
    findings, _ = verified(new_ledger(), tmp_path)
    assert {(finding.kind, finding.position) for finding in findings} == {("rolled_back", 11)}


def test_a_segment_of_another_history_is_a_fork(tmp_path: Path) -> None:
    folder(tmp_path).write(new_ledger())
    findings, _ = verified(grown(new_ledger("else"), 3), tmp_path)
    assert {finding.kind for finding in findings} == {"fork"}
    assert findings[0].position == SPAN


def test_a_segment_of_another_ledger_is_told_from_a_fork(tmp_path: Path) -> None:
    other = Ledger(MemoryStore(), writer="main", clock=lambda: 1_000_000)
    other.begin()
    folder(tmp_path).write(other)
    findings, _ = verified(new_ledger(), tmp_path)
    assert [finding.kind for finding in findings] == ["foreign_segment"]


def test_a_missing_segment_is_found(tmp_path: Path) -> None:
    ledger = new_ledger()
    folder(tmp_path).write(ledger)
    (tmp_path / "ledger" / "00000001.segment").unlink()
    findings, _ = verified(ledger, tmp_path)
    assert [(finding.kind, finding.position) for finding in findings] == [("missing_segment", 5)]
