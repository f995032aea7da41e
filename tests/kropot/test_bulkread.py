"""Bulk answers: what is read of them, and what a hostile server cannot do with them."""

from __future__ import annotations

import hashlib
import io
import struct
from typing import Any

import msgpack
import pytest

from kropot.sc2.layout import HEADER_BYTES
from kropot.securecopy.bulkread import MAX_HEAD, BadBulkAnswerError, BulkContent, BulkWanted, read_frames
from kropot.securecopy.bulkwire import MAX_ANSWER, MAX_CONTENT, Refusal, content_head, end_frame, refusal_frame

IV = bytes(range(16))
HEADER = bytes(range(HEADER_BYTES))


def wanted(at: int, size: int = 3, *, opaque: bool = False, header: bytes | None = None) -> BulkWanted:
    return BulkWanted(f"e{at}", f'"t{at}"', size, opaque, header)


def frame(at: int, data: bytes = b"abc", **other: Any) -> bytes:
    """A frame as it should be, but for the parts in `other`."""
    parts = {"at": at, "id": f"e{at}", "etag": f'"t{at}"', "iv": None, "size": len(data), **other}
    sha256 = other.get("sha256", hashlib.sha256(data).digest())
    return (
        content_head(parts["at"], parts["id"], parts["etag"], iv=parts["iv"], size=parts["size"], sha256=sha256) + data
    )


def raw(head: Any) -> bytes:
    packed = msgpack.packb(head)
    return struct.pack(">I", len(packed)) + packed


def read(stream: bytes, *asked: BulkWanted) -> tuple[list[BulkContent], str | None]:
    """Return what was read whole, and why the rest was not."""
    source = io.BytesIO(stream)

    def exactly(count: int) -> bytes:
        assert count <= MAX_CONTENT
        data = source.read(count)
        if len(data) != count:
            raise EOFError
        return data

    came: list[BulkContent] = []
    try:
        for content in read_frames(exactly, asked):
            came.append(content)  # noqa: PERF402 -- what came before an error counts
    except BadBulkAnswerError as error:
        return came, error.reason
    except EOFError:
        return came, "cut"
    return came, None


def test_contents_come_in_the_order_of_the_request_and_refusals_bring_nothing() -> None:
    stream = frame(0) + refusal_frame(1, "e1", Refusal.BUSY) + frame(2, b"xyz") + end_frame(3)
    came, why = read(stream, wanted(0), wanted(1), wanted(2))
    assert why is None
    assert [(one.at, one.data) for one in came] == [(0, b"abc"), (2, b"xyz")]
    assert came[1].sha256 == hashlib.sha256(b"xyz").digest()


@pytest.mark.parametrize(
    "bad",
    [
        frame(1, etag='"other"'),
        frame(1, b"abcd"),
        frame(1, sha256=bytes(32)),
        frame(1, iv=IV),
    ],
    ids=["another etag", "another size", "another digest", "an IV for a plain content"],
)
def test_what_is_wrong_with_one_content_spoils_no_other(bad: bytes) -> None:
    came, why = read(frame(0) + bad + frame(2) + end_frame(3), wanted(0), wanted(1), wanted(2))
    assert (why, [one.at for one in came]) == (None, [0, 2])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (frame(1)[4:], "bad_head"),
        (struct.pack(">I", MAX_HEAD + 1), "bad_head"),
        (struct.pack(">I", 3) + b"\xc1\xc1\xc1", "bad_head"),
        (raw({"a": 1}), "bad_head"),
        (raw([]), "bad_head"),
        (raw([0, 1, "e1"]), "bad_head"),
        (raw([0, 1, '"t1"', None, -1, bytes(32), "e1"]), "bad_head"),
        (raw([0, 1, '"t1"', None, "3", bytes(32), "e1"]), "bad_head"),
        (raw([0, 1, '"t1"', b"short", 3, bytes(32), "e1"]), "bad_head"),
        (raw([0, 1, '"t1"', None, 3, b"short", "e1"]), "bad_head"),
        (raw([0, 1, '"t1"', None, MAX_CONTENT + 1, bytes(32), "e1"]), "too_long"),
        (frame(0), "other_frame"),
        (frame(2), "other_frame"),
        (frame(7), "other_frame"),
        (frame(1, id="e2"), "other_frame"),
        (refusal_frame(0, "e0", Refusal.GONE), "other_frame"),
        (refusal_frame(1, "e2", Refusal.GONE), "other_frame"),
        (end_frame(1), "bad_head"),
        (raw([3, 1]), "bad_head"),
    ],
)
def test_frames_that_nobody_asked_for_end_the_answer_and_keep_what_was_whole(bad: bytes, reason: str) -> None:
    came, why = read(frame(0) + bad + frame(2) + end_frame(3), wanted(0), wanted(1), wanted(2))
    assert (why, [one.at for one in came]) == (reason, [0])


def test_an_answer_without_its_end_was_cut() -> None:
    assert read(frame(0), wanted(0))[1] == "cut"
    assert read(frame(0)[:-1], wanted(0)) == ([], "cut")
    assert read(frame(0) + end_frame(2), wanted(0))[1] == "no_end"
    assert read(frame(0) + frame(1), wanted(0))[1] == "no_end"


def test_no_answer_brings_more_than_it_may() -> None:
    full = b"\xff" * MAX_CONTENT
    count = MAX_ANSWER // MAX_CONTENT
    stream = b"".join(frame(at, full) for at in range(count + 1)) + end_frame(count + 1)
    came, why = read(stream, *[wanted(at, MAX_CONTENT) for at in range(count + 1)])
    assert (why, len(came)) == ("too_long", count)


def test_a_sealed_content_has_to_look_like_one() -> None:
    sealed = bytes(range(100, 132))
    assert read(frame(0, sealed, iv=IV) + end_frame(1), wanted(0, 32, opaque=True))[0][0].iv == IV
    for data, iv in ((sealed, None), (sealed[:31], IV), (b"", IV), (b" " * 96, IV)):
        assert read(frame(0, data, iv=iv) + end_frame(1), wanted(0, len(data), opaque=True)) == ([], None)


def test_an_object_of_sc2_begins_with_the_header_that_was_listed() -> None:
    body = HEADER + bytes(64)
    one = wanted(0, len(body), opaque=True, header=HEADER)
    assert len(read(frame(0, body) + end_frame(1), one)[0]) == 1
    other = b"\x01" + body[1:]
    assert read(frame(0, other) + end_frame(1), one) == ([], None)
    assert read(frame(0, body, iv=IV) + end_frame(1), one) == ([], None)
