"""docs/json.md is the schema of every output with --json: each type is printed somewhere, and nothing else is."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kropot.wording import instant
from tests.json_schema import PAGE, TIME, hold_to_schema, sections, wrong, wrong_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import RunCli

CLI = Path(__file__).parents[2] / "kropot" / "cli"
NAMED_BY_A_VARIABLE = {"db.py": "_print_result", "snapshot.py": "_print_result"}
"""Where a helper passes the type on, and by which name the helper is called."""


def printed_types() -> Iterator[tuple[str, str]]:
    """Yield (file, type) of every message that a command prints."""
    for path in sorted(CLI.glob("*.py")):
        helper = NAMED_BY_A_VARIABLE.get(path.name)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id == "emit_json" and isinstance(node.args[0], ast.Constant):
                yield path.name, str(node.args[0].value)
            elif node.func.id == helper:
                assert isinstance(node.args[1], ast.Constant)
                yield path.name, str(node.args[1].value)
            elif node.func.id == "emit_json":
                assert helper is not None, f"{path.name} prints a message whose type is no literal"


def test_every_message_is_documented_and_every_documented_one_is_printed() -> None:
    text = PAGE.read_text()
    messages, _, parts = text.partition("\n## Parts of messages\n")
    documented = {name for name in sections() if f"### `{name}`" in messages}
    assert {name for _, name in printed_types()} == documented
    for name in sections().keys() - documented:
        used = f"| {name} |" in text or f" {name} |" in text or f"| {name} or null" in text or f" {name}, " in text
        assert used or f"{name} or null" in text, f"no message has a {name}"
        assert f"### `{name}`" in parts


def test_every_type_in_the_page_can_be_checked() -> None:
    for section, fields in sections().items():
        assert fields, section
        for name, field in fields.items():
            assert field.type, (section, name)
            inner = field.type.removesuffix(" or null").removeprefix("list of ").removeprefix("map of ")
            plain = inner.removeprefix("map of ")
            assert plain in {"text", "integer", "number", "boolean", "time", "hex", "any"} | sections().keys(), plain


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[]", "no object"),
        ("{}", "no message_type"),
        ('{"message_type": "nobody"}', "does not describe"),
        ('{"message_type": "accepted"}', "lacks fields"),
        ('{"message_type": "accepted", "accepted": ["AB"]}', "hex"),
        ('{"message_type": "accepted", "accepted": [], "more": 1}', "more"),
    ],
)
def test_what_is_not_in_the_page_is_refused(line: str, told: str) -> None:
    assert told in (wrong_line(line) or "")
    with pytest.raises(AssertionError):
        hold_to_schema(["source", "accept", "--json"], line)


def test_there_is_one_spelling_of_times() -> None:
    assert instant(0) == "1970-01-01T00:00:00.000000Z"
    assert instant(1_790_000_000_000_001) == "2026-09-21T14:13:20.000001Z"
    assert TIME.fullmatch(instant(1 << 62))
    assert wrong("2026-09-21T14:13:20Z", "time", "here") is not None
    assert wrong(True, "integer", "here") is not None
    assert wrong(None, "list of hex or null", "here") is None
    assert sorted(map(instant, (5, 1_000_000, 70))) == [instant(5), instant(70), instant(1_000_000)]


def test_a_failure_is_an_object_too(run_cli: RunCli) -> None:
    done = run_cli("log", "--json")
    error = json.loads(done.stderr)
    assert (done.returncode, done.stdout) == (10, "")
    assert (error["message_type"], error["exit"]) == ("error", 10)
    assert TIME.fullmatch(error["timestamp"])
