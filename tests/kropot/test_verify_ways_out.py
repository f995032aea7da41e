"""What `verify` says of a bad copy: one line for each state, and each way out is one that works in that state."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from kropot.verify.ways_out import (
    IS_FETCHED_AGAIN,
    WHY_UNRECORDED,
    BadCopy,
    Found,
    Reach,
    Role,
    Unrecorded,
    Way,
    explain,
    way_out,
)

KNOWN = BadCopy(found="lost", detail="the object is gone", recorded="lost")
NEW = BadCopy(found="damaged", detail="it has 5 bytes, and 100 were stored")
UNREAD = BadCopy(found="not_read", recorded="damaged")

TABLE: list[tuple[str, BadCopy, Way]] = [
    # What can be fetched again: who has to do what before it is.
    ("new and recorded", NEW, Way.AGAIN),
    ("known already", KNOWN, Way.AGAIN),
    ("known, and not looked at again", UNREAD, Way.AGAIN),
    ("new, in a repair", BadCopy(found="lost", repairs=True), Way.NOW),
    ("known, in a repair", BadCopy(found="lost", recorded="lost", repairs=True), Way.NOW),
    ("known, and fetching it fails", BadCopy(found="lost", recorded="lost", failure="http_500"), Way.FAILS),
    (
        "known, fetching fails, and nothing is recorded",
        BadCopy(found="lost", recorded="lost", failure="http_500", unrecorded="no_record"),
        Way.FAILS,
    ),
    ("new, --no-record", BadCopy(found="lost", unrecorded="no_record"), Way.RECORD),
    ("known, --no-record", BadCopy(found="lost", recorded="lost", unrecorded="no_record"), Way.AGAIN),
    ("new, a read-only database", BadCopy(found="lost", unrecorded="read_only"), Way.WRITABLE),
    ("known, a read-only database", BadCopy(found="lost", recorded="lost", unrecorded="read_only"), Way.AGAIN),
    ("new, a ledger with errors", BadCopy(found="lost", unrecorded="bad_ledger"), Way.LEDGER),
    ("known, a ledger with errors", BadCopy(found="lost", recorded="lost", unrecorded="bad_ledger"), Way.LEDGER),
    (
        "known, a ledger with errors, in a repair",
        BadCopy(found="lost", recorded="lost", unrecorded="bad_ledger", repairs=True),
        Way.LEDGER,
    ),
    # What no fetch brings back.
    ("vanished", BadCopy(found="lost", is_present=False), Way.GONE),
    ("vanished and known", BadCopy(found="lost", recorded="lost", is_present=False), Way.GONE),
    ("vanished, in a repair", BadCopy(found="lost", is_present=False, repairs=True), Way.GONE),
    ("vanished, --no-record", BadCopy(found="lost", is_present=False, unrecorded="no_record"), Way.GONE),
    ("the token is refused", BadCopy(found="lost", recorded="lost", reach="refused"), Way.REFUSED),
    ("the token is refused, in a repair", BadCopy(found="lost", reach="refused", repairs=True), Way.REFUSED),
    ("the token is refused, and it vanished", BadCopy(found="lost", reach="refused", is_present=False), Way.GONE),
    ("another token took over", BadCopy(found="lost", recorded="lost", reach="past"), Way.PAST),
    ("the source is retired", BadCopy(found="lost", recorded="lost", reach="retired"), Way.RETIRED),
    ("the source is retired, and it vanished", BadCopy(found="lost", reach="retired", is_present=False), Way.RETIRED),
    ("an older revision", BadCopy(found="damaged", role="older"), Way.OLD),
    ("an older revision, known", BadCopy(found="damaged", recorded="damaged", role="older"), Way.OLD),
    ("an older revision of a retired source", BadCopy(found="damaged", role="older", reach="retired"), Way.OLD),
    ("a newer revision waits", BadCopy(found="damaged", role="outdated"), Way.OUTDATED),
    ("a newer revision waits, in a repair", BadCopy(found="damaged", role="outdated", repairs=True), Way.OUTDATED),
    ("a newer revision was seen, and it vanished", BadCopy(found="lost", role="outdated", is_present=False), Way.GONE),
    # What is not known to be bad, or is not bad any more.
    ("the same revision was fetched again", BadCopy(found="lost", recorded="lost", role="replaced"), Way.NOTHING),
    ("the same, not looked at", BadCopy(found="not_read", recorded="lost", role="replaced"), Way.NOTHING),
    ("no right to read it", BadCopy(found="unreadable", detail="permission denied"), Way.MEND),
    ("no right to read it, known", BadCopy(found="unreadable", recorded="damaged"), Way.MEND),
    (
        "it is back with the right size, --quick",
        BadCopy(found="not_read", recorded="lost", detail="it is back"),
        Way.READ,
    ),
    ("it was put back", BadCopy(found="sound", recorded="lost"), Way.NONE),
    ("a person dismissed it", BadCopy(found="lost", recorded="lost", is_dismissed=True), Way.DISMISSED),
    (
        "a person dismissed an older one",
        BadCopy(found="not_read", recorded="lost", role="older", is_dismissed=True),
        Way.DISMISSED,
    ),
    ("a person dismissed it, and it is newly lost", BadCopy(found="lost", is_dismissed=True), Way.AGAIN),
    (
        "a person dismissed it, and so much is new",
        BadCopy(found="lost", is_dismissed=True, unrecorded="mass"),
        Way.MOUNT,
    ),
    # A storage that may not be mounted: nothing new is believed, and what was known before is as it was.
    ("so much is new", BadCopy(found="lost", unrecorded="mass"), Way.MOUNT),
    ("so much is new, and it vanished", BadCopy(found="lost", unrecorded="mass", is_present=False), Way.MOUNT),
    ("so much is new, an older revision", BadCopy(found="lost", unrecorded="mass", role="older"), Way.MOUNT),
    ("so much is new, a copy that was replaced", BadCopy(found="lost", unrecorded="mass", role="replaced"), Way.MOUNT),
    ("so much is new, and this was known", BadCopy(found="lost", recorded="lost", unrecorded="mass"), Way.AGAIN),
    (
        "so much is new, this was known and vanished",
        BadCopy(found="lost", recorded="lost", unrecorded="mass", is_present=False),
        Way.GONE,
    ),
]


@pytest.mark.parametrize(("copy", "way"), [line[1:] for line in TABLE], ids=[line[0] for line in TABLE])
def test_each_state_has_its_way_out(copy: BadCopy, way: Way) -> None:
    assert way_out(copy) is way
    words = explain(copy)
    assert words.way is way
    assert words.severity == ("note" if way in {Way.NONE, Way.NOTHING, Way.DISMISSED} else "error")


def test_every_way_out_is_in_the_table() -> None:
    assert {way for _, _, way in TABLE} == set(Way)
    assert set(WHY_UNRECORDED) == set(get_args(Unrecorded))


def test_no_state_is_promised_a_fetch_that_cannot_come() -> None:
    every = product(
        get_args(Found),
        (None, "damaged", "lost"),
        get_args(Role),
        (True, False),
        get_args(Reach),
        (None, "http_500"),
        (None, *get_args(Unrecorded)),
        (True, False),
    )
    for found, recorded, role, present, reach, failure, unrecorded, repairs in every:
        copy = BadCopy(
            found=found,
            recorded=recorded,
            role=role,
            is_present=present,
            reach=reach,
            failure=failure,
            unrecorded=unrecorded,
            repairs=repairs,
        )
        way = way_out(copy)
        if way in IS_FETCHED_AGAIN:
            assert (role, present, reach) == ("newest", True, "open"), copy
            assert unrecorded is None or not copy.is_new, copy
        if way is Way.MOUNT:
            assert copy.is_new, copy
        if found in {"damaged", "lost"} and role != "replaced":
            assert explain(copy).kind == f"{found}_object", copy


def test_what_was_known_is_said_with_what_was_found() -> None:
    assert explain(KNOWN).detail == "the object is gone (already recorded as lost)"
    assert explain(NEW).detail == "it has 5 bytes, and 100 were stored"
    assert explain(UNREAD).detail == "recorded as damaged; this run did not look at it again"
    assert explain(UNREAD).kind == "damaged_object"
    failing = BadCopy(found="lost", detail="the object is gone", recorded="lost", failure="http_404")
    assert explain(failing).detail.endswith("; fetching it again fails: http_404")
    assert explain(BadCopy(found="sound", recorded="lost")).kind == "recovered_object"
    assert explain(BadCopy(found="lost", recorded="lost", role="replaced")).kind == "replaced_object"
