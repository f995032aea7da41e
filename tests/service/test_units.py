"""The units: systemd accepts them, they are as closed as they say, and their command lines are the program's."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
from base64 import b64encode
from typing import TYPE_CHECKING

import click
import pytest

from kropot.cli.main import cli
from kropot.cli.settings import is_readable_by_others
from kropot.errors import KropotError, UsageError
from kropot.service.units import MARK, SERVICES, units
from kropot.serving.keyfile import read_key

if TYPE_CHECKING:
    from pathlib import Path

    from kropot.service.units import Manager
    from tests.conftest import RunCli

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
MOST_EXPOSED = 2.0
"""What `systemd-analyze security` may say at most, of 10. A unit without a sandbox has 9.2."""


def commands(text: str) -> list[str]:
    return re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES)
def test_each_unit_starts_a_command_that_exists_with_options_that_it_has(service: str) -> None:
    (line,) = commands(units([service], "system")[f"kropot-{service}.service"])
    words = shlex.split(line)
    assert words[0] == "/usr/bin/kropotcli"
    command: click.Command = cli
    for word in words[1:]:
        if word.startswith("-"):
            known = {flag for param in command.params for flag in param.opts}
            assert word in known, word
        elif isinstance(command, click.Group) and not word.startswith("%"):
            found = command.get_command(click.Context(command), word)
            assert found is not None, word
            command = found
    assert command is not cli


@needs_systemd
@pytest.mark.parametrize("manager", ["system", "user"])
def test_systemd_accepts_every_unit_without_a_warning(manager: Manager, tmp_path: Path) -> None:
    texts = units(SERVICES, manager, program="/bin/true", writable=[tmp_path / "a storage"])
    assert len(texts) == len(SERVICES) + 3
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in texts]
    done = subprocess.run(
        ["systemd-analyze", f"--{manager}", "verify", "--man=no", *paths],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "kropot" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@needs_systemd
def test_systemd_refuses_a_unit_with_a_mistake(tmp_path: Path) -> None:
    text = units(["collect"], "system", program="/bin/true")["kropot-collect.service"]
    path = tmp_path / "kropot-collect.service"
    path.write_text(text.replace("WatchdogSec=15min", "WatchdogSec=often"))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert "kropot-collect.service:21: Failed to parse" in done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize("service", SERVICES)
def test_the_services_of_the_system_are_hardened(service: str, tmp_path: Path) -> None:
    path = tmp_path / f"kropot-{service}.service"
    path.write_text(units([service], "system", program="/bin/true")[path.name])
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_secrets_come_by_credentials_and_no_unit_holds_one() -> None:
    texts = units(SERVICES, "system")
    assert "LoadCredential=token:%E/kropotcli/token" in texts["kropot-collect.service"]
    assert "--token-file %d/token" in texts["kropot-collect.service"]
    assert "--master-key-file %d/gateway.key" in texts["kropot-gateway.service"]
    secret = re.compile(r"(?i)KROPOT_TOKEN|passphrase|password|_KEY=")
    assert not [name for name, text in texts.items() if secret.search(text)]


def test_long_running_units_are_watched_and_all_have_manners() -> None:
    for name, text in units(SERVICES, "system").items():
        if name.endswith(".timer"):
            assert "Persistent=true" in text
            continue
        unit = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(text)
        service = unit["Service"]
        assert int(service["Nice"]) > 0
        if service["Type"] == "notify":
            assert "WatchdogSec" in service
            assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
        assert service["UMask"] == "0077"


def test_a_user_gets_units_without_what_only_the_system_may_set() -> None:
    text = units(["collect"], "user")["kropot-collect.service"]
    assert "User=" not in text
    assert "ProtectSystem=" not in text
    assert "WantedBy=default.target" in text
    assert "NoNewPrivileges=yes" in text


def test_words_of_a_path_are_quoted_and_escaped() -> None:
    text = units(["verify"], "system", program="/opt/my tools/100%/kropotcli\0-m")["kropot-verify.service"]
    assert commands(text)[0].startswith('"/opt/my tools/100%%/kropotcli" -m --config')


def test_a_credential_is_no_exposed_file_though_its_mode_looks_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd gives them mode 0440, and an access list for the service's user alone."""
    key = b64encode(bytes(32))
    for folder in ("credentials", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "gateway.key").write_bytes(key)
        (tmp_path / folder / "gateway.key").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert read_key(tmp_path / "credentials" / "gateway.key") == bytes(32)
    assert not is_readable_by_others(tmp_path / "credentials" / "gateway.key")
    assert is_readable_by_others(tmp_path / "elsewhere" / "gateway.key")
    with pytest.raises(UsageError, match="other users can read"):
        read_key(tmp_path / "elsewhere" / "gateway.key")


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_and_writes_nothing(run_cli: RunCli, tmp_path: Path) -> None:
    root = tmp_path / "root"
    ran = run_cli("service", "install", "--system", "--dry-run", "--root", str(root), "collect")
    assert ran.returncode == 0, ran.stderr
    assert "LoadCredential=" in ran.stdout
    assert not root.exists()
    listed = run_cli("--json", "service", "install", "--user", "--dry-run", "verify")
    names = [json.loads(line)["path"].rpartition("/")[2] for line in listed.stdout.splitlines()]
    assert names == ["kropot-verify.service", "kropot-verify.timer"]


def test_installing_twice_renews_our_units_and_touches_no_other(run_cli: RunCli, tmp_path: Path) -> None:
    root = tmp_path / "root"
    install = ("service", "install", "--system", "--root", str(root))
    assert run_cli(*install).returncode == 0
    folder = root / "etc/systemd/system"
    unit = folder / "kropot-collect.service"
    first = unit.read_text()
    assert first.startswith(MARK)
    assert unit.stat().st_mode & 0o777 == 0o644
    assert (root / "etc/sysusers.d/kropot.conf").read_text().count("\nu kropot ") == 1
    unit.write_text(f"{MARK} of before\n")
    again = run_cli("--storage-path", "/srv/backup", "--db-string", "sqlite:////srv/ledger/l.db", *install)
    assert again.returncode == 0
    assert "ReadWritePaths=/srv/backup\nReadWritePaths=/srv/ledger\n" in unit.read_text()
    config = tmp_path / "config.toml"
    config.write_text('[collect]\nalso-store = ["/mnt/second", "s3://bucket/third"]\n')
    assert run_cli("--config", str(config), *install).returncode == 0
    assert [line for line in unit.read_text().splitlines() if line.startswith("ReadWrite")] == [
        "ReadWritePaths=/mnt/second"
    ]
    assert "ReadWritePaths" not in (folder / "kropot-gateway.service").read_text()
    unit.write_text("[Unit]\nDescription=mine\n")
    refused = run_cli(*install, "collect")
    assert refused.returncode == 2
    assert "was not made by this command" in refused.stderr
    assert unit.read_text() == "[Unit]\nDescription=mine\n"


def test_who_runs_them_must_be_said(run_cli: RunCli) -> None:
    refused = run_cli("service", "install")
    assert refused.returncode == 2
    assert "--system or --user" in refused.stderr


def test_a_program_without_its_units_says_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kropot.service.units.__file__", str(tmp_path / "kropot" / "service" / "units.py"))
    with pytest.raises(KropotError, match="take them from contrib/"):
        units(["collect"], "system")
