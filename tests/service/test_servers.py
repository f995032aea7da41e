"""A gateway and a keeper as services: metrics, what they tell a service manager, and SIGHUP."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.kropot.replicas import PROGRAM, Folder
from tests.oldserver import OldServer
from tests.service.listening import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify.socket")
    yield manager
    manager.close()


def test_a_gateway_is_ready_counts_and_begins_again(tmp_path: Path, manager: Manager, free_port: int) -> None:
    folder = tmp_path / "secret folder"
    folder.mkdir()
    (folder / "secret name.txt").write_text("bread")
    config = tmp_path / "config.toml"
    lines = ["[gateway.serve]", f'source = "{folder}"', f'metrics = "127.0.0.1:{free_port}"', "port = 0"]
    config.write_text("\n".join([*lines, "scan-every = 0.5"]))
    config.chmod(0o600)
    env = {**os.environ, "NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "2000000"}
    line = [str(PROGRAM), "--config", str(config), "gateway", "serve", "--state", f"sqlite:///{tmp_path / 'g.db'}"]
    with subprocess.Popen(
        line, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            manager.wait_for("READY=1")
            manager.wait_for("STATUS=serving 1 file")
            manager.wait_for("WATCHDOG=1")
            seen = requests.get(f"http://127.0.0.1:{free_port}/metrics", timeout=10).text
            values = {
                sample.name: sample.value for each in text_string_to_metric_families(seen) for sample in each.samples
            }
            assert values["kropot_gateway_files"] == 1
            assert values["kropot_gateway_scan_failing"] == 0
            assert values["kropot_gateway_scan_timestamp_seconds"] == pytest.approx(time.time(), abs=60)
            assert "secret" not in seen

            config.write_text("\n".join([*lines, "scan-every = 'now'"]))
            process.send_signal(signal.SIGHUP)
            manager.wait_for("WATCHDOG=1")
            assert "RELOADING" not in "".join(manager.messages)
            config.write_text("\n".join([*lines, "scan-every = 60"]))
            process.send_signal(signal.SIGHUP)
            manager.wait_for("RELOADING=1")
            manager.wait_for("READY=1")
            assert requests.get(f"http://127.0.0.1:{free_port}/metrics", timeout=10).ok
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "SIGHUP changes nothing" in err


def test_a_keeper_is_ready_and_begins_again(tmp_path: Path, manager: Manager) -> None:
    with OldServer({"secret name.txt": b"bread"}) as server:
        folder = Folder(tmp_path, server)
        assert folder.collect().code == 0
    env = {**os.environ, "NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "2000000"}
    with subprocess.Popen(
        folder.line("keeper", "serve", "--port", "0"), cwd=tmp_path, env=env, stdin=subprocess.DEVNULL
    ) as process:
        try:
            manager.wait_for("READY=1")
            manager.wait_for("WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            manager.wait_for("RELOADING=1")
            manager.wait_for("READY=1")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
