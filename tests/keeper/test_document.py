"""The OpenAPI document against the server: whatever schemathesis draws from it is answered as the document says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from kropot.keeper.openapi import document
from tests.keeper.serve import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("document")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a keeper, and an owner's token."""
    folder: Path = tmp_path_factory.mktemp("document")
    with Kept(folder) as kept:
        source = kept.world.source(None)
        for number in range(3):
            kept.world.seal(source, b"file %d" % number, b"content")
        kept.world.listed(source)
        yield kept.url, kept.visitor().token or ""


schema: Any = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@settings(
    max_examples=8,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
def test_every_drawn_request_is_answered_as_the_document_says(case: Any, served: tuple[str, str]) -> None:
    url, token = served
    if case.path == "/healthz":
        answer = case.call(base_url=url)
    else:
        answer = case.call(base_url=url, headers={"Authorization": f"Bearer {token}"})
    case.validate_response(
        answer,
        checks=[
            schemathesis.checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
        ],
    )
