"""A strict reader of bulk answers, as a client has it, for tests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from kropot.securecopy.bulkwire import MEDIA_TYPE, PATH, encode_request

if TYPE_CHECKING:
    import requests

    from tests.gateway.serve import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame as it came: its head, and its content (empty for a refusal)."""

    head: list[Any]
    content: bytes

    @property
    def reason(self) -> str | None:
        return self.head[2] if self.head[0] == 1 else None


def frames(body: bytes) -> tuple[list[Frame], bool]:
    """Return the whole frames of an answer, and whether its end frame came."""
    found: list[Frame] = []
    at = 0
    while at + 4 <= len(body):
        begin = at + 4
        end = begin + int.from_bytes(body[at:begin], "big")
        if end > len(body):
            break
        head = msgpack.unpackb(body[begin:end], raw=False)
        if head[0] == 2:
            assert head == [2, len(found)]
            assert end == len(body), "nothing stands behind the end"
            return found, True
        size = head[4] if head[0] == 0 else 0
        if end + size > len(body):
            break
        content = body[end : end + size]
        assert head[1] == len(found), "frames come in the order of the request, one each"
        if head[0] == 0:
            _, _, etag, iv, _, sha256, element = head
            assert hashlib.sha256(content).digest() == sha256
            assert iv is None or len(iv) == 16
            assert type(etag) is str
            assert type(element) is str
        else:
            assert [type(each) for each in head] == [int, int, str, str]
        found.append(Frame(head=head, content=content))
        at = end + size
    return found, False


def post(client: Client, body: bytes, **options: Any) -> requests.Response:
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    return client.session.post(f"{client.url}{PATH}", data=body, headers=headers, timeout=20, **options)


def bulk(client: Client, elements: list[tuple[str, str]]) -> list[Frame]:
    """Return the frames of a whole answer."""
    answer = post(client, encode_request(elements))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    found, is_whole = frames(answer.content)
    assert is_whole
    assert [each.head[6 if each.head[0] == 0 else 3] for each in found] == [element for element, _ in elements]
    return found


def listed(client: Client) -> list[tuple[str, str]]:
    """Return everything that a client can ask for."""
    return [(entry.id, entry.etag) for entry in client.page(limit=8191).entries if entry.etag is not None]
