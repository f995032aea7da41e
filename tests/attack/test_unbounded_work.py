"""A server that sends without end makes the collector stop and say so: memory, ledger and disk stay bounded."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from msgspec.structs import replace

from kropot.collect.decide import sources
from kropot.collect.decide.actions import Action, BeginListing, EndListing, ListPage, LookUp, RecordFacts, Say, TakeWork
from kropot.collect.decide.ending import growth_of
from kropot.collect.decide.inputs import (
    Conflicted,
    Input,
    ListingBegan,
    LookedUp,
    PageListed,
    Recorded,
    SourceRead,
    Started,
    Tick,
    WorkTaken,
)
from kropot.collect.decide.listing import GATHER_US
from kropot.collect.decide.rules import CollectRules
from kropot.collect.decide.step import Collector
from kropot.collect.run.effects import LedgerEffects
from kropot.errors import Exit
from kropot.securecopy.wire import MAX_LINE_BYTES, MAX_REJECTED, BadPageError, Listed, Page, parse_page
from ledger.events import HeldListing, ListingAdvanced, ListingHeldBack, RemoteObserved, Source
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from ledger.sql import open_store
from tests.kropot.scripted import Asked, ScriptedServer, measured

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli

HEADER = b'{"remainingSince":9}\n\n'
NOW = 1_795_414_108_000_000
MIB = 1 << 20
SOURCE = bytes(range(16))


# --- one page --------------------------------------------------------------------------------------------------------


def peak_of(body: bytes) -> tuple[int, Page | str]:
    """Return how many bytes reading a page takes at its peak, beside the page itself, and what came of it."""
    tracemalloc.start()
    try:
        found: Page | str = parse_page(200, "text/plain", body)
    except BadPageError as error:
        found = error.reason
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, found


@pytest.mark.parametrize("line", [b"\n", b"0\n", b"\n0\n[]\n", b'{"date":1}\n'])
def test_a_page_of_lines_that_are_no_entries_takes_no_memory_and_is_refused(line: bytes) -> None:
    peak, found = peak_of(HEADER + line * (16 * MIB // len(line)))
    assert found == "bad_lines"
    assert peak < 4 * MIB


@pytest.mark.parametrize(
    "line", [b"[" + b"{}," * (5 * MIB) + b"0]", b"[" * (16 * MIB), b'"' + b"a" * (16 * MIB) + b'"']
)
def test_a_line_far_longer_than_an_entry_is_not_decoded(line: bytes) -> None:
    peak, found = peak_of(HEADER + line + b"\n")
    assert isinstance(found, Page)
    assert [row.why for row in found.rejected] == ["too_long"]
    assert peak < 24 * MIB  # the line itself is 16 MiB
    assert peak_of(line + b"\n\n")[1] == "bad_header"


def test_a_page_of_entries_takes_a_few_times_its_size() -> None:
    lines = [b'{"type":"a","id":"%x","date":1,"tz":"","form":0}\n' % number for number in range(10_000)]
    body = HEADER + b"".join(lines)
    peak, found = peak_of(body)
    assert isinstance(found, Page)
    assert len(found.entries) == 10_000
    assert peak < 12 * len(body)


def test_the_longest_line_and_the_most_bad_lines_of_an_honest_page_are_borne() -> None:
    long = b'{"type":"a","id":"1","date":1,"tz":"","form":0'
    body = HEADER + long + b" " * (MAX_LINE_BYTES - len(long) - 1) + b"}\n" + b"\n" * MAX_REJECTED
    page = parse_page(200, "text/plain", body)
    assert (len(page.entries), len(page.rejected)) == (1, MAX_REJECTED)


# --- one listing -----------------------------------------------------------------------------------------------------


def entry(number: int, size: int = 0) -> Listed:
    return Listed(type="file", id=f"e{number}", date=number, tz="UTC", form=b'{"encrypted":"%s"}' % (b"A" * size))


def a_page(first: int, count: int, size: int = 0) -> Page:
    entries = tuple(entry(number, size) for number in range(first, first + count))
    return Page(entries=entries, rejected=(), remaining=count, closed=first + count)


class Listing:
    """A collector that is listing; what it asks of the ledger is answered by `tell` alone."""

    def __init__(self, source: Source | None = None, **rules: int | bool) -> None:
        self.source = source or sources.begin(salt=bytes(32), token="t", url="http://one.example").source
        self.collector = Collector(SOURCE, self.source, CollectRules(instance="main", page=2, **rules))  # type: ignore[arg-type]
        self.actions: list[Action] = []
        self.tell(Started(position=1))
        self.tell(WorkTaken(entries=(), next_due_us=None, free=None, position=1))
        self.tell(ListingBegan(source=self.source, version=1, known=0, position=1))

    def tell(self, happened: Input, now_us: int = NOW) -> list[Action]:
        self.actions = self.collector.step(now_us, happened)
        return self.actions

    def page(self, page: Page) -> list[Action]:
        return self.tell(PageListed(page=page))

    def look_up(self, free: int | None = None) -> list[Action]:
        return self.tell(LookedUp(known={}, source=self.collector.source, version=1, free=free))

    def record(self) -> list[Action]:
        (record,) = self.of(RecordFacts)
        return self.tell(Recorded(about=record.about, facts=record.facts))

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        return [action for action in self.actions if isinstance(action, kind)]

    def facts(self) -> list[object]:
        return [new.fact for record in self.of(RecordFacts) for new in record.facts]

    def says(self) -> list[str]:
        return [say.event for say in self.of(Say)]


def assert_held(listing: Listing, reason: str) -> None:
    """The listing's end is being recorded as held back, and afterwards the server is left alone."""
    (fact,) = listing.facts()
    assert isinstance(fact, ListingHeldBack)
    assert fact.source.held is not None
    assert (fact.source.held.reason, fact.source.held.is_accepted) == (reason, False)
    assert (fact.source.listed_us, fact.source.full_listed_us) == (None, None)
    listing.record()
    assert listing.says() == ["listing_held_back"]
    assert EndListing in map(type, listing.actions)
    held = listing.collector.source
    assert held.held is not None
    for hour in range(1, 4):
        now_us = NOW + hour * 3600 * 1_000_000
        listing.tell(Tick(), now_us)
        assert listing.of(BeginListing) == [BeginListing()]
        listing.tell(ListingBegan(source=held, version=2, known=2, position=9), now_us)
        assert listing.of(EndListing) == [EndListing()]
        assert listing.of(ListPage) + listing.of(LookUp) + listing.of(RecordFacts) + listing.of(Say) == []


