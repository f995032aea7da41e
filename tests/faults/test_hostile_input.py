"""Whatever bytes a parser is given, it answers or raises one of its own errors, in bounded time and memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.mutate import NASTY, mutate
from tests.faults.targets import TARGETS

# A parser may copy what it is given a few times over, in Python's larger objects; it may not make much of little.
MEMORY_PER_BYTE = 400
MEMORY_AT_ALL = 8 << 20
SECONDS = 5.0


def expect_documented(name: str, data: bytes) -> None:
    target = TARGETS[name]
    said = "answered"
    try:
        target.parse(data)
    except target.errors as error:
        said = str(error)
    assert said, f"{name} refuses without a word"
    assert len(said) < 2_000 + len(data), f"{name} makes much of little"


@pytest.mark.parametrize("name", TARGETS)
def test_its_own_examples_are_taken(name: str) -> None:
    for example in TARGETS[name].examples():
        if name != "content tail":
            TARGETS[name].parse(example)


# What the fuzzers once found, by parser.
FOUND = [
    ("verifier key", b"\xb4uzz+d4d89f55+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"),
    ("signing key", b"PRIVATE+KEY+\xb4+d4d89f55+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"),
    ("configuration file", b"refresh-time = " + b"9" * 5000),
    ("configuration file", b"refresh-time = " + b"[" * 5000),
    ("pattern", b"[a--b&&c||d~~e[f]"),
    ("exclude file", b"[a--b&&c||d~~e[f]"),
    ("exclude file", b"[" + b"\x01" * 900),
    ("scan command", b"\x01" * 900),
    ("mark of a folder", b"/" + b"\x01" * 900),
]


@pytest.mark.parametrize(("name", "data"), FOUND)
@pytest.mark.filterwarnings("error")
def test_what_was_found_stays_mended(name: str, data: bytes) -> None:
    expect_documented(name, data)


@pytest.mark.parametrize("name", TARGETS)
@given(st.binary(max_size=300))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_answered_or_refused(name: str, data: bytes) -> None:
    expect_documented(name, data)


@pytest.mark.parametrize("name", TARGETS)
@given(st.integers(0, 1 << 64))
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_examples_are_answered_or_refused(name: str, seed: int) -> None:
    expect_documented(name, mutate(TARGETS[name].examples() or [b"x" * 64], seed))


@pytest.mark.parametrize("name", TARGETS)
def test_what_hurts_parsers_is_answered_or_refused_soon_and_in_little_memory(name: str) -> None:
    for number, data in enumerate(NASTY):
        expect_documented(name, data)  # whatever is loaded once is loaded now
        tracemalloc.start()
        began = time.thread_time()
        try:
            expect_documented(name, data)
            seconds, peak = time.thread_time() - began, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seconds < SECONDS, f"input {number}"
        assert peak < MEMORY_AT_ALL + MEMORY_PER_BYTE * len(data), f"input {number}"
