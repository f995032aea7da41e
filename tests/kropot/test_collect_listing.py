"""The listing's table: every pair of phase and input is decided, and late answers change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from kropot.collect.decide.inputs import (
    Conflicted,
    ListingBegan,
    ListingBusy,
    LookedUp,
    MissingCounted,
    MissingFound,
    PageFailed,
    PageListed,
    PageRefused,
    Prefetched,
    Recorded,
    SourceRead,
)
from kropot.collect.decide.listing import TRANSITIONS, ListingController, ListingInput, Phase
from kropot.collect.decide.progress import Progress
from kropot.collect.decide.rules import CollectRules
from kropot.collect.decide.sources import begin

if TYPE_CHECKING:
    from msgspec import Struct

INPUTS = get_args(ListingInput)
NOW_US = 1_800_000_000_000_000
BY_PHASE = {
    Phase.IDLE: {PageRefused},
    Phase.OPENING: {ListingBegan, ListingBusy, PageRefused},
    Phase.DRAINING: {PageListed, PageFailed, PageRefused, LookedUp, Prefetched, Recorded, Conflicted},
    Phase.COUNTING: {MissingCounted, PageRefused},
    Phase.SWEEPING: {MissingFound, Recorded, PageRefused},
    Phase.CLOSING: {Recorded, SourceRead, Conflicted, PageRefused},
    Phase.OVER: {PageRefused},
}


def a_controller(phase: Phase, *, once: bool = False) -> ListingController:
    source = begin(salt=bytes(32), token="t" * 36, url="http://127.0.0.1").source
    controller = ListingController(bytes(16), source, CollectRules(instance="main", once=once), Progress())
    controller.phase = phase
    return controller


def test_the_table_says_what_each_phase_waits_for() -> None:
    assert {phase: {kind for at, kind in TRANSITIONS if at is phase} for phase in Phase} == BY_PHASE


@pytest.mark.parametrize(
    ("phase", "kind"), [(phase, kind) for phase in Phase for kind in INPUTS if kind not in BY_PHASE[phase]]
)
def test_an_input_that_no_phase_waits_for_changes_nothing(phase: Phase, kind: type[Struct]) -> None:
    controller = a_controller(phase)
    assert controller.take(NOW_US, kind(**dict.fromkeys(kind.__struct_fields__))) == []
    assert controller.phase is phase


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("once", [False, True])
def test_a_refused_token_ends_a_listing_in_any_phase(phase: Phase, *, once: bool) -> None:
    controller = a_controller(phase, once=once)
    controller.take(NOW_US, PageRefused())
    assert controller.phase is (Phase.OVER if once else Phase.IDLE)
    assert controller.has_failed
