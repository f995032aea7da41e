"""The Dockerfile and compose.yaml, as far as they can be checked without an engine. `make release-check` has one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from kropot.cli.config_check import unknown_variables
from kropot.cli.main import cli

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
yaml = pytest.importorskip("yaml")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())


def parsed(args: list[str]) -> None:
    """Parse a command line of this program as it would be run. Raises: click.ClickException."""
    ctx = cli.make_context("kropotcli", list(args), resilient_parsing=False)
    command: click.Command = cli
    rest = [*ctx._protected_args, *ctx.args]
    while isinstance(command, click.Group):
        name, below, rest = command.resolve_command(ctx, rest)
        assert below is not None
        ctx, command = below.make_context(name, rest, parent=ctx), below
        rest = [*ctx._protected_args, *ctx.args]


@pytest.mark.parametrize("name", ["gateway", "collector"])
def test_a_service_runs_a_command_that_there_is_hardened_and_with_a_health_check(name: str) -> None:
    service = COMPOSE["services"][name]
    parsed(service["command"])
    assert service["init"] is True
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    test = service["healthcheck"]["test"]
    assert test[0] == "CMD"
    if test[1] == "kropotcli":
        parsed(test[2:])
    environment = service.get("environment", {})
    variables = {each: "x" for each in environment if each.startswith("KROPOT_")}
    assert not list(unknown_variables(cli, click.Context(cli), variables))
    for each in [
        *service.get("secrets", []),
        *(text.rpartition("/")[2] for text in environment.values() if "secrets/" in text),
    ]:
        assert each in COMPOSE["secrets"], each


def test_everything_that_is_written_lies_in_a_volume() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or volume.endswith(":ro"), f"{name}: {volume}"
            # Docker makes any other folder for a volume root's.
            if source in COMPOSE["volumes"] and service["image"] == "kropotcli":
                assert volume.endswith(":/data"), f"{name}: {volume}"
    assert "VOLUME /data" in DOCKERFILE
    for name, value in re.findall(r"(KROPOT_\w+|XDG_STATE_HOME)=(\S+)", DOCKERFILE):
        assert "/" not in value or "/data" in value, name


def test_the_image_runs_without_root_and_has_a_health_check() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user == "1000:1000"
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    program, *args = json.loads(check)
    assert program == "kropotcli"
    parsed(args)


def test_the_image_copies_what_the_wheel_is_made_of_and_only_what_is_there() -> None:
    copied = {
        each for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for each in line.split()[:-1]
    }
    for each in copied:
        assert (ROOT / each).exists(), each
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = project["tool"]["hatch"]
    wheel = build["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"], build["metadata"]["hooks"]["custom"]["path"]} <= copied
    assert {"pyproject.toml", "README.md", *project["project"]["license-files"]} <= copied


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed; make release-check uses it, too")
def test_hadolint_has_nothing_to_say() -> None:
    subprocess.run(["hadolint", "Dockerfile"], cwd=ROOT, check=True)