def test_a_list_of_more_entries_than_allowed_is_held_back() -> None:
    listing = Listing(most_entries=4)
    listing.page(a_page(0, 2))
    listing.look_up()
    listing.record()
    listing.page(a_page(2, 2))
    assert listing.of(ListPage)
    listing.page(a_page(4, 2))
    assert listing.of(LookUp) + listing.of(ListPage) == []
    assert_held(listing, "too_many")


def test_what_is_being_recorded_when_a_list_turns_out_too_long_is_recorded_first() -> None:
    listing = Listing(most_entries=4)
    listing.page(a_page(0, 2))
    listing.look_up()
    assert [type(fact) for fact in listing.facts()] == [RemoteObserved, RemoteObserved, ListingAdvanced]
    (record,) = listing.of(RecordFacts)
    listing.page(a_page(2, 2))
    listing.page(a_page(4, 2))
    listing.tell(Tick(), NOW + 1_000_000)
    assert listing.of(LookUp) + listing.of(ListPage) + listing.of(RecordFacts) == []
    listing.tell(Recorded(about=record.about, facts=record.facts))
    assert_held(listing, "too_many")


def test_what_is_only_looked_up_when_a_list_turns_out_too_long_is_not_recorded() -> None:
    listing = Listing(most_entries=4)
    listing.page(a_page(0, 2))
    assert listing.of(LookUp)
    listing.page(a_page(2, 2))
    listing.page(a_page(4, 2))
    held = listing.actions
    listing.look_up()
    assert listing.actions == []
    listing.actions = held
    assert_held(listing, "too_many")


