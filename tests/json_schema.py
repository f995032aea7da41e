"""Reads docs/json.md as a schema, and holds messages to it. Every run of the program in the tests is held to it."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "json.md"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z|-?\d+ us since 1970")
HEX = re.compile(r"(?:[0-9a-f]{2})*")
DOCUMENTS = {"kropotcli-inclusion-proof-v1", "kropotcli-consistency-proof-v1"}
"""Formats of docs/format.md that are printed as they are."""


class Field(NamedTuple):
    type: str
    is_optional: bool


@cache
def sections() -> dict[str, dict[str, Field]]:
    """Return the fields of every message and part."""
    found: dict[str, dict[str, Field]] = {}
    name = ""
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"### `(\w+)`", line):
            name = heading[1]
            assert name not in found, f"docs/json.md describes {name} twice"
            found[name] = {}
        elif name and (row := re.match(r"\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", line)):
            type_, _, more = row[2].strip().partition(", ")
            assert more in {"", "optional"}, line
            assert row[3].strip(), line
            found[name][row[1]] = Field(type_, more == "optional")
        elif line.startswith("## "):
            name = ""
    return found


def wrong(value: Any, type_: str, where: str) -> str | None:
    """Return in what a value is not of this type, None if it is."""
    if type_.endswith(" or null"):
        return None if value is None else wrong(value, type_.removesuffix(" or null"), where)
    outer, _, inner = type_.partition(" of ")
    if outer in {"list", "map"}:
        if not isinstance(value, list if outer == "list" else dict):
            return f"{where} is no {outer}: {value!r}"
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return next((bad for name, each in items if (bad := wrong(each, inner, f"{where}.{name}"))), None)
    is_right = {
        "any": True,
        "text": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": type(value) is int,
        "number": type(value) in {int, float},
        "time": isinstance(value, str) and TIME.fullmatch(value) is not None,
        "hex": isinstance(value, str) and HEX.fullmatch(value) is not None,
    }
    if type_ in is_right:
        return None if is_right[type_] else f"{where} is not of the type {type_}: {value!r}"
    return wrong_fields(value, type_, where)


def wrong_fields(value: Any, section: str, where: str) -> str | None:
    """Return in what an object is not what its section says, None if it is."""
    if section not in sections():
        return f"{where} has the type {section!r}, which docs/json.md does not describe"
    if not isinstance(value, dict):
        return f"{where} is no object: {value!r}"
    fields = sections()[section]
    given = {name: each for name, each in value.items() if name != "message_type"}
    if unknown := given.keys() - fields.keys():
        return f"{where} has fields that docs/json.md does not describe: {sorted(unknown)}"
    if missing := {name for name, field in fields.items() if not field.is_optional} - given.keys():
        return f"{where} lacks fields: {sorted(missing)}"
    found = (wrong(each, fields[name].type, f"{where}.{name}") for name, each in given.items())
    return next(filter(None, found), None)


def wrong_line(line: str) -> str | None:
    """Return in what a line of stdout is no message of docs/json.md, None if it is one."""
    value = json.loads(line)
    if not isinstance(value, dict):
        return f"no object: {line[:200]}"
    if value.get("format") in DOCUMENTS:
        return None
    if "message_type" not in value:
        return f"it has no message_type: {line[:200]}"
    return wrong_fields(value, str(value["message_type"]), str(value["message_type"]))


def hold_to_schema(args: tuple[str, ...] | list[str], stdout: str) -> None:
    """Fail if a run with --json printed something that docs/json.md does not describe."""
    if "--json" in args and not {"-h", "--help", "--version", "-V", "--nagios"}.intersection(args):
        for line in stdout.splitlines():
            bad = wrong_line(line)
            assert bad is None, f"`kropotcli {' '.join(args)}`: {bad}"
