"""The tables of docs/format.md name every field of every fact and record, and say truly what can be missing."""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType
from typing import get_args

import pytest

from ledger.bounds import NotEmpty
from ledger.events import (
    FACTS,
    AuditRange,
    Copy,
    Element,
    Failure,
    HeldListing,
    Keeping,
    Listing,
    Source,
    Surge,
    Unserved,
)
from ledger.shape import hints_of
from ledger.sql import schema

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
RECORDS = {
    "element": Element,
    "copy": Copy,
    "failure": Failure,
    "source": Source,
    "listing": Listing,
    "unserved": Unserved,
    "held": HeldListing,
    "surge": Surge,
    "audit range": AuditRange,
    "keeping": Keeping,
}


def fields_in(cell: str) -> dict[str, str]:
    """Return the fields that a cell of a table names, each with what stands in brackets behind it."""
    return {name: note or "" for name, note in re.findall(r"`(\w+)`(?:: [^`]*| \(([^)]*)\))?(?:, |$)", cell)}


def row_of(name: str) -> str:
    """Return the last cell of the row whose first cell has this."""
    (found,) = re.findall(rf"^\|[^|\n]*{re.escape(name)}[^|\n]*\|(?:.*\|)? ([^|\n]*) \|$", PAGE, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_has_the_fields_of_the_document_and_nil_where_it_says_so(name: str) -> None:
    told = fields_in(row_of(f"*{name}*"))
    hints = hints_of(RECORDS[name])
    assert list(told) == list(hints)
    assert {field for field, note in told.items() if "nil" in note} == {
        field for field, hint in hints.items() if NoneType in get_args(hint)
    }
    assert {field for field, note in told.items() if "not empty" in note} == {
        field for field, hint in hints.items() if any(isinstance(part, NotEmpty) for part in get_args(hint))
    }


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_has_the_fields_of_the_document(name: str) -> None:
    hints = hints_of(FACTS[name])
    assert set(fields_in(row_of(f"`{name}`"))) == set(hints)
    assert not any(NoneType in get_args(hint) for hint in hints.values())
    newer = (
        re.findall(r"Schema\s+version [123]\s+of\s+both\s+facts", PAGE)
        if name in {"ListingCompleted", "ListingHeldBack"}
        else re.findall(rf"`{name}` is at schema 2; schema 1", PAGE)
    )
    assert 1 + len(newer) == FACTS[name].VERSION


def test_the_columns_that_can_be_null_are_those_of_the_document() -> None:
    tables = [*schema.metadata.tables.values(), schema.version_table()]
    assert {str(column) for table in tables for column in table.columns if column.nullable} == {
        "stream.key",
        "event.nonce",
        "event.payload",
        "batch.batch_key",
        "batch.frontier",  # the document says that `verify` reports it
        "entry.due_us",
        "entry.claimed",
        "entry.size",
        "entry.sha256",
        "ledger_version.program",
        "pack.name",
    }
