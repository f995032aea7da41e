"""Who the client is behind trusted proxies: the last hop that is not trusted, whatever it and the others look like."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.serving.forwarded import client_behind, crowd_of, is_trusted, parse_address, parse_networks
from tests.gateway.serve import STREAM, Served

if TYPE_CHECKING:
    from pathlib import Path

PROXIES = parse_networks(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"])
PEER = ip_address("10.0.0.1")


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        ([], "10.0.0.1"),
        (["192.0.2.7"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7"], "192.0.2.7"),
        (["203.0.113.9", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.2.3.4, 127.0.0.1"], "192.0.2.7"),
        (["203.0.113.9,192.0.2.7,10.2.3.4"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["203.0.113.9, 10.1.1.1:4711"], "203.0.113.9"),
        (["[2001:4860::1]:4711"], "2001:4860::1"),
        (["2001:4860::1"], "2001:4860::1"),
        (["192.0.2.7, [2001:db8::1]:443"], "192.0.2.7"),
        (["192.0.2.7, ::ffff:10.0.0.9"], "192.0.2.7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        # What is not an address is not trusted, so it counts, and nothing before it does.
        (["192.0.2.7, unknown"], None),
        (["192.0.2.7, "], None),
        (["192.0.2.7", ""], None),
        ([""], None),
        (["192.0.2.7, unix:"], None),
        (["192.0.2.7, 10.0.0.256"], None),
        (["192.0.2.7, 10.0.0.1 evil"], None),
        (["192.0.2.7, 127.0.0.1;192.0.2.8"], None),
    ],
)
def test_last_hop_that_is_not_trusted_counts(hops: list[str], client: str | None) -> None:
    found = client_behind(PEER, [hop.encode() for hop in hops], PROXIES)
    assert (None if found is None else str(found)) == client


@given(written=st.lists(st.text(st.characters(max_codepoint=255), max_size=20), max_size=4))
def test_what_a_client_writes_itself_changes_nothing(written: list[str]) -> None:
    hops = [text.encode("latin-1") for text in written]
    assert client_behind(PEER, [*hops, b"192.0.2.7"], PROXIES) == ip_address("192.0.2.7")
    assert client_behind(PEER, [b",".join([*hops, b"192.0.2.7, 10.3.3.3"])], PROXIES) == ip_address("192.0.2.7")


def test_trust_sees_through_an_ipv4_address_written_in_ipv6() -> None:
    assert is_trusted(parse_address("::ffff:127.0.0.1"), PROXIES)
    assert not is_trusted(parse_address("::ffff:192.0.2.7"), PROXIES)
    assert not is_trusted(None, PROXIES)


def test_one_customer_is_one_crowd() -> None:
    def crowd(text: str) -> str:
        return crowd_of(parse_address(text))

    assert crowd("2001:4860:1:2::1") == crowd("2001:4860:1:2:ffff::9") != crowd("2001:4860:1:3::1")
    assert crowd("192.0.2.7") == crowd("::ffff:192.0.2.7") != crowd("192.0.2.8")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("192.0.2.7", 200),
        ("203.0.113.9, 192.0.2.7", 200),
        ("192.0.2.7, 127.0.0.1", 200),
        ("192.0.2.7, 203.0.113.9", 403),
        ("192.0.2.7, ", 403),
        ("192.0.2.7, unknown", 403),
        ("127.0.0.1", 403),
    ],
)
def test_token_of_one_address_is_refused_for_another(tmp_path: Path, header: str, status: int) -> None:
    with Served(tmp_path, trusted_proxies=("127.0.0.1",)) as served:
        client = served.client({**STREAM, "data": {"allowedIpAddresses": ["192.0.2.7"]}})
        assert client.get("/secure-copy/file/list", headers={"X-Forwarded-For": header}).status_code == status


def test_token_of_the_proxy_is_for_nobody_whom_it_does_not_name(tmp_path: Path) -> None:
    with Served(tmp_path, trusted_proxies=("127.0.0.1",)) as served:
        client = served.client({**STREAM, "data": {"allowedIpAddresses": ["127.0.0.1"]}})
        assert client.get("/secure-copy/file/list").status_code == 200, "without the header, the proxy itself asks"
        for header in ("", ",", "unknown"):
            assert client.get("/secure-copy/file/list", headers={"X-Forwarded-For": header}).status_code == 403


def test_scheme_of_the_proxy_is_in_the_templates(tmp_path: Path) -> None:
    with Served(tmp_path, trusted_proxies=("127.0.0.1",)) as served:
        answer = served.client().get("/secure-copy/file/list", headers={"X-Forwarded-Proto": "https"})
        assert '"fetchUrlTemplate":"https://127.0.0.1' in answer.text