def test_lines_that_cannot_be_read_count_as_entries() -> None:
    bad = parse_page(200, "text/plain", HEADER + b'{"date":1}\n{"date":2}\n')
    listing = Listing(most_entries=3)
    listing.page(bad)
    listing.page(parse_page(200, "text/plain", HEADER + b'{"date":3}\n{"date":4}\n'))
    assert_held(listing, "too_many")


def test_a_list_that_adds_more_to_the_ledger_than_allowed_is_held_back_before_it_does() -> None:
    listing = Listing(most_growth=10_000)
    listing.page(a_page(0, 2, size=1000))
    listing.look_up()
    first = growth_of([new for record in listing.of(RecordFacts) for new in record.facts])
    assert 4000 < first < 10_000
    listing.record()
    listing.page(a_page(2, 2, size=60_000))
    listing.tell(Tick(), NOW + GATHER_US)
    assert listing.of(LookUp)
    listing.look_up()
    assert_held(listing, "too_large")


def test_a_hold_outlives_the_collector_until_a_person_accepts_it() -> None:
    source = sources.begin(salt=bytes(32), token="t", url="http://one.example").source
    listing = Listing(replace(source, held=HeldListing(reason="too_many", missing=0, known=7, since_us=1)), once=True)
    assert listing.of(ListPage) == []
    assert listing.says() == ["listing_held_back"]
    accepted = sources.accept(listing.source)
    assert accepted is not None
    assert Listing(accepted.source, once=True).of(ListPage)


def test_a_source_that_somebody_changed_meanwhile_is_held_back_all_the_same() -> None:
    listing = Listing(most_entries=1)
    listing.page(a_page(0, 2))
    listing.tell(Conflicted(about="listing", keys=frozenset()))
    listing.tell(SourceRead(source=replace(listing.source, zone="UTC"), version=7))
    (record,) = listing.of(RecordFacts)
    assert record.facts[0].expected == 7
    assert_held(listing, "too_many")


def test_ten_million_elements_are_listed_without_a_word() -> None:
    listing = Listing()
    listing.page(a_page(0, 2, size=1000))  # the sealed form of a path of 300 characters
    listing.look_up()
    growth = growth_of(listing.of(RecordFacts)[0].facts[:1])
    rules = CollectRules(instance="main")
    assert rules.most_entries >= 2 * 10_000_000
    assert rules.most_growth >= 10_000_000 * growth


# --- the disk --------------------------------------------------------------------------------------------------------


class SmallDisk(MemoryStore):
    """A ledger on a disk with so many bytes left."""

    free = 5

    def free_bytes(self) -> int:  # type: ignore[override]
        return self.free


@pytest.mark.parametrize(("storage", "ledger", "least"), [(None, 5, 5), (3, 5, 3), (9, 5, 5)])
def test_the_room_where_the_ledger_is_counts_too(storage: int | None, ledger: int, least: int) -> None:
    store = SmallDisk()
    store.free = ledger
    log = Ledger(store)
    log.begin()
    source = sources.begin(salt=bytes(32), token="t", url="http://one.example")
    log.append([NewFact(key=sources.source_key(SOURCE), fact=source, observed_us=1)])
    effects = LedgerEffects(ledger=log, source_id=SOURCE, instance="main", lease_us=1, free_bytes=lambda: storage)
    taken = effects.perform(TakeWork(limit=1, max_bytes=1, min_free=6, early=False))
    assert isinstance(taken, WorkTaken)
    assert (taken.entries, taken.free) == ((), least)
    looked = effects.perform(LookUp(entries=(entry(1),)))
    assert isinstance(looked, LookedUp)
    assert looked.free == ledger


