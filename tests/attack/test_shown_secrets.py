"""No password in a URL is shown, wherever it stands there; a secret in a file that others can read draws a warning."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kropot.cli.settings import read_config, resolve
from kropot.secret import credentials_in, hide_credentials
from ledger.sql import parse_place
from tests.token_specs import token_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

WORD = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///database.db", "sqlite:///database.db"),
        ("sqlite:///C:/a@b/c.db", "sqlite:///C:/a@b/c.db"),
        ("postgresql://me@host/x?sslmode=require", "postgresql://me@host/x?sslmode=require"),
        ("/a/path?password=x", "/a/path?password=x"),
        ("postgresql+psycopg://me:p%40ss@host:5432/x", "postgresql+psycopg://me:[hidden]@host:5432/x"),
        ("mysql+pymysql://me:a:b@host/x", "mysql+pymysql://me:[hidden]@host/x"),
        ("mysql://me:a/b?c@host/x", "mysql://me:[hidden]@host/x"),
        ("mysql://me@server:a@host/x", "mysql://me@server:[hidden]@host/x"),
        ("mysql://m?e#:a@host/x", "mysql://m?e#:[hidden]@host/x"),
        ("mysql://me:a@b@host/x?charset=a@b", "mysql://me:[hidden]@host/x?charset=a@b"),
        ("postgresql://h/x?user=me&password=a&sslmode=no", "postgresql://h/x?user=me&password=[hidden]&sslmode=no"),
        ("postgresql://me:a@h/x?SSLPassword=b", "postgresql://me:[hidden]@h/x?SSLPassword=[hidden]"),
        ("postgresql://h/x?pass%77ord=a=b", "postgresql://h/x?pass%77ord=[hidden]"),
        ("mysql://h/x?passwd=a;ssl_key_password=b", "mysql://h/x?passwd=[hidden];ssl_key_password=[hidden]"),
        ("https://h/list?_token=a", "https://h/list?_token=[hidden]"),
        ("--db-owner-url=postgresql://o:a@h/x", "--db-owner-url=postgresql://o:[hidden]@h/x"),
    ],
)
def test_every_credential_of_a_url_is_found_and_hidden(url: str, shown: str) -> None:
    assert hide_credentials(url) == shown
    assert len(credentials_in(url)) == shown.count("[hidden]")


@pytest.mark.parametrize(
    "url", [f"postgresql://127.0.0.1:1/x?user=me&password={WORD}", f"mysql://me:{WORD}@127.0.0.1:1/x"]
)
def test_config_show_hides_passwords_wherever_they_stand(run_cli: RunCli, tmp_path: Path, url: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[db.upgrade]\ndb-owner-url = "{url}"\n')
    config.chmod(0o600)
    env = {"KROPOT_DB_INIT_DB_OWNER_URL": url, "KROPOT_GATEWAY_STATE": url}
    for args in (["config", "show"], ["config", "show", "--json"]):
        done = run_cli("--config", str(config), "--db-string", url, *args, env=env)
        assert done.returncode == 0
        assert WORD not in done.stdout + done.stderr
        assert done.stdout.count("[hidden]") >= 5, done.stdout


@pytest.mark.parametrize("url", [f"me:{WORD}@127.0.0.1/x", f"postgresql:/me:{WORD}@h/x", f"host=h password={WORD}"])
def test_a_mistyped_url_is_not_shown_at_all(run_cli: RunCli, url: str) -> None:
    for args in (["config", "show"], ["status"], ["db", "info"]):
        done = run_cli("--db-string", url, *args, env={"KROPOT_GATEWAY_SERVE_STATE": url})
        assert WORD not in done.stdout + done.stderr


def test_a_password_on_the_command_line_draws_a_warning(run_cli: RunCli) -> None:
    url = f"postgresql://me:{WORD}@127.0.0.1:1/x"
    told = "other users of this machine can read the password on the command line"
    for args in (
        ["--db-string", url, "config", "show"],
        ["db", "copy", url, url],
        ["db", "init", "--db-owner-url", url],
    ):
        assert run_cli(*args).stderr.count(told) == 1
    assert told not in run_cli("config", "show", env={"KROPOT_DB_STRING": url}).stderr


def test_no_representation_of_a_setting_shows_a_password(tmp_path: Path) -> None:
    url = f"postgresql://me:{WORD}@127.0.0.1:1/x"
    config = tmp_path / "config.toml"
    config.write_text(f'db-string = "{url}"\n[db.init]\ndb-owner-url = "{url}"\n')
    file = read_config(config)
    settings = resolve({}, {}, file)
    shown = f"{file!r} {settings!r} {settings.place} {parse_place(url)!r} {parse_place(url)}"
    assert settings.db_string == url
    assert WORD not in shown


@pytest.mark.parametrize("args", [["status"], ["--log-level", "debug", "db", "info"], ["db", "nonsense"]])
def test_no_message_of_a_command_shows_a_password_of_the_query(run_cli: RunCli, args: list[str]) -> None:
    url = f"postgresql://127.0.0.1:1/x?user=me&password={WORD}&connect_timeout=2"
    for done in (run_cli("--db-string", url, *args), run_cli(*args, env={"KROPOT_DB_STRING": url})):
        assert done.returncode != 0
        assert WORD not in done.stdout + done.stderr
    done = run_cli("gateway", "serve", "--source", ".", "--base-url", f"https://me:{WORD}@example.org")
    assert done.returncode == 2
    assert WORD not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "is_secret"),
    [
        ('token = "one-secret-token"', True),
        (f'db-string = "mysql://me:{WORD}@127.0.0.1:1/x"', True),
        (f'[db.init]\ndb-owner-url = "mysql://127.0.0.1:1/x?passwd={WORD}"', True),
        ('server-url = "https://example.org"', False),
    ],
)
def test_a_configuration_with_a_secret_that_others_can_read_draws_a_warning(
    run_cli: RunCli, tmp_path: Path, line: str, *, is_secret: bool
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(line)
    for mode, is_open in ((0o644, True), (0o640, True), (0o600, False)):
        config.chmod(mode)
        done = run_cli("--config", str(config), "config", "show")
        warned = f"warning: other users can read the configuration file {config}: chmod 600 it" in done.stderr
        assert warned == (is_secret and is_open), (mode, done.stderr)
        assert done.returncode == 0


def test_a_kit_that_others_can_read_draws_a_warning(run_cli: RunCli, tmp_path: Path) -> None:
    kit = tmp_path / "kit.json"
    spec = token_spec()
    spec["data"] |= {
        "secureCopyEncryptionKey": "a long passphrase for this test",
        "secureCopyDigestMethod": "sha512",
        "secureCopyDigestRounds": 6000,
    }
    kit.write_text(json.dumps(spec))
    (tmp_path / "copy").write_bytes(bytes(32))
    for mode, is_open in ((0o644, True), (0o600, False)):
        kit.chmod(mode)
        done = run_cli("decrypt", "copy", "--key", str(kit), "--iv", "00" * 16, "-o", "opened")
        assert (f"warning: other users can read the kit {kit}: chmod 600 it" in done.stderr) == is_open, done.stderr
