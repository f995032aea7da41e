"""The gateway's page for its admin: what is served, what is not, tokens and pulls; for this machine alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import requests

from kropot.gateway.server import GatewayServer
from kropot.gateway.statuspage import status_page
from kropot.page.answers import POLICY

if TYPE_CHECKING:
    from pathlib import Path

SPEC = {"roles": ["securecopy.stream"], "expires": "never", "data": {"secureCopyEncryptionMethod": "sc2"}}


def test_the_admin_sees_what_is_served_and_what_is_not(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "secret-name.txt").write_text("secret content")
    (source / "link").symlink_to("/nowhere")
    (source / "outside").symlink_to("/")
    state = f"sqlite:///{tmp_path / 'gateway.db'}"
    with (
        GatewayServer(source, state, bytes(32), settle_s=0.1) as gateway,
        status_page(gateway.service, 0) as url,
        requests.Session() as session,
    ):
        session.trust_env = False
        token, _ = gateway.create_vault_token(SPEC)
        before = session.get(url, timeout=20)
        assert before.headers["content-security-policy"] == POLICY
        assert "The folder is served." in before.text
        assert "not since the gateway started" in before.text
        assert f"{token[:8]}-****" in before.text
        assert token not in before.text
        assert "secret" not in before.text, "no name of a file is shown"
        listed = session.get(f"{gateway.url}/secure-copy/file/list?limit=10&_token={token}", timeout=20)
        pulled = session.get(url, timeout=20).text
        assert listed.status_code == 200
        assert "not since the gateway started" not in pulled
        gateway.service.standing.failed()
        failing = session.get(url, timeout=20).text
        assert "Scans fail since" in failing
        assert "verdict red" in failing
        for headers in ({"Host": "evil.example"}, {"Host": f"evil.example:{url.rpartition(':')[2]}"}):
            assert session.get(url, headers=headers, timeout=20).status_code == 421
        assert session.post(url, timeout=20).status_code == 405
        assert session.get(f"{url}/page/static/page.css", timeout=20).status_code == 200
        assert session.get(f"{url}/other", timeout=20).status_code == 404
