"""The tamper catalogue of releases: whoever writes to the ledger by its own code cannot let a copy go unnoticed.

Each variant is a release that the database takes: its bytes, tree and head are right. Only the policy says otherwise.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct
from msgspec.structs import asdict, replace

from kropot.retention.releasing import undo
from kropot.verify.releases import ReleaseAudit
from ledger.events import AlarmsAccepted, Surge
from ledger.log import NewFact, source_key
from ledger.retaining import decided_of
from ledger.retention import CopyReleased, LastCopyReleased
from tests.kropot.retention_world import DAY, HOUR, SOURCE, RetentionWorld, rules, sha

if TYPE_CHECKING:
    from collections.abc import Callable

RULE = rules(daily=2, min_age_s=5 * 86_400)
KEPT = {
    "the current one": ("cur", "cur 2"),
    "one of a kept day": ("cur", "cur 1"),
    "a young one": ("young", "young 1"),
    "one of a kept point": ("pinned", "pinned 1"),
    "the last of a vanished element": ("gone", "gone 1"),
    "one that was released": ("done", "done 1"),
}
"""Versions that the policy keeps, or that cannot be let go, by what they are: element and content."""
DUE = ("due", "due 1")
"""The one that may be let go."""


def build() -> RetentionWorld:
    world = RetentionWorld(random.Random(3))
    world.set_policy(rules(last=50))
    world.set_policy(RULE)
    world.listed({"pinned": "pinned 1"})
    world.pin()
    world.listed({"done": "done 1", "due": "due 1", "gone": "gone 1"})
    world.clock_us += DAY
    world.listed({"done": "done 2", "pinned": "pinned 2", "due": "due 2"})
    world.clock_us += DAY
    world.listed({"gone": None, "cur": "cur 1"})
    world.clock_us += 18 * DAY
    world.listed({"young": "young 1"})
    world.clock_us += HOUR
    world.listed({"young": "young 2"})
    world.clock_us += DAY
    world.listed({"cur": "cur 2"})
    world.append([facts(world, ("done", "done 1"))])
    return world


class Words(Struct, frozen=True):
    """What a release says of its decision, as the honest one would."""

    policy: int
    decided: int
    at_us: int
    reason: str = "replaced"


def honest(world: RetentionWorld) -> Words:
    return Words(decided_of(world.ledger).position, world.ledger.head().position, world.clock_us)


def facts(world: RetentionWorld, target: tuple[str, str], words: Words | None = None) -> NewFact:
    key, said = world.key(target[0]), honest(world) if words is None else words
    entry = world.ledger.entries([key])[key]
    assert entry.element is not None
    element, sha256 = entry.element, sha(target[1])
    kind: Any = CopyReleased
    if element.copy is not None and element.copy.sha256 == sha256 and not element.present:
        element, kind = replace(element, copy=None), LastCopyReleased
    fact = kind(element=element, sha256=sha256, by="somebody", **asdict(said))
    return NewFact(key=key, fact=fact, observed_us=world.clock_us)


Change = tuple[str, "Callable[[RetentionWorld, Words], Words]"]

LIES: list[Change] = [
    ("no policy", lambda _, said: replace(said, policy=0)),
    ("the policy before", lambda _, said: replace(said, policy=said.policy - 2)),
    ("a policy to come", lambda _, said: replace(said, policy=said.decided + 1)),
    ("another event as policy", lambda _, said: replace(said, policy=said.decided)),
    ("decided before everything", lambda _, said: replace(said, decided=0)),
    ("decided under another policy", lambda _, said: replace(said, decided=said.policy - 1)),
    ("decided by itself", lambda _, said: replace(said, decided=said.decided + 1)),
    ("decided in the future", lambda _, said: replace(said, decided=1 << 40)),
    ("for another reason", lambda _, said: replace(said, reason="vanished")),
    ("for a made-up reason", lambda _, said: replace(said, reason="because")),
    ("for no reason", lambda _, said: replace(said, reason="")),
    *(
        (f"{days} days from now", lambda _, said, days=days: replace(said, at_us=said.at_us + days * DAY))
        for days in (1, 2, 10, 100, 1000)
    ),
    ("an instant from now", lambda _, said: replace(said, at_us=said.at_us + 1)),
    *(
        (f"{days} days ago", lambda _, said, days=days: replace(said, at_us=said.at_us - days * DAY))
        for days in (17, 20, 100)
    ),
    ("at the beginning of time", lambda _, said: replace(said, at_us=0)),
    *(
        (f"decided {back} events ago", lambda _, said, back=back: replace(said, decided=said.decided - back))
        for back in (1, 2, 3, 4, 5, 6, 8, 10)
    ),
]
"""What a release of the one that may go can lie about."""

CASES: dict[str, tuple[tuple[str, str], Callable[[RetentionWorld, Words], Words]]] = {
    **{f"{what}, honestly": (target, lambda _, said: said) for what, target in KEPT.items()},
    **{f"{what}, {name}": (target, lie) for what, target in KEPT.items() for name, lie in LIES},
    **{f"the one that may go, {name}": (DUE, lie) for name, lie in LIES if "events ago" not in name},
}


@pytest.fixture(scope="module")
def pristine() -> RetentionWorld:
    return build()


def findings(world: RetentionWorld) -> list[tuple[str, str, int | None]]:
    audit = ReleaseAudit(world.ledger, world.ledger.head().position)
    return [(each.kind, each.severity, each.position) for each in audit.findings()]


def test_the_catalogue_has_at_least_200_variants() -> None:
    assert len(CASES) >= 200


def test_the_untouched_world_is_clean_and_the_honest_release_too(pristine: RetentionWorld) -> None:
    assert findings(pristine) == []
    world = build()
    world.append([facts(world, DUE)])
    assert findings(world) == []


@pytest.mark.parametrize("name", CASES)
def test_a_forged_release_is_found(name: str, pristine: RetentionWorld) -> None:
    target, lie = CASES[name]
    before = pristine.ledger.head().position
    world = build()
    assert world.ledger.head().position == before
    world.append([facts(world, target, lie(world, honest(world)))])
    assert [(kind, severity) for kind, severity, at in findings(world) if at == before + 1] == [
        ("unentailed_release", "error")
    ]
    assert {at for _, _, at in findings(world)} == {before + 1}


def test_a_release_during_an_alarm_or_after_its_element_moved_on_is_found() -> None:
    world = build()
    said = honest(world)
    world.listed({"due": "due 1"})
    world.listed({"due": "due 3"})
    world.append([facts(world, DUE, said)])
    assert [kind for kind, _, _ in findings(world)] == ["unentailed_release"]
    world = build()
    alarmed = replace(world.source, surge=Surge(changed=9, known=10, since_us=1))
    world.append([NewFact(key=source_key(SOURCE), fact=AlarmsAccepted(source=alarmed), observed_us=1)])
    world.append([facts(world, DUE)])
    assert [kind for kind, _, _ in findings(world)] == ["unentailed_release"]


def test_a_forged_release_that_was_taken_back_is_only_a_note() -> None:
    world = build()
    world.append([facts(world, KEPT["one of a kept day"])])
    assert [severity for _, severity, _ in findings(world)] == ["error"]
    undo(world.ledger, world.objects)
    assert [severity for _, severity, _ in findings(world)] == ["note"]
