"""A keeper who lies: nothing false is written, what is missing is told, and no answer costs more than it may."""

from __future__ import annotations

import base64
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from kropot.afar import client as client_module
from tests.keeper.owner import FILES, restored
from tests.kropot.sc2_world import VAULT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.keeper.answering import KeeperAnswers
    from tests.keeper.serve import Kept
    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.keeper.owner"]

KIT = ("--key", "vault.json")


def answers_of(kept: Kept) -> KeeperAnswers:
    found: KeeperAnswers = kept.server.service.app._answers
    return found


@pytest.fixture
def lying(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Any], Any]], None]:
    """Return what changes an answer of the keeper before it is sent."""

    def lie(name: str, change: Callable[[Any], Any]) -> None:
        answers = answers_of(kept)
        honest = getattr(answers, name)
        monkeypatch.setattr(type(answers), name, lambda _self, *given: change(honest(*given)))

    return lie


def id_of(name: str) -> str:
    return VAULT.element(name.encode()).hex()


def rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer["elements"]
    return found


def test_elements_that_are_withheld_are_missed(afar: Run, lying: Any, owner: Path) -> None:
    lying("elements", lambda answer: answer | {"elements": [row for row in rows(answer) if row["id"] != id_of("top")]})
    answer = afar("restore", *KIT, "--to", "out")
    assert answer.code == 4
    assert "1 element" in answer.out + answer.err
    assert restored(owner / "out") == {name: content for name, content in FILES.items() if name != "top"}


def test_an_older_state_is_not_taken_for_the_newest(afar: Run, kept: Kept, lying: Any, owner: Path) -> None:
    visitor = kept.visitor()
    old = {row["id"]: row for row in visitor.json("/api/1/elements", events="true")["elements"]}
    source = next(iter(kept.world.ledger.sources()))
    kept.world.seal(source, b"top", b"the newest")
    lying("elements", lambda answer: answer | {"elements": [old.get(row["id"], row) for row in rows(answer)]})
    answer = afar("restore", *KIT, "--to", "out")
    assert answer.code == 4
    assert "top" not in restored(owner / "out")
    assert "it differs from the last event about it" in answer.err


def test_an_element_of_another_is_refused(afar: Run, lying: Any, owner: Path) -> None:
    def swap(answer: dict[str, Any]) -> dict[str, Any]:
        one, other, *rest = rows(answer)
        one["events"], other["events"] = other["events"], one["events"]
        return answer | {"elements": [one, other, *rest]}

    lying("elements", swap)
    answer = afar("restore", *KIT, "--to", "out")
    assert answer.code == 4
    assert len(restored(owner / "out")) < len(FILES)
    assert all(FILES[name] == content for name, content in restored(owner / "out").items())


def test_one_element_that_is_looked_up_is_proved(afar: Run, kept: Kept, lying: Any, owner: Path) -> None:
    source = next(iter(kept.world.ledger.sources())).hex()
    honest = kept.visitor().json(f"/api/1/elements/{source}/file/{id_of('docs/b.txt')}")

    def forge(answer: dict[str, Any]) -> dict[str, Any]:
        element = answer["element"] | {"events": honest["element"]["events"]}
        return answer | {"element": element, "paths": honest["paths"]}

    lying("element", forge)
    other = afar("restore", *KIT, "--to", "out", "top")
    assert other.code == 4
    assert "somebody swapped them" in other.err
    lying("element", lambda answer: answer | {"paths": [["00" * 32] * len(path) for path in answer["paths"]]})
    unproved = afar("restore", *KIT, "--to", "out", "docs/b.txt")
    assert (unproved.code, restored(owner / "out") if (owner / "out").exists() else {}) == (4, {})


@pytest.mark.parametrize("names", [(), ("top",)], ids=["all", "one"])
def test_a_ledger_that_lost_events_is_refused(afar: Run, kept: Kept, owner: Path, names: tuple[str, ...]) -> None:
    assert afar("restore", *KIT, "--to", "out", *names).code == 0
    seen = json.loads((owner / "vault.json.seen").read_text())
    [known] = seen["ledgers"].values()
    assert known["size"] == kept.world.ledger.head().position
    known |= {"size": known["size"] + (1 << 6), "frontier": known["frontier"] + "11" * 32, "root": "11" * 32}
    (owner / "vault.json.seen").write_text(json.dumps(seen))
    answer = afar("restore", *KIT, "--to", "again", *names)
    assert answer.code == 4
    assert "is older than what" in answer.err
    assert not (owner / "again").exists()


