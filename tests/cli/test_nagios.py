"""`status --check --nagios`: one line, an exit code and performance data as monitoring systems read them."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.cli.nagios import LESSER, PluginState, plugin_state, unknown_line
from kropot.query.alarm import Alarm
from ledger.events import SOURCE_KIND, Keeping, SourceBegan, SourceLabelled, SourceRetired, StreamKey
from ledger.keeping import keep
from ledger.log import Ledger, NewFact
from ledger.sql import open_store
from tests.cli.test_commands import ONE, SOURCE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli
    from tests.kropot.replay_cli import Run
    from tests.kropot.replay_world import World

pytest_plugins = ["tests.kropot.replay_cli"]

FIGURE = re.compile(r"(?:'[^'=]+'|[^\s'=]+)=\d+(?:s|B|c)?(?:;[\d:]*)*")


def make_ledger(path: Path, *, listed_us: int | None) -> None:
    store = open_store(f"sqlite:///{path / 'database.db'}", create=True)
    ledger, now = Ledger(store), time.time_ns() // 1000
    fact = SourceBegan(source=replace(SOURCE, listed_us=listed_us))
    ledger.append([NewFact(key=StreamKey(source=ONE, kind=SOURCE_KIND, id=""), fact=fact, observed_us=now)])
    keep(ledger, ONE, SourceLabelled(keeping=Keeping(label="it's | a=b")), version=0)
    store.close()


def expect_figures(line: str) -> None:
    text, bar, figures = line.strip().partition(" | ")
    assert bar
    assert "|" not in text + figures
    assert FIGURE.sub("", figures).strip() == "", figures


def test_a_healthy_replica_is_ok(run_cli: RunCli, tmp_path: Path) -> None:
    make_ledger(tmp_path, listed_us=time.time_ns() // 1000)
    done = run_cli("status", "--check", "--nagios")
    assert done.returncode == 0
    assert done.stdout.startswith("KROPOTCLI OK - 0 elements of 1 source")
    assert done.stdout.count("\n") == 1
    assert "'lag it_s / a_b'=" in done.stdout
    expect_figures(done.stdout)


def test_an_old_listing_is_critical(run_cli: RunCli, tmp_path: Path) -> None:
    make_ledger(tmp_path, listed_us=1_750_000_000_000_000)
    done = run_cli("status", "--check", "--nagios")
    assert done.returncode == 2
    assert done.stdout.startswith("KROPOTCLI CRITICAL - listing_stale: the server has not been listed for too long")
    expect_figures(done.stdout)


def test_damaged_and_lost_copies_are_counted_of_past_sources_too(world: World, run: Run) -> None:
    source, old = world.source(), world.source(url="https://old.example")
    for each, bad in ((source, 3), (old, 1)):
        for number in range(4):
            key = world.see(each, f"{number}")
            world.store_copy(key, b"%d of " % number + each)
            if number < bad:
                world.damage(key, lost=number == 2)
    keep(world.ledger, old, SourceRetired(keeping=Keeping(retired_us=world.now_us)), version=0)
    line = run("status", "--check", "--nagios").out
    for figure in (f"'damaged {source.hex()[:8]}'=2", f"'lost {source.hex()[:8]}'=1", f"'damaged {old.hex()[:8]}'=1"):
        assert f" {figure};;;0" in line
    expect_figures(line)


@pytest.mark.parametrize(
    "args", [(), ("--no-such",), ("--expect-every", "x"), ("--json",), ("--db-string", "sqlite:///letter.txt")]
)
def test_what_cannot_be_checked_is_unknown(run_cli: RunCli, tmp_path: Path, args: tuple[str, ...]) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader, " * 100)
    done = run_cli("status", "--check", "--nagios", *args)
    assert done.returncode == 3
    plugin = [line for line in done.stdout.splitlines() if line.startswith("KROPOTCLI UNKNOWN - ")]
    assert len(plugin) == 1
    assert done.stderr.count("\n") == 1


def test_the_gravest_alarm_decides() -> None:
    lesser, grave = Alarm(name="waiting", source=None, text=""), Alarm(name="new_alarm", source=None, text="")
    assert plugin_state([]) is PluginState.OK
    assert plugin_state([lesser]) is PluginState.WARNING
    assert plugin_state([lesser, grave]) is PluginState.CRITICAL
    assert "storage_away" not in LESSER
    assert unknown_line("a | b\nc") == "KROPOTCLI UNKNOWN - a / b c"
