"""What makes a content answer believable."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.securecopy.content import ContentHead, TailCheck, UnbelievableError, check_tail, read_content_head
from tests.vectors.load import Exchange, content_bytes, contents, exchange, exchanges

BINARY = "application/octet-stream"
IV_HEX = "0123456789abcdef" * 2
GOOD = {"Content-Type": BINARY, "Encryption-Initialization-Vector": IV_HEX}
PAGE = exchange("midstream", "eio-start").body or b""
downloads = [found for found in exchanges("content") if found.name.startswith("sha512-")]
failures = [
    found
    for found in (*exchanges("errors"), *exchanges("content"), *exchanges("midstream"), *exchanges("delete"))
    if "/content" in found.path and found.status != 200
]


def reason_of(status: int, headers: Any, **rest: Any) -> str:
    with pytest.raises(UnbelievableError) as caught:
        read_content_head(status, headers, **rest)
    return caught.value.reason


def tail_reason(body: bytes, **rest: Any) -> str:
    check = TailCheck()
    for at in range(0, len(body), 1000):
        check.update(body[at : at + 1000])
    try:
        check.finish(**rest)
    except UnbelievableError as error:
        return error.reason
    return ""


@pytest.mark.parametrize("found", downloads, ids=lambda found: found.name)
def test_downloads_of_the_real_server_are_believed(found: Exchange) -> None:
    vector = next(vector for vector in contents() if vector["name"] == found.name)
    head = read_content_head(found.status, found.headers, opaque=True)
    assert head == ContentHead(iv=bytes.fromhex(vector["iv"]), length=None, etag=None, type=BINARY)
    assert tail_reason(content_bytes(found.name)[1], opaque=True) == ""


@pytest.mark.parametrize("found", failures, ids=lambda found: found.name)
def test_failures_of_the_real_server_are_not_believed(found: Exchange) -> None:
    assert reason_of(found.status, found.headers) == f"http_{found.status}"


def test_all_kinds_of_answers_were_looked_at() -> None:
    assert len(downloads) == 17
    assert len(failures) > 12


def test_an_iv_on_a_500_is_no_sign_of_success() -> None:
    found = exchange("midstream", "eio-start")
    assert any(name == "Encryption-Initialization-Vector" for name, _ in found.headers)
    assert reason_of(found.status, found.headers) == "http_500"


def test_the_page_appended_by_the_real_time_limit_is_noticed() -> None:
    found = exchange("midstream", "php-time-limit-2s")
    assert found.body is not None
    read_content_head(found.status, found.headers, opaque=True)
    with pytest.raises(UnbelievableError, match="error_page"):
        check_tail(found.body, 461374358, opaque=True)


@pytest.mark.parametrize("blocks", [0, 1, 4096])
@pytest.mark.parametrize("padding", range(16))
def test_an_appended_page_is_noticed_at_any_length(blocks: int, padding: int) -> None:
    body = Random(blocks).randbytes(16 * blocks) + PAGE + b" " * padding
    assert tail_reason(body, opaque=True) == "error_page"
    assert tail_reason(body, opaque=True, expected=len(body)) == "error_page"


@pytest.mark.parametrize(
    "text",
    [
        b"<br />\n<b>Fatal error</b>:  Maximum execution time exceeded in <b>x</b> on line <b>1</b><br />\n",
        b"<!-- Oops (500) -->\n<!DOCTYPE html><html><body>" + "ż".encode() + b"</body>\n</html>\n<!-- Oops (500) -->",
        b"{" + b'"message": "Internal Server Error", "code": 500, "trace": "none at all in here"' + b"}",
    ],
)
def test_any_appended_text_is_noticed(text: bytes) -> None:
    body = Random(1).randbytes(4096) + text
    assert tail_reason(body + b" " * (-len(body) % 16), opaque=True) == "error_page"


@given(blocks=st.integers(1, 600), seed=st.integers())
def test_random_blocks_are_believed(blocks: int, seed: int) -> None:
    assert tail_reason(Random(seed).randbytes(16 * blocks), opaque=True) == ""


@pytest.mark.parametrize(
    ("size", "expected", "reason"),
    [
        (0, None, "empty"),
        (15, None, "not_whole_blocks"),
        (17, None, "not_whole_blocks"),
        (32, 48, "wrong_length"),
        (32, 32, ""),
    ],
)
def test_encrypted_lengths_are_compared(size: int, expected: int | None, reason: str) -> None:
    assert tail_reason(Random(size).randbytes(size), opaque=True, expected=expected) == reason


def test_plain_content_may_be_empty_or_a_web_page() -> None:
    assert tail_reason(b"", opaque=False) == ""
    assert tail_reason(b"<!DOCTYPE html>\n<html>bread</html>\n", opaque=False) == ""
    assert tail_reason(PAGE, opaque=False, expected=len(PAGE)) == ""
    assert tail_reason(PAGE, opaque=False) == "error_page"
    assert tail_reason(b"bread", opaque=False, expected=4) == "wrong_length"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Content-Type": "text/html"}, "not_octet_stream"),
        ({"Content-Type": None}, "not_octet_stream"),
        ({"Content-Encoding": "gzip"}, "encoded"),
        ({"Encryption-Initialization-Vector": None}, "iv_missing"),
        ({"Encryption-Initialization-Vector": ""}, "iv_not_hex"),
        ({"Encryption-Initialization-Vector": "z" * 32}, "iv_not_hex"),
        ({"Encryption-Initialization-Vector": IV_HEX.upper()}, "iv_not_hex"),
        ({"Encryption-Initialization-Vector": IV_HEX + "00"}, "iv_not_hex"),
        ({"Content-Length": "0"}, "bad_length"),
        ({"Content-Length": "17"}, "bad_length"),
        ({"Content-Length": "-16"}, "bad_length"),
        ({"Content-Length": "1" * 30}, "bad_length"),
        ({"Content-Length": "\u0661\u0666"}, "bad_length"),
    ],
)
def test_heads_that_promise_no_sound_copy_are_refused(change: dict[str, str | None], reason: str) -> None:
    headers = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    assert reason_of(200, headers, opaque=True) == reason


@pytest.mark.parametrize("status", [100, 201, 204, 206, 301, 400, 403, 404, 416, 500])
def test_only_200_is_success(status: int) -> None:
    assert reason_of(status, GOOD) == f"http_{status}"


def test_headers_that_disagree_are_refused() -> None:
    twice = [*GOOD.items(), ("encryption-initialization-vector", "f" * 32)]
    assert reason_of(200, twice) == "ambiguous_head"
    same = [*GOOD.items(), ("encryption-initialization-vector", IV_HEX), ("Date", "a"), ("Date", "b")]
    assert read_content_head(200, same).iv == bytes.fromhex(IV_HEX)


def test_what_the_gateway_tells_is_read() -> None:
    headers = {**GOOD, "Content-Length": "48", "ETag": '"abc"', "Content-Encoding": "identity"}
    assert read_content_head(200, headers) == ContentHead(
        iv=bytes.fromhex(IV_HEX), length=48, etag='"abc"', type=BINARY
    )
    assert read_content_head(200, {"content-type": BINARY, "content-length": "5"}, opaque=False).length == 5


def test_a_resumed_transfer_must_be_the_rest_of_the_whole() -> None:
    part = {**GOOD, "Content-Range": "bytes 32-63/64", "Content-Length": "32", "ETag": '"abc"'}
    head = read_content_head(206, part, resumed_at=32)
    assert (head.offset, head.length) == (32, 64)
    assert read_content_head(200, GOOD, resumed_at=32).offset == 0
    for bad in ("bytes 16-63/64", "bytes 32-62/64", "bytes 32-63/*", "bytes */64", "32-63/64", ""):
        assert reason_of(206, {**part, "Content-Range": bad}, resumed_at=32) == "bad_range"
    assert reason_of(206, {**part, "Content-Length": "31"}, resumed_at=32) == "bad_range"
    assert reason_of(206, {**part, "Content-Length": "48"}, resumed_at=32) == "bad_range"


@given(
    status=st.sampled_from([200, 206, 404, 500]),
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "Content-Type",
                    "Content-Length",
                    "ETag",
                    "Encryption-Initialization-Vector",
                    "X",
                    "Content-Range",
                    "Content-Encoding",
                ]
            ),
            st.sampled_from([BINARY, IV_HEX, "identity", "16", "bytes 16-31/32"]) | st.text(max_size=40),
        ),
        max_size=8,
    ),
    resumed_at=st.sampled_from([0, 16]),
)
def test_any_head_is_read_or_unbelievable(status: int, headers: list[tuple[str, str]], resumed_at: int) -> None:
    try:
        head = read_content_head(status, headers, resumed_at=resumed_at)
    except UnbelievableError:
        return
    assert head.type == BINARY
    assert head.iv is None or len(head.iv) == 16
    assert head.length is None or head.length >= 0


@given(chunks=st.lists(st.binary(max_size=3000), max_size=6))
def test_the_tail_is_the_end_whatever_the_chunks(chunks: list[bytes]) -> None:
    check = TailCheck()
    for chunk in chunks:
        check.update(memoryview(chunk))
    whole = b"".join(chunks)
    assert (check.tail, check.length) == (whole[-4096:], len(whole))
