"""What a configuration file and the environment may say: every value is checked, and a mistake is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kropot.cli.settings import read_config, read_token
from kropot.errors import Exit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

BAD = {
    '[verify]\nlimit-rate = "fast"': "[verify] limit-rate: 'fast' is not a rate above 0: try 50MiB/s",
    '[verify]\nagainst = "notes"': "[verify] against: 'notes' is not a list: write ['notes']",
    "[collect]\nmin-free = [1]": "[collect] min-free: [1] is a list, and this option takes one value",
    "[collect]\nonce = 3": "[collect] once: 3 is neither true nor false",
    "[collect]\nmin-free = true": "[collect] min-free: true is not a value of this option",
    '[gateway.serve]\nport = "x"': "[gateway.serve] port: 'x' is not a whole number",
    "[collect]\noncee = true": "[collect] oncee is not an option or a command; did you mean once?",
    "[gateway]\nserve = 1": "[gateway] serve is a command: write a table [gateway.serve]",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kropot.toml"


@pytest.mark.parametrize("text", BAD)
def test_each_mistake_is_named_with_its_file_table_and_key(run_cli: RunCli, file: Path, text: str) -> None:
    file.write_text(text)
    for command in ("check", "show"):
        done = run_cli("--config", str(file), "config", command)
        assert done.returncode == Exit.USAGE
        assert f"{file}: {BAD[text]}" in done.stdout + done.stderr


def test_all_mistakes_are_named_at_once(run_cli: RunCli, file: Path) -> None:
    file.write_text('[verify]\nlimit-rate = "fast"\nagainst = 1\n[collect]\nonce = 3\n')
    done = run_cli("--config", str(file), "config", "check", "--json", env={"KROPOT_COLLECT_MIN_FREE": "some"})
    found = json.loads(done.stdout)
    assert (done.returncode, len(found["mistakes"])) == (Exit.USAGE, 4)
    assert found["mistakes"][-1].startswith("KROPOT_COLLECT_MIN_FREE: 'some' is not a size")


def test_the_files_that_the_options_name_are_read(run_cli: RunCli, file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    file.write_text(f'token-file = "{empty}"\nca-file = "{tmp_path / "ca.pem"}"\n')
    done = run_cli("--config", str(file), "config", "check")
    assert done.returncode == Exit.USAGE
    assert done.stdout.splitlines() == [
        f"the token file {empty} is empty: put the token there",
        f"there is no file {tmp_path / 'ca.pem'}: name a file of certificates in PEM form with --ca-file",
        f"2 mistakes ({file})",
    ]
    file.write_text(f'token-file = "{empty}"\n')
    done = run_cli("--config", str(file), "--token", "a-token", "config", "check")
    assert done.returncode == 0, "a flag beats the file"


def test_no_mistake_hides_another_one(run_cli: RunCli, file: Path) -> None:
    """Wherever they stand: above the tables, in [notify], [retention], [storage] or [source.NAME]."""
    file.write_text(
        'refresh-time = "soon"\nlog-level = "loud"\nserver-url = "ftp://x"\ninstance-name = "a/b"\n'
        'user-agent = "\\u00e9"\nnonsense = 1\n'
        '[notify]\nping-url = "ftp://host/secret-of-a-test"\ntimeout = "9h"\nbogus = 2\n[notify.verfy]\n'
        '[retention]\nkeep-daily = "many"\nkeep-foo = 3\n[storage]\nlock-days = 0\n[collect]\nonce = 3\n[colect]\n'
        '[source.photos]\nfoo = 1\nbar = 2\n[source."a b"]\n'
    )
    done = run_cli("--config", str(file), "config", "check", "--json", env={"KROPOT_HTTP_TIMEOUT": "long"})
    found = json.loads(done.stdout)["mistakes"]
    assert done.returncode == Exit.USAGE
    for what in (
        *("refresh-time in", "log-level in", "server-url in", "instance-name in", "user-agent in", "'nonsense'"),
        *("[notify] ping-url", "[notify] timeout", "'bogus'", "'verfy'", "keep-daily:", "'keep-foo'", "lock-days"),
        *("colect is not an option or a command; did you mean collect?",),
        *("[collect] once", "[source.photos] foo", "[source.photos] bar", "[source.a b]", "KROPOT_HTTP_TIMEOUT"),
    ):
        assert len([each for each in found if what in each]) == 1, what
    assert "secret-of-a-test" not in done.stdout + done.stderr
    refused = run_cli("--config", str(file), "status")
    assert refused.returncode == Exit.USAGE
    assert "[notify] ping-url" in refused.stderr
    assert "`kropotcli config check` names all" in refused.stderr
    file.write_text('log-level = "loud"\n')
    assert "names all" not in run_cli("--config", str(file), "config", "show").stderr


def test_a_command_names_the_file_of_a_value_that_it_cannot_use(run_cli: RunCli, file: Path) -> None:
    file.write_text('[verify]\nlimit-rate = "fast"')
    done = run_cli("--config", str(file), "verify")
    assert done.returncode == Exit.USAGE
    assert f"{file}: [verify] limit-rate" in done.stderr
    assert run_cli("--config", str(file), "status").returncode == Exit.NO_LEDGER  # it needs nothing of that table


def test_what_is_right_passes_whatever_its_spelling(run_cli: RunCli, file: Path) -> None:
    text = (
        'refresh-time = 0\nlog-level = "warn"\n[verify]\nlimit-rate = "50MiB/s"\nquick = true\n[collect]\nmin_free = 7'
    )
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    done = run_cli("--config", str(file), "config", "check")
    assert (done.returncode, done.stderr) == (Exit.DONE, "")
    assert run_cli("--config", str(file), "--quiet", "config", "check").stdout == ""
    shown = run_cli("--config", str(file), "config", "show").stdout
    assert "verify limit-rate" in shown
    assert "52428800" in shown


def test_a_list_where_one_value_belongs_is_refused_for_global_options_too(run_cli: RunCli, file: Path) -> None:
    file.write_text('storage-path = ["a", "b"]')
    done = run_cli("--config", str(file), "config", "show")
    assert done.returncode == Exit.USAGE
    assert f"storage-path in {file} is a list" in done.stderr


def test_a_variable_that_is_no_option_is_warned_of(run_cli: RunCli) -> None:
    env = {"KROPOT_REFRSH_TIME": "5", "KROPOT_COLLECT_ONCE": "1", "KROPOT_GATEWAY_SERVE_PORT": "1"}
    env |= {"KROPOT_GATEWAY_STATE": "sqlite:///g.db", "KROPOT_TEST_OF_A_DEVELOPER": "1"}
    done = run_cli("config", "show", env=env)
    (said,) = done.stderr.splitlines()
    assert "KROPOT_REFRSH_TIME belongs to no option" in said
    assert "did you mean KROPOT_REFRESH_TIME?" in said


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o600, False)])
def test_a_token_in_a_file_that_others_can_read_is_warned_of(
    run_cli: RunCli, file: Path, mode: int, *, warned: bool
) -> None:
    file.write_text('token = "a-token-of-a-test"')
    file.chmod(mode)
    for command in ("check", "show"):
        done = run_cli("--config", str(file), "config", command)
        assert (f"other users can read the configuration file {file}" in done.stderr) is warned
        assert "a-token-of-a-test" not in done.stdout + done.stderr


def test_a_byte_order_mark_is_no_part_of_a_token_or_a_name(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfrefresh-time = 5\n")
    assert read_config(file).values == {"refresh_time": 5}
    token = tmp_path / "token"
    token.write_bytes(b"\xef\xbb\xbfa-token-of-a-test\r\n")
    assert read_token(token).reveal() == "a-token-of-a-test"