def test_a_tree_that_its_headers_do_not_have_is_refused(afar: Run, lying: Any, owner: Path) -> None:
    lying("headers", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    answer = afar("restore", *KIT, "--to", "out")
    assert answer.code == 4
    assert "do not belong to the tree that it claims" in answer.err
    assert not (owner / "out").exists()


def test_objects_that_were_swapped_or_changed_are_not_written(afar: Run, kept: Kept, owner: Path) -> None:
    elements = kept.visitor().json("/api/1/elements")["elements"]
    place = {row["id"]: kept.folder / "storage/objects" / row["sha256"][:2] / row["sha256"] for row in elements}
    for name, change in {"top": "swap", "docs/b.txt": "cut", "docs/deep/c.bin": "flip"}.items():
        path = place[id_of(name)]
        data = path.read_bytes()
        path.chmod(0o600)
        other = place[id_of("docs/a.txt")].read_bytes()
        path.write_bytes({"swap": other, "cut": data[:-1], "flip": data[:-1] + bytes([data[-1] ^ 1])}[change])
    answer = afar("restore", *KIT, "--to", "out")
    assert answer.code == 4
    assert restored(owner / "out") == {"docs/a.txt": FILES["docs/a.txt"]}
    shutil.rmtree(kept.folder / "storage/objects")
    missing = afar("restore", *KIT, "--to", "out", "docs/b.txt")
    assert missing.code == 3


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"position": -1, "notes": []},
        {"position": "9", "notes": []},
        {"position": 1 << 63, "notes": []},
        {"position": 10**9, "notes": []},
        {"position": 3, "notes": "x"},
    ],
)
def test_answers_of_another_shape_end_it_with_a_sentence(afar: Run, lying: Any, answer: Any) -> None:
    lying("moment", lambda _: answer)
    done = afar("restore", *KIT, "--list-names")
    assert done.code == 4
    assert "does not conform to its API" in done.err
    assert "Traceback" not in done.err


def test_pages_that_never_end_or_go_back_are_given_up(afar: Run, lying: Any) -> None:
    lying("elements", lambda answer: answer | {"next": "00" * 16 + "/file/x"})
    assert afar("restore", *KIT, "--list-names").code == 4
    lying("elements", lambda answer: answer | {"elements": rows(answer)[::-1]})
    assert afar("restore", *KIT, "--list-names").code == 4
    lying("elements", lambda answer: answer | {"elements": [{"source": "x"}]})
    assert afar("restore", *KIT, "--list-names").code == 4


def test_an_endless_answer_is_cut(afar: Run, lying: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MOST_JSON", 1 << 16)
    monkeypatch.setattr(client_module.KeeperClient._body, "__defaults__", (1 << 16,))
    lying("moment", lambda answer: answer | {"notes": ["x" * (1 << 20)]})
    answer = afar("restore", *KIT, "--list-names")
    assert answer.code == 1
    assert "its answer is larger than" in answer.err


def test_what_a_keeper_says_cannot_move_the_cursor(afar: Run, lying: Any) -> None:
    lying("moment", lambda answer: answer | {"notes": ["\x1b[2J\x1b]0;owned\x07 \u202e note"]})
    answer = afar("restore", *KIT, "--list-names")
    assert "\x1b" not in answer.err
    assert "\u202e" not in answer.err
    assert "note" in answer.err


def test_an_event_with_another_payload_is_refused(afar: Run, lying: Any, owner: Path) -> None:
    def alter(answer: dict[str, Any]) -> dict[str, Any]:
        for row in rows(answer):
            if row["id"] == id_of("top"):
                data = bytearray(base64.b64decode(row["events"][0]["payload"]))
                data[-1] ^= 1
                row["events"][0]["payload"] = base64.b64encode(bytes(data)).decode()
        return answer

    lying("elements", alter)
    answer = afar("restore", *KIT, "--to", "out")
    assert answer.code == 4
    assert "top" not in restored(owner / "out")
