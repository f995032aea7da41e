"""The frame around every command: options anywhere on the line, configuration, one sentence per failure."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
import structlog
from click.testing import CliRunner

from kropot.cli.base import Exit, Settings, command, emit_json, group
from kropot.cli.main import COMMANDS, RootGroup, cli
from kropot.errors import LockedError
from ledger.errors import ConflictError, ForeignDatabaseError, LedgerMissingError, NewerLedgerError, ReadOnlyLedgerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from click.testing import Result

    from tests.conftest import RunCli

TOKEN = "6c4b1a50-a-token-nobody-may-see"


@command("probe")
@click.option("--once", is_flag=True)
@click.option("--min-free", type=int, default=7)
@click.option("--colour", "shade", default="red")
@click.option("--fail")
def probe(settings: Settings, *, once: bool, min_free: int, shade: str, fail: str | None) -> Exit | None:
    """Show what a command is given."""
    log = structlog.get_logger()
    log.warning("probed", token=settings.token, nested={"again": settings.token and settings.token.reveal()})
    failures: Mapping[str, BaseException] = {
        "missing": LedgerMissingError("/somewhere/database.db"),
        "foreign": ForeignDatabaseError("/somewhere/database.db", ("replication_log", "users")),
        "newer": NewerLedgerError("/somewhere/database.db", "0007"),
        "newer-by-name": NewerLedgerError("/somewhere/database.db", "0007", "kropotcli 7.1.0"),
        "conflict": ConflictError((b"x",)),
        "read-only": ReadOnlyLedgerError("the database says: attempt to write a readonly database"),
        "locked": LockedError("somebody else is at work"),
        "full": OSError(28, "No space left on device", "/storage/tmp/x"),
        "bug": ValueError(f"no {settings.token and settings.token.reveal()}"),
        "interrupt": KeyboardInterrupt(),
        "memory": MemoryError(),
    }
    if fail in failures:
        raise failures[fail]
    emit_json(
        "probed",
        {"refresh": settings.refresh_time, "json": settings.json, "once": once, "min_free": min_free, "shade": shade},
    )
    return Exit.PARTIAL if fail == "partial" else None


@group("nest")
def nest() -> None:
    """Hold a command."""


# A command knows its variables by the path that leads to it, so it stands in one place.
nest.add_command(copy.deepcopy(probe))


class ProbeRoot(RootGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "probe", "nest"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return {"probe": probe, "nest": nest}.get(cmd_name) or super().get_command(ctx, cmd_name)


root = ProbeRoot("kropotcli", params=list(cli.params), context_settings=cli.context_settings)


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(root, args, env=env)


def values(*args: str, env: dict[str, str] | None = None) -> dict[str, object]:
    result = run(*args, env=env)
    assert result.exit_code == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    assert found.pop("message_type") == "probed"
    return found


def test_an_option_is_taken_before_and_after_the_command() -> None:
    assert values("--refresh-time", "5", "probe")["refresh"] == 5
    assert values("probe", "--refresh-time", "6")["refresh"] == 6
    assert values("nest", "--refresh-time", "7", "probe")["refresh"] == 7


def test_an_option_after_the_command_replaces_one_before_it() -> None:
    assert values("--refresh-time", "5", "nest", "--refresh-time", "6", "probe", "--refresh-time", "7")["refresh"] == 7


def test_a_flag_beats_a_broken_environment() -> None:
    assert values("probe", "--refresh-time", "6", env={"KROPOT_REFRESH_TIME": "x"})["refresh"] == 6
    assert run("probe", env={"KROPOT_REFRESH_TIME": "x"}).exit_code == 2


def test_an_option_of_one_command_has_an_environment_variable_and_a_table(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("refresh-time = 9\njson = true\n[probe]\nmin-free = 3\nonce = true\n[nest.probe]\nmin_free = 4\n")
    assert values("probe", env={"KROPOT_PROBE_MIN_FREE": "2"})["min_free"] == 2
    expected = {"refresh": 9, "json": True, "once": True, "min_free": 3, "shade": "red"}
    assert values("--config", str(path), "probe") == expected
    assert values("probe", "--config", str(path)) == expected
    assert values("probe", env={"KROPOT_CONFIG": str(path)}) == expected
    assert values("nest", "probe", "--config", str(path))["min_free"] == 4
    assert values("--config", str(path), "probe", "--min-free", "1")["min_free"] == 1
    assert values("--config", str(path), "probe", env={"KROPOT_PROBE_MIN_FREE": "2"})["min_free"] == 2


def test_environment_and_file_call_an_option_by_its_flag(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[probe]\ncolour = "green"\n')
    assert values("probe", "--config", str(path))["shade"] == "green"
    assert values("probe", "--config", str(path), env={"KROPOT_PROBE_COLOUR": "blue"})["shade"] == "blue"
    path.write_text('[probe]\nshade = "green"\n')
    assert run("probe", "--config", str(path)).exit_code == 2


def test_the_file_in_the_users_folder_is_found_by_itself(tmp_path: Path) -> None:
    (tmp_path / "kropotcli").mkdir()
    (tmp_path / "kropotcli" / "config.toml").write_text("refresh-time = 11\n")
    assert values("probe", env={"XDG_CONFIG_HOME": str(tmp_path)})["refresh"] == 11


@pytest.mark.parametrize(
    "text", ["[probe]\nmin-fre = 1\n", "[prob]\nmin-free = 1\n", "[nest.prob]\nx = 1\n", "[nest]\nprobe = 1\n"]
)
def test_a_table_that_names_nothing_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    result = run("--config", str(path), "nest", "probe") if "nest" in text else run("--config", str(path), "probe")
    assert result.exit_code == 2
    assert str(path) in result.stderr


def test_a_returned_exit_code_is_the_exit_code() -> None:
    assert run("probe", "--fail", "partial").exit_code == 3


@pytest.mark.parametrize(
    ("failure", "code", "told"),
    [
        ("missing", 10, "/somewhere/database.db"),
        ("foreign", 1, "--db-string"),
        ("newer", 1, "0007"),
        ("newer-by-name", 1, "install kropotcli 7.1.0 or a later one"),
        ("conflict", 1, "run the command again"),
        ("read-only", 1, "the files beside it"),
        ("locked", 11, "somebody else is at work"),
        ("full", 1, "/storage/tmp/x"),
        ("bug", 1, "ValueError"),
        ("interrupt", 130, "interrupted"),
        ("memory", 1, "memory"),
    ],
)
def test_a_failure_is_one_sentence_and_its_exit_code(failure: str, code: int, told: str) -> None:
    result = run("--token", TOKEN, "probe", "--fail", failure)
    assert result.exit_code == code
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_an_interruption_while_the_program_starts_is_no_traceback() -> None:
    program = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from kropot.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.INTERRUPTED, "", "")


def test_a_traceback_is_shown_where_it_is_asked_for() -> None:
    result = run("--token", TOKEN, "--log-level", "debug", "probe", "--fail", "bug")
    assert "Traceback" in result.stderr
    assert TOKEN not in result.output


def test_a_traceback_shows_no_local_variables() -> None:
    result = run("--log-level", "debug", "probe", "--fail", "bug", env={"KROPOT_TOKEN": TOKEN * 9})
    assert "Traceback" in result.stderr
    assert TOKEN[:20] not in result.output
    assert "locals" not in result.stderr


def test_the_last_sentence_is_told_at_every_log_level() -> None:
    for log_format in ("json", "console"):
        result = run("--log-level", "critical", "--log-format", log_format, "probe", "--fail", "missing")
        assert "database.db" in result.stderr


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("level", ["debug", "warning"])
def test_the_token_is_never_printed(log_format: str, level: str) -> None:
    for failure in ("none", "bug"):
        result = run("--token", TOKEN, "--log-format", log_format, "--log-level", level, "probe", "--fail", failure)
        assert "probed" in result.stderr
        assert TOKEN not in result.output


def test_a_json_log_is_json_to_the_last_line() -> None:
    result = run("--token", TOKEN, "--log-format", "json", "probe", "--fail", "missing")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert lines[-1]["level"] == "error"
    assert "database.db" in lines[-1]["message"]


def test_a_token_on_the_command_line_works_and_warns() -> None:
    result = run("--token", TOKEN, "probe")
    assert result.exit_code == 0
    assert "--token-file" in result.stderr
    assert "--token-file" not in run("probe", env={"KROPOT_TOKEN": TOKEN}).stderr


def test_a_token_file_that_others_can_read_warns(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    assert "chmod 600" in run("--token-file", str(path), "probe").stderr


def test_an_unknown_command_and_an_unknown_option_exit_2() -> None:
    assert run("nonsense").exit_code == 2
    result = run("probe", "--nonsense")
    assert result.exit_code == 2
    assert "kropotcli probe --help" in result.stderr


@pytest.mark.parametrize("words", [(), ("source",), ("gateway", "token")], ids=" ".join)
def test_no_command_at_all_exits_2_with_the_help_and_no_complaint(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: ")
    assert "(see `" not in result.stderr


def test_help_shows_the_exit_codes_and_every_command() -> None:
    text = CliRunner().invoke(cli, ["--help"]).stdout
    assert all(f"{code.value}  " in text for code in Exit)
    assert all(name in text for name in COMMANDS)


def test_every_registered_command_imports() -> None:
    with click.Context(cli, info_name="kropotcli") as ctx:
        assert isinstance(cli, click.Group)
        for name in COMMANDS:
            found = cli.get_command(ctx, name)
            assert found is not None
            assert found.name == name
            assert found.help, f"{name} says nothing of itself"


def test_config_show_names_every_source_and_hides_secrets(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f'token = "{TOKEN}"\nrefresh-time = 4\ndb-string = "postgresql://me:hunter2222@db/ledger"\n'
        "[status]\ncheck = true\n"
    )
    result = run_cli("config", "show", "--config", "c.toml", "--json", env={"KROPOT_HTTP_TIMEOUT": "8"})
    assert result.returncode == 0, result.stderr
    rows = {row["option"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert {row.pop("message_type") for row in rows.values()} == {"option"}
    assert rows["refresh-time"] == {"option": "refresh-time", "value": 4, "source": "refresh-time in c.toml"}
    assert rows["http-timeout"]["source"] == "KROPOT_HTTP_TIMEOUT"
    assert rows["log-level"]["source"] == "default"
    assert rows["status check"]["value"] == "True"
    assert rows["token"]["value"] == "[hidden]"
    assert TOKEN not in result.stdout
    assert "hunter2222" not in result.stdout


def test_a_reader_that_goes_away_is_no_traceback(kropotcli: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{kropotcli}' config show | head -c 1; echo ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_closed_streams_are_no_crash(kropotcli: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{kropotcli}' config show >&- 2>err; echo $?; '{kropotcli}' nonsense 2>&-; echo $?"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["0", "2"]
    assert (tmp_path / "err").read_text() == ""


@pytest.mark.parametrize(
    ("line", "code"), [(("--json", "statsu"), 2), (("status", "--json"), 10), (("status", "--json", "--no-such"), 2)]
)
def test_with_json_results_a_failure_is_one_json_object(run_cli: RunCli, line: tuple[str, ...], code: int) -> None:
    done = run_cli(*line)
    assert (done.returncode, done.stdout) == (code, "")
    failure = json.loads(done.stderr)
    assert (failure["event"], failure["exit"], failure["level"]) == ("failed", code, "error")
    assert failure["message"]
    assert run_cli("status", env={"KROPOT_JSON": "1"}).stderr.startswith("{")
    assert run_cli("status").stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("wrong", "meant"), [("statsu", "'status'"), ("source lst", "'list'"), ("collect --onse", "'--once'")]
)
def test_a_wrong_name_is_answered_with_the_one_that_was_meant(run_cli: RunCli, wrong: str, meant: str) -> None:
    done = run_cli(*wrong.split())
    assert done.returncode == 2
    assert "Did you mean" in done.stderr
    assert meant in done.stderr
