"""How the tests are dealt out to the workers of pytest-xdist."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("one group")
def test_a_group_is_part_of_the_id_by_which_tests_are_dealt_out(request: pytest.FixtureRequest) -> None:
    """What a group shares, such as a server or a laboratory, is started once, and not by every worker."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("the tests are not dealt out to workers by groups")
    assert request.node.nodeid.endswith("@one group")