def test_sqlite_knows_its_room_and_servers_do_not(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}", create=True)
    free = store.free_bytes()
    assert free is not None
    assert free > 0
    store.place = replace(store.place, path=None)
    assert store.free_bytes() is None
    store.close()


def test_nothing_new_is_recorded_while_the_ledgers_disk_is_nearly_full() -> None:
    listing = Listing(min_free=100)
    listing.page(a_page(0, 2))
    listing.look_up(free=99)
    assert listing.of(RecordFacts) == []
    assert listing.says() == ["listing_failed"]
    assert "--min-free" in listing.of(Say)[0].text
    listing = Listing(min_free=100)
    listing.page(a_page(0, 2))
    listing.look_up(free=100)
    assert len(listing.facts()) == 3


# --- the whole program -----------------------------------------------------------------------------------------------


@contextmanager
def endless(form: bytes) -> Iterator[ScriptedServer]:
    """Serve a list without an end: each page has new entries with later dates."""

    def answer(asked: Asked) -> list[bytes]:
        parts = urlsplit(asked.path)
        if not parts.path.endswith("/list"):
            return [measured(b"a content", Encryption_Initialization_Vector=None)]
        query = parse_qs(parts.query)
        start = 1
        if "since" in query:
            start = int(datetime.fromisoformat(query["since"][0]).replace(tzinfo=UTC).timestamp()) + 1
        if start > 200_000_000_000:
            return [measured(HEADER, Content_Type="text/plain")]
        lines = (
            b'{"type":"file","id":"%064x","date":%d,"tz":"UTC","form":%s}\n' % (start + i, start + i, form)
            for i in range(int(query["limit"][0]))
        )
        return [measured(HEADER + b"".join(lines), Content_Type="text/plain")]

    with ScriptedServer(answer) as server:
        yield server


@pytest.mark.parametrize(
    ("option", "form", "most"),
    [
        (("--listing-entries", "300"), b"0", 4 * MIB),
        (("--listing-growth", "20MiB"), b'"%s"' % (b"A" * 60_000), 64 * MIB),
    ],
)
def test_an_endless_list_ends_and_is_asked_for_again_only_after_a_person_looked(
    run_cli: RunCli, tmp_path: Path, option: tuple[str, str], form: bytes, most: int
) -> None:
    with endless(form) as server:
        words = ("--server-url", server.url, "collect", "--once", *option)
        env = {"KROPOT_TOKEN": "one-token-for-this-test"}
        done = run_cli(*words, env=env)
        assert done.returncode == Exit.PARTIAL, done.stderr
        assert f"the list is longer than {option[0]} allows, so it was held back" in done.stderr
        assert sum(path.stat().st_size for path in tmp_path.glob("database.db*")) < most
        events = int(json.loads(run_cli("db", "info", "--json").stdout)["position"])
        assert 250 < events < 1200

        status = run_cli("status", "--check")
        assert status.returncode == Exit.PARTIAL
        assert option[0] in status.stdout + status.stderr

        server.requests.clear()
        again = run_cli(*words, env=env)
        assert again.returncode == Exit.PARTIAL
        assert "the server is not listed again" in again.stderr
        assert [asked.path for asked in server.requests if "limit=256" in asked.path] == []

        assert "accepted for 1 source" in run_cli("source", "accept").stdout
        assert run_cli(*words, env=env).returncode == Exit.PARTIAL
        assert [asked.path for asked in server.requests if "limit=256" in asked.path] != []


def test_a_list_of_line_breaks_ends_a_run_with_a_sentence(run_cli: RunCli) -> None:
    with ScriptedServer(lambda _: [measured(HEADER + b"\n" * (4 * MIB), Content_Type="text/plain")]) as server:
        done = run_cli("--server-url", server.url, "collect", "--once", env={"KROPOT_TOKEN": "one-token-for-this-test"})
    assert done.returncode == Exit.ERROR
    assert "the server could not be listed: its answer cannot be used (bad_lines)" in done.stderr
    assert "Traceback" not in done.stderr
