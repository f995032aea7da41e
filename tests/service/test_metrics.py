"""Metrics: the text is Prometheus' format, who serves it can be relied upon, and what contrib/ asks for exists."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from kropot.errors import KropotError
from kropot.metrics.serving import AT_ONCE, MetricsServer, write_metrics
from kropot.metrics.text import METRICS, METRICS_TYPE, MetricSample, metrics_in_text

CONTRIB = Path(__file__).parent.parent.parent / "contrib"
NAME = re.compile(r"\bkropot_[a-z_]+")


def test_the_text_is_what_the_official_parser_reads_back() -> None:
    label = 'a "quoted\\ label\nof two lines'
    text = metrics_in_text(
        [
            MetricSample(name="kropot_elements", value=3, labels={"label": label, "state": "current"}),
            MetricSample(name="kropot_healthy", value=True),
            MetricSample(name="kropot_collect_copied_bytes_total", value=1 << 60),
            MetricSample(name="kropot_collect_round_duration_seconds", value=0.125),
            MetricSample(name="kropot_elements", value=0, labels={"label": "", "state": "lost"}),
        ]
    )
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [sample.labels["label"] for sample in families["kropot_elements"].samples] == [label, ""]
    assert families["kropot_healthy"].samples[0].value == 1
    assert families["kropot_collect_copied_bytes"].type == "counter"
    assert families["kropot_collect_copied_bytes"].samples[0].value == 1 << 60
    assert families["kropot_collect_round_duration_seconds"].samples[0].value == 0.125
    assert text.count("# TYPE kropot_elements gauge") == 1


def test_names_follow_the_conventions_and_no_other_can_be_written() -> None:
    for name, (kind, help_) in METRICS.items():
        assert NAME.fullmatch(name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert help_.endswith(".")
        assert "time" not in name or name.endswith("_timestamp_seconds")
    with pytest.raises(KeyError):
        metrics_in_text([MetricSample(name="kropot_unheard_of", value=1)])


def test_a_scrape_gets_the_text_and_everything_else_gets_nothing() -> None:
    with MetricsServer(("127.0.0.1", 0), lambda: "kropot_healthy 1\n") as server:
        answer = requests.get(server.url, timeout=5)
        assert (answer.status_code, answer.text) == (200, "kropot_healthy 1\n")
        assert answer.headers["Content-Type"] == METRICS_TYPE
        base = server.url.removesuffix("/metrics")
        assert [requests.get(base + path, timeout=5).status_code for path in ("/", "/metrics/x")] == [404, 404]
        assert requests.post(server.url, timeout=5).status_code == 501
        port = int(base.rpartition(":")[2])
        with pytest.raises(KropotError, match="choose another --metrics"):
            MetricsServer(("127.0.0.1", port), str)


def is_served(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def test_those_who_only_hold_connections_open_are_bounded() -> None:
    with MetricsServer(("127.0.0.1", 0), lambda: "x 1\n") as server:
        port = int(server.url.removesuffix("/metrics").rpartition(":")[2])
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(AT_ONCE)]
        until = time.monotonic() + 5
        while is_served(server.url):
            assert time.monotonic() < until
        for each in held:
            with closing(each):
                pass
        while not is_served(server.url):
            assert time.monotonic() < until


def test_the_file_is_replaced_whole_and_others_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "kropot.prom"
    (tmp_path / ".kropot.prom.new").write_text("left by a kill")
    write_metrics(path, "kropot_healthy 1\n")
    write_metrics(path, "kropot_healthy 0\n")
    assert path.read_text() == "kropot_healthy 0\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


# --- contrib ---------------------------------------------------------------------------------------------------------


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_shown_or_alerted_on() -> None:
    board = json.loads((CONTRIB / "grafana" / "kropot.json").read_text())
    asked = {name for panel in board["panels"] for target in panel["targets"] for name in NAME.findall(target["expr"])}
    assert len(asked) > 15
    assert asked <= METRICS.keys()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    rules = set(NAME.findall((CONTRIB / "prometheus" / "kropot-alerts.yml").read_text()))
    assert rules <= METRICS.keys()
    unused = METRICS.keys() - asked - rules - {"kropot_build_info"}
    assert unused == {
        "kropot_full_listing_timestamp_seconds",
        "kropot_gateway_requests_in_progress",
        "kropot_gateway_scan_timestamp_seconds",
        "kropot_ledger_free_bytes",
        "kropot_ledger_last_event_timestamp_seconds",
        "kropot_storage_free_files",
    }


def test_every_alert_rule_has_an_expression_a_severity_and_a_summary() -> None:
    text = (CONTRIB / "prometheus" / "kropot-alerts.yml").read_text()
    rules = text.split("- alert: ")[1:]
    assert len(rules) > 8
    for rule in rules:
        assert NAME.search(rule.partition("expr: ")[2].partition("\n")[0]), rule
        assert "severity: " in rule
        assert "summary: " in rule
        assert rule.count("(") == rule.count(")")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_alert_rules() -> None:
    rules = CONTRIB / "prometheus" / "kropot-alerts.yml"
    done = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
