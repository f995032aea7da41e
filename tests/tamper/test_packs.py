"""Every tampering with packs, and with what the ledger says of them, is found, called by its kind, and placed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.tamper.packs import PackTamper, PackWorld, build, catalogue

if TYPE_CHECKING:
    from pathlib import Path

CATALOGUE = list(catalogue())


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> PackWorld:
    return build(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def world(pristine: PackWorld, tmp_path: Path) -> PackWorld:
    shutil.copytree(pristine.folder, tmp_path / "world")
    return PackWorld(tmp_path / "world", pristine.placed, pristine.loose)


@pytest.mark.parametrize("scope", [{}, {"quick": True}, {"rate": 1 << 30}])
def test_the_untouched_world_is_clean(world: PackWorld, scope: dict[str, object]) -> None:
    findings, summary = world.verify(**scope)
    assert findings == []
    assert summary.covered["copies"]["objects"] == 29


@pytest.mark.parametrize("tamper", CATALOGUE, ids=lambda each: each.name)
def test_tampering_is_found_named_and_placed(world: PackWorld, tamper: PackTamper) -> None:
    tamper.act(world)
    findings, summary = world.verify()
    wanted = [each for each in findings if each.kind == tamper.kind]
    assert wanted, findings
    assert {each.severity for each in wanted} == {tamper.severity}
    if tamper.pack is not None:
        assert wanted[0].pack == world.placed[tamper.pack][0].pack.hex()
    if tamper.object is not None:
        assert world.placed[0][tamper.object].sha256.hex() in {each.object for each in wanted}
    assert summary.sound == (tamper.severity == "note")
