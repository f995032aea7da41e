"""List pages from the process beside the gateway: the same bytes, and nothing lost without it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from kropot.gateway.listing import PageWanted, build_page
from kropot.gateway.pages import PageProcess
from ledger.events import Unserved
from tests.gateway.serve import KEY, PLAIN, SEALED, VAULTED, Served

if TYPE_CHECKING:
    from pathlib import Path

UNSERVED = Unserved(sockets=1, pipes=2, devices=3, links=4, unreadable=5, unsettled=6, excluded=7)


def test_the_process_makes_the_pages_that_the_gateway_makes(tmp_path: Path) -> None:
    """Every kind of token. Without the process, or while it is busy, the gateway is told to make the page itself."""
    with Served(tmp_path) as served:
        for number in range(40):
            (served.folder / f"file {number}").write_bytes(bytes(number))
        served.server.rescan()
        service = served.server.service
        tokens = [service.book.create(spec).token for spec in (SEALED, PLAIN, VAULTED)]
        revocations = service.options.revocations
        with PageProcess(state_url=served.state_url, master_key=KEY, revocations=revocations) as pages:
            for token in tokens:
                for wanted in (
                    PageWanted(None, 8191, "http://here", UNSERVED, 7),
                    PageWanted(0, 10, ""),
                    PageWanted(2**33, 10, ""),
                ):
                    made = build_page(service.state, service.app._tellings, token, wanted)
                    assert pages.page(token, wanted) == made
                    assert len(made[1]) == (0 if wanted.since == 2**33 else 40 + (token.held is not None))
            pages._is_free.acquire()
            assert pages.page(tokens[0], wanted) is None, "busy"
            pages._is_free.release()
            assert pages._process is not None
            os.kill(pages._process.pid, signal.SIGKILL)
            with capture_logs() as lines:
                assert pages.page(tokens[0], wanted) is None, "killed"
                assert pages.page(tokens[0], wanted) is None
            assert [line["event"] for line in lines] == ["page_process_ended"]


def test_what_the_process_cannot_make_is_left_to_the_gateway(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        service = served.server.service
        token = service.book.create(SEALED).token
        revocations = service.options.revocations
        for wrong in ({"master_key": bytes(32)}, {"state_url": f"sqlite:///{tmp_path}/nothing.db"}):
            options = {"state_url": served.state_url, "master_key": KEY, "revocations": revocations, **wrong}
            with PageProcess(**options) as pages:
                assert pages.page(token, PageWanted(None, 10, "")) is None
                assert pages._process is not None, "it goes on"
