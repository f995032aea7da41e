"""Calls: who is called about what, what is in them, and that none of them can hold up or end the work."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kropot.cli.settings import read_config, resolve
from kropot.errors import UsageError
from kropot.notify import notifier as notifier_module
from kropot.notify.alarms import ToldAlarms
from kropot.notify.message import Message
from kropot.notify.notifier import Notifier
from kropot.notify.rules import NotifyRules, parse_notify
from kropot.query.alarm import Alarm
from kropot.secret import redact
from tests.service.listening import Pings

if TYPE_CHECKING:
    from pathlib import Path

DONE = Message(command="collect", state="success", source="photos", text="the round is complete", counts={"new": 3})


def told(rules: dict[str, object], *messages: Message) -> list[str]:
    """Send the messages, and return what was warned of."""
    warned: list[str] = []
    with Notifier(parse_notify(rules)[0], warned.append) as notifier:
        for message in messages:
            notifier.send(message)
    return warned


# --- whom the table names --------------------------------------------------------------------------------------------


def test_a_ping_url_is_the_heart_beat_of_collect_and_other_commands_have_their_own() -> None:
    rules, _ = parse_notify(
        {
            "ping-url": "https://hc.example/COLLECT",
            "timeout": "3s",
            "verify": {"ping-url": "https://hc.example/VERIFY/"},
            "source": {
                "photos": {"ping-url": "https://hc.example/PHOTOS", "prune": {"ping-url": "https://p.example/"}}
            },
        }
    )
    assert rules.targets("collect").ping_url == "https://hc.example/COLLECT"
    assert rules.targets("collect", "music").ping_url == "https://hc.example/COLLECT"
    assert rules.targets("collect", "photos").ping_url == "https://hc.example/PHOTOS"
    assert rules.targets("verify").ping_url == "https://hc.example/VERIFY"
    assert rules.targets("prune").ping_url is None
    assert rules.targets("prune", "photos").ping_url == "https://p.example"
    assert rules.targets("prune").timeout_s == 3


def test_one_address_serves_all_with_placeholders() -> None:
    rules, _ = parse_notify({"ping-url": "https://hc.example/KEY/{source}-{command}"})
    assert rules.targets("collect", "my photos").ping_url == "https://hc.example/KEY/my%20photos-collect"
    assert rules.targets("verify").ping_url == "https://hc.example/KEY/all-verify"


@pytest.mark.parametrize(
    "table",
    [
        {"ping-url": "ftp://x"},
        {"ping-url": 3},
        {"pingurl": "https://x.example"},
        {"apprise": "nothing"},
        {"command": ""},
        {"command": [1]},
        {"timeout": "1h"},
        {"timeout": True},
        {"collekt": {}},
        {"source": {"ping-url": "https://x.example"}},
        {"source": {"photos": {"source": {}}}},
    ],
)
def test_what_the_table_may_not_hold_is_refused(table: dict[str, object], tmp_path: Path) -> None:
    (mistake,) = parse_notify(table)[1]
    assert mistake.startswith("[notify")
    file = tmp_path / "config.toml"
    file.write_text("notify = 3")
    with pytest.raises(UsageError, match=r"write a table \[notify\]"):
        resolve({}, {}, read_config(file))


def test_addresses_are_secrets(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[notify]\nping-url = "https://hc.example/3f1c0a52-aaaa-4444"\napprise = ["tgram://bottoken/ChatID"]\n'
    )
    config = read_config(file)
    assert config.is_confidential
    assert "3f1c0a52" not in repr(config)
    shown = redact("error at https://hc.example/3f1c0a52-aaaa-4444/start or tgram://bottoken/ChatID")
    assert "3f1c0a52" not in shown
    assert "bottoken" not in shown
    assert "[hidden]" in shown


# --- what reaches them -----------------------------------------------------------------------------------------------


def test_pings_say_start_success_and_fail_with_the_summary_as_body() -> None:
    with Pings() as pings:
        start = Message(command="collect", state="start", text="a round began")
        failed = Message(command="collect", state="fail", text="the server does not answer")
        assert told({"ping-url": f"{pings.url}/id?create=1"}, start, DONE, failed) == []
    assert pings.paths == ["/id/start?create=1", "/id?create=1", "/id/fail?create=1"]
    assert pings.heard[1][1] == "the round is complete\nnew: 3\n"


def test_an_alarm_is_no_ping_and_a_success_no_message() -> None:
    alarm = Message(command="collect", state="alarm_began", text="surge: 9 of 10 changed")
    with Pings() as pings:
        port = pings.url.rpartition(":")[2]
        rules: dict[str, object] = {"ping-url": f"{pings.url}/ping", "apprise": [f"json://127.0.0.1:{port}/apprise"]}
        # The first call imports Apprise, which takes its time on a busy machine.
        assert told(rules | {"timeout": "1m"}, DONE, alarm) == []
    assert sorted(pings.paths) == ["/apprise", "/ping"]
    (body,) = (json.loads(body) for path, body in pings.heard if path == "/apprise")
    assert (body["title"], body["message"]) == ("kropotcli collect: alarm", "surge: 9 of 10 changed")


def test_a_command_reads_json_and_gets_no_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KROPOT_TOKEN", "a-token")
    script = "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))"
    assert told({"command": [sys.executable, "-c", script, str(tmp_path / "out")]}, DONE) == []
    message, environ = json.loads((tmp_path / "out").read_text())
    assert message == {
        "version": 1,
        "command": "collect",
        "state": "success",
        "source": "photos",
        "text": "the round is complete",
        "counts": {"new": 3},
    }
    assert "KROPOT_TOKEN" not in environ


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_calls_that_fail_are_said_once_and_name_no_address() -> None:
    with Pings(behave=lambda: 500) as pings:
        rules: dict[str, object] = {"ping-url": f"{pings.url}/a-secret-address", "command": ["/nowhere/at-all"]}
        warned = told(rules, DONE, DONE, DONE)
    assert len(pings.heard) == 3
    assert len(warned) == 2
    assert any("ping: the ping-url answers 500" in each for each in warned)
    assert not any("a-secret-address" in each for each in warned)


def test_a_call_gets_through_again_after_one_that_failed_and_a_later_one_is_said_again() -> None:
    answers = iter([500, 200, 500])
    with Pings(behave=lambda: next(answers)) as pings:
        assert len(told({"ping-url": pings.url}, DONE, DONE, DONE)) == 2


@pytest.mark.parametrize("way", ["ping", "command"])
def test_a_call_that_hangs_holds_nobody_up_for_longer_than_its_time(way: str) -> None:
    with Pings() as pings:
        pings.behave = pings.hang
        rules: dict[str, object] = {"timeout": "1s"}
        rules |= {"ping-url": pings.url} if way == "ping" else {"command": "sh -c 'sleep 60 & sleep 60'"}
        warned: list[str] = []
        notifier = Notifier(parse_notify(rules)[0], warned.append)
        began = time.monotonic()
        for _ in range(1000):
            notifier.send(DONE)
        assert time.monotonic() - began < 0.9
        notifier.close()
        assert time.monotonic() - began < 4
        thread = notifier._ways[way].thread
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive(), "it went on with what waited"
    assert 1 <= len(warned) <= 2


def test_nobody_to_call_is_no_thread() -> None:
    notifier = Notifier(None, pytest.fail)
    notifier.send(DONE)
    assert notifier.is_empty
    notifier.close()


# --- alarms ----------------------------------------------------------------------------------------------------------


def test_an_alarm_is_told_when_it_begins_and_when_it_ends_also_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    source, ledger = bytes(range(16)), bytes(16)
    surge = Alarm(name="surge", source=source, text="9 of 10 elements changed")
    full = Alarm(name="storage_full", source=None, text="/srv/alice has 3 bytes free")

    def news(*alarms: Alarm) -> list[tuple[str, str, str | None]]:
        told = ToldAlarms(ledger).news(alarms, {source: "photos"}, command="status", warn=pytest.fail)
        return [(each.state, each.text, each.source) for each in told]

    assert news(surge, full) == [
        ("alarm_began", "storage_full: `kropotcli status` says more", None),
        ("alarm_began", "surge: 9 of 10 elements changed", "photos"),
    ]
    assert news(surge, full) == []
    assert news(full) == [("alarm_ended", "surge is over", "photos")]
    (path,) = (tmp_path / "kropotcli" / "alarms").iterdir()
    path.write_bytes(b"rubbish")
    assert len(news(full)) == 1


def test_an_alarm_that_may_end_soon_is_told_later_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    stale = Alarm(name="listing_stale", source=bytes(16), text="the server has not been listed for too long")

    def news(alarms: list[Alarm], not_yet: frozenset[str]) -> list[str]:
        told = ToldAlarms(bytes(16)).news(alarms, {}, command="collect", warn=pytest.fail, not_yet=not_yet)
        return [each.state for each in told]

    soon = frozenset({"listing_stale"})
    assert news([stale], soon) == []
    assert news([], soon) == []
    assert news([stale], soon) == []
    assert news([stale], frozenset()) == ["alarm_began"]
    assert news([stale], soon) == []
    assert news([], soon) == ["alarm_ended"]


def test_the_time_in_which_apprise_is_loaded_is_not_that_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(notifier_module, "_SPARE_S", 0.0)
    monkeypatch.setattr(notifier_module, "load_apprise", lambda: time.sleep(0.4))
    monkeypatch.setattr(notifier_module, "tell_apprise", lambda _urls, message: sent.append(message.state))
    warned: list[str] = []
    rules = NotifyRules(tables={(): {"apprise": ("json://127.0.0.1",), "timeout_s": 0.1}})
    with Notifier(rules, warned.append) as notifier:
        notifier.send(Message(command="verify", state="fail", text="it failed"))
    assert (sent, warned) == (["fail"], [])
