"""A running `collect` as a service: what it tells a service manager, a monitor and whoever is called, and SIGHUP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.kropot.replicas import Folder
from tests.oldserver import OldServer
from tests.service.listening import Manager, Pings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {f"secret name {i}.txt": bytes([i]) * 100 for i in range(5)}
URL = "0f7c2b6e-the-address-is-a-secret"


@pytest.fixture
def server() -> Iterator[OldServer]:
    with OldServer(FILES) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, server: OldServer, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Folder(tmp_path, server)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify.socket")
    yield manager
    manager.close()


def config(folder: Folder, **tables: Any) -> tuple[str, ...]:
    """Write a configuration file and return the options that name it."""
    lines: list[str] = []
    for table, values in tables.items():
        lines += [f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    path = folder.path / "config.toml"
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return ("--config", str(path))


@contextmanager
def running(folder: Folder, manager: Manager, *args: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Run a collector as a service manager does, without a terminal."""
    with subprocess.Popen(
        folder.line(*args),
        cwd=folder.path,
        env={**os.environ, "NOTIFY_SOCKET": str(manager.path), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def samples(text: str) -> dict[str, float]:
    """Return the values by the metrics' names and states."""
    return {
        " ".join([sample.name, *(sample.labels[name] for name in ("state", "result") if name in sample.labels)]): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(port: int) -> dict[str, float]:
    return samples(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text)


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_round_is_told_with_its_counts_and_without_names(folder: Folder, server: OldServer) -> None:
    with Pings() as pings:
        options = config(folder, notify={"ping-url": f"{pings.url}/{URL}"})
        ran = folder.run(*options, "collect", "--once", "--json", *folder.options)
        assert ran.code == 0, ran.err
    assert pings.paths == [f"/{URL}/start", f"/{URL}"]
    assert "new: 5\n" in pings.heard[1][1]
    assert "copied: 5\n" in pings.heard[1][1]
    said = ran.out + ran.err + "".join(body for _, body in pings.heard)
    assert not [secret for secret in (server.token, "secret name", URL) if secret in said]


def test_a_round_that_fails_and_a_run_that_cannot_begin_are_failures(folder: Folder) -> None:
    with Pings() as pings:
        options = config(folder, notify={"ping-url": pings.url})
        assert folder.run(*options, "collect", "--once", *folder.options).code == 0
        folder.use_token("another-token-that-is-wrong")
        assert folder.run(*options, "collect", "--once", *folder.options).code == 12
    assert pings.paths[-1] == "/fail"
    assert "exit: 12" in pings.heard[-1][1] or "refuse" in pings.heard[-1][1]


def test_verify_and_status_call_their_own_addresses_and_the_alarm_is_told_once(folder: Folder) -> None:
    assert folder.collect().code == 0
    with Pings() as pings:
        tables = {
            "notify": {"command": [sys.executable, "-c", CATCH, str(folder.path / "told")]},
            "notify.verify": {"ping-url": f"{pings.url}/verify"},
            "notify.status": {"ping-url": f"{pings.url}/status"},
        }
        options = config(folder, **tables)
        assert folder.run(*options, "verify", "--quick").code == 0
        for _ in range(2):
            assert folder.run(*options, "status", "--check", "--min-free", "100PiB").code == 3
        assert folder.run(*options, "status", "--min-free", "100PiB").code == 0
    assert pings.paths == ["/verify/start", "/verify", "/status/start", "/status/fail", "/status/start", "/status/fail"]
    assert "objects: 5\n" in pings.heard[1][1]
    told = [json.loads(line) for line in (folder.path / "told").read_text().splitlines()]
    alarms = [each["counts"]["alarm"] for each in told if each["state"] == "alarm_began"]
    assert len(alarms) == len(set(alarms)) > 0
    assert not [each for each in told if "secret name" in json.dumps(each) or str(folder.path) in json.dumps(each)]


CATCH = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def test_a_ping_that_hangs_costs_its_time_and_the_backup_is_complete(folder: Folder) -> None:
    with Pings() as pings:
        pings.behave = pings.hang
        options = config(folder, notify={"ping-url": f"{pings.url}/{URL}", "timeout": 1})
        began = time.monotonic()
        ran = folder.run(*options, "collect", "--once", "--json", *folder.options)
        assert time.monotonic() - began < 15
    assert (ran.code, ran.summary["copied"]) == (0, 5)
    assert ran.err.count("a call of [notify] did not get through") == 1
    assert URL not in ran.err


# --- a service -------------------------------------------------------------------------------------------------------


def test_a_service_is_ready_says_what_it_does_beats_and_begins_again_on_sighup(
    folder: Folder, server: OldServer, manager: Manager, free_port: int
) -> None:
    options = config(folder, collect={"metrics": f"127.0.0.1:{free_port}", "limit-rate": "1M"})
    env = {"WATCHDOG_USEC": "2000000"}
    with running(folder, manager, *options, "--refresh-time", "2", "collect", *folder.options, **env) as process:
        manager.wait_for("READY=1")
        manager.wait_for("STATUS=waiting for the next listing; 5 copies")
        manager.wait_for("WATCHDOG=1")
        until = time.monotonic() + 40
        while (seen := scrape(free_port)).get(
            "kropot_elements current"
        ) != 5 or "kropot_collect_copies_total" not in seen:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert seen["kropot_collect_copies_total"] == 5
        assert seen["kropot_collect_rounds_total success"] >= 1
        assert seen["kropot_elements current"] == 5
        assert seen["kropot_healthy"] in {0, 1}

        # A wrong file changes nothing, and is said.
        path = folder.path / "config.toml"
        good = path.read_text()
        path.write_text("[collect]\nlimit-rate = 'fast'")
        process.send_signal(signal.SIGHUP)
        manager.wait_for("WATCHDOG=1")
        assert scrape(free_port)

        # Twice, because what the first beginning leaves to the second may not make it deaf.
        server.add("secret name 9.txt", b"more")
        for port_or_file in ("metrics-1", "metrics-2"):
            path.write_text(good.replace(good.splitlines()[1], f'metrics-file = "{port_or_file}"'))
            process.send_signal(signal.SIGHUP)
            manager.wait_for("RELOADING=1")
            manager.wait_for("READY=1")
            until = time.monotonic() + 40
            while not (folder.path / port_or_file).exists():
                assert time.monotonic() < until
                time.sleep(0.05)
        with pytest.raises(requests.ConnectionError):
            scrape(free_port)
        manager.wait_for("STATUS=waiting for the next listing")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    assert "SIGHUP changes nothing" in err
    assert "limit-rate: 'fast' is not a rate" in err
    assert "secret name" not in out + err
    assert len(folder.contents()) == 6
    assert samples((folder.path / "metrics-2").read_text())["kropot_elements current"] == 6


def test_an_address_that_is_taken_is_refused_before_anything_is_collected(folder: Folder) -> None:
    with Pings() as taken:
        port = taken.url.rpartition(":")[2]
        ran = folder.run("collect", "--once", "--metrics", f"127.0.0.1:{port}", *folder.options)
    assert ran.code == 1
    assert "cannot serve metrics on 127.0.0.1" in ran.err
    assert folder.run("collect", "--once", "--metrics", "nowhere").code == 2
