"""A command imports what it needs, and nothing that only others need: modules cost more time than most commands run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

TELL = """
import sys
from kropot.cli.main import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    print(*sys.modules, sep="\\n", file=sys.stderr)
    raise
"""
NEVER_TO_READ = {
    *("alembic", "cryptography", "h11", "httptools", "psycopg", "pycurl", "pymysql", "requests", "rich", "starlette"),
    *("structlog", "urllib3", "uvicorn", "multiprocessing"),
    *("kropot.gateway", "kropot.replay", "kropot.restore", "kropot.sc2.vault", "kropot.verify", "ledger.audit"),
}
"""What reads nothing but the ledger's tables and the storage's folder needs none of these."""
NEVER_TO_HELP = {*NEVER_TO_READ, "asyncio", "msgpack", "sqlalchemy", "sqlite3", "kropot.query", "ledger.events"}


def imported(*args: str) -> set[str]:
    """Run a command line in a process of its own, and return the modules that it imported."""
    done = subprocess.run([sys.executable, "-c", TELL, *args], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_database_and_no_library_of_the_network(option: str) -> None:
    modules = imported(option)
    assert "click" in modules
    assert modules & NEVER_TO_HELP == set()


@pytest.mark.parametrize("command", ["status", "ls", "history", "source"])
def test_a_commands_help_imports_no_database(command: str) -> None:
    modules = imported(command, "--help")
    assert f"kropot.cli.{command}" in modules
    assert modules & (NEVER_TO_READ | {"sqlalchemy"}) == set()


@pytest.mark.parametrize("command", [["status"], ["ls"], ["source", "list"]])
def test_reading_imports_the_database_that_is_there_and_nothing_that_collects_or_verifies(
    run_cli: RunCli, ledger_url: str, tmp_path: Path, command: list[str]
) -> None:
    options = ["--db-string", ledger_url, "--storage-path", str(tmp_path)]
    run_cli(*options, "db", "init")
    modules = imported(*options, *command)
    assert "sqlalchemy" in modules
    assert modules & NEVER_TO_READ == set()
