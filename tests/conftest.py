"""What all tests share: loopback only, free ports, fresh ledgers, the program as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import hypothesis
import pytest
import structlog
from _pytest.nodeid import coerce_node_id

import kropot.cli.demo
from kropot import processes
from kropot.cli.main import cli
from tests.forked import ForkedProgram
from tests.json_schema import hold_to_schema
from tests.remote_stores import OPENED, Servers, servers
from tests.remote_stores import free_port as unused_port
from tests.secrets_watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A busy machine is no reason to call a property false. The test command draws the same examples each time, so that its
# answer is about the change; what other examples find is looked for with KROPOT_TEST_HYPOTHESIS=wide, and by fuzzing.
hypothesis.settings.register_profile("kropot", deadline=None, derandomize=True)
hypothesis.settings.register_profile("wide", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("KROPOT_TEST_HYPOTHESIS") or "kropot")


class OutsideWorldError(RuntimeError):
    """A test tried to reach beyond this machine."""


def _is_loopback(host: object) -> bool:
    """Whether a host, as given to a socket or a resolver, is this machine."""
    if host is None or host in {"", "localhost", b"localhost"}:
        return True
    try:
        return ip_address(host.decode() if isinstance(host, bytes) else str(host)).is_loopback
    except ValueError:
        return False


def _refuse_outside(event: str, args: tuple[object, ...]) -> None:
    """Audit hook: refuse to resolve or connect to anything but loopback."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in {"socket.connect", "socket.sendto"} and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if not _is_loopback(host):
        raise OutsideWorldError(f"tests stay on loopback, and {event} asked for {host!r}")


sys.addaudithook(_refuse_outside)


LONGEST = (
    "tests/faults/test_crash_points.py",
    "tests/faults/test_many_collectors.py",
    "tests/faults/test_restarted_database.py",
    "tests/cli/test_secrets.py",
    "tests/cli/test_readme.py",
    "tests/simulation/",
    "tests/ledger/test_sql_killed.py",
    "tests/kropot/test_restore_walk.py",
    "tests/kropot/test_collect_cli.py",
    "tests/faults/test_hostile_server.py",
    "tests/faults/test_quirks.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Have two workers more than processors: many tests wait, for a process, a server or a clock.

    PYTEST_XDIST_AUTO_NUM_WORKERS says another number.
    """
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep groups together, and begin with the tests that take longest, so that all workers end at about the same time.

    pytest-xdist 3.8 writes a test's group into `_nodeid`, where pytest 9.2 does not look any more: without this line
    every worker would start every group's servers.
    """
    for item in items:
        item._id = coerce_node_id(getattr(item, "_nodeid", item.id))
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the developer's own settings, and any proxy, away from the tests."""
    for name in list(os.environ):
        if (name.startswith("KROPOT_") and not name.startswith("KROPOT_TEST_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["NO_COLOR"] = "1"
    # Under nohup the programs that tests start would never hear of it.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Forget a test's logging with the test: a command run in this process logs to a stream that ends with it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _no_connection_left() -> Iterator[None]:
    """End a test's connections to storages with the test, and let the next one live at home again."""
    home = os.environ.get("HOME")
    yield
    while OPENED:
        OPENED.pop().close()
    processes._is_forbidden = False
    if home is not None:
        os.environ["HOME"] = home


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program fork in this process, where servers of a whole session and Apprise's pool have threads.

    A fork does without them. Those of a test end with it.
    """
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(processes, "threads_have_ended", lambda: True)


@pytest.fixture(scope="session")
def store_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Return the servers of storages on other machines, which start at their first use."""
    with servers(tmp_path_factory.mktemp("servers")) as made:
        yield made


@pytest.fixture
def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    return unused_port()


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    """Return the address of a ledger that does not exist yet."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


class RunCli(Protocol):
    """Runs the program in a process of its own, in the test's folder."""

    def __call__(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def kropotcli() -> Path:
    """Return the installed program."""
    return Path(sys.executable).with_name("kropotcli")


@pytest.fixture(scope="session")
def forked(kropotcli: Path) -> Iterator[ForkedProgram]:
    """Return the program in a process that has its imports behind it."""
    with ForkedProgram(kropotcli) as forked:
        yield forked


@pytest.fixture
def run_cli(forked: ForkedProgram, tmp_path: Path) -> Iterator[RunCli]:
    """Return a function that runs the program to its end in `tmp_path`; no token comes out of it."""
    watch = Watch(tmp_path)

    def run(
        *args: str,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        watch.give(args, env)
        done = forked.run(args, cwd=tmp_path, env={**os.environ, **(env or {})}, stdin=stdin, timeout=timeout)
        watch.expect_silence(done)
        hold_to_schema(args, done.stdout)
        return done

    yield run
    watch.expect_nothing_kept()


class Demonstrate(Protocol):
    """Shows the demonstration in the test's folder; returns its exit code, and what it said on stdout and stderr."""

    def __call__(self, *args: str) -> tuple[int, str, str]: ...


@pytest.fixture
def demonstrate(
    forked: ForkedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Demonstrate:
    """Return a function that shows the demonstration in this process, and its commands without a start-up each.

    The demonstration as it is started by a user is in tests/cli/test_demo.py.
    """

    def run(command: tuple[str, ...], *, cwd: Path, env: dict[str, str], stdout: Any, check: bool) -> Any:
        assert command[:3] == (sys.executable, "-m", "kropot")
        assert not check
        done = forked.run(command[3:], cwd=cwd, env=env, stdin=None, timeout=60)
        sys.stderr.write(done.stderr)
        if stdout is not subprocess.DEVNULL:
            stdout.write(done.stdout)
        return done

    def demonstrate_(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["demo", *args], prog_name="kropotcli")
        told = capfd.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kropot.cli.demo, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
    return demonstrate_
