"""Every query of the dashboards and rules, asked of a real Prometheus over real metrics."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import start_edge
from tests.deploy.promql import check_queries
from tests.waiting import wait_until
from wisp.launch import Process

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus is not installed",
)


def queries(dashboard: Path) -> list[str]:
    """With what Grafana puts in for its variables."""
    panels = json.loads(dashboard.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [query.replace("$__rate_interval", "30s").replace("$instance", ".*") for query in found]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_rules_fire_when_they_should() -> None:
    command = ["promtool", "test", "rules", "rules_test.yaml"]
    tested = subprocess.run(
        command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_and_has_its_place_in_the_runbook() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yaml").read_text())["tests"]
    tested = {
        each["alertname"]
        for test in tests
        for each in test["alert_rule_test"]
        if each["exp_alerts"]
    }
    assert tested == set(alerts)
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert f"### {name}\n" in runbook


def test_the_rules_ask_for_metrics_that_there_are() -> None:
    check_queries(rule["expr"] for rule in rules() if "wisp:" not in rule["expr"])


@pytest.fixture(scope="module")
def prometheus(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """It has seen a server and an edge that answered some requests, and refused one."""
    folder = tmp_path_factory.mktemp("prometheus")
    flags = ("--http.port=0", "--grpc.port=0")
    with (
        Process("server", *flags, log=logs / "server", module="tests.deploy.scripted") as server,
        start_edge(server, logs) as edge,
    ):
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        targets = {"wisp-server": server, "wisp-edge": edge}
        for job in config["scrape_configs"]:
            port = targets[job["job_name"]].facts["http"]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        shutil.copy(DEPLOY / "prometheus" / "rules.yaml", folder)
        address = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}.1:9090"
        command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ]
        with open(folder / "log", "w") as log:
            process = subprocess.Popen(command, stderr=log)
        try:
            with httpx.Client(base_url=f"http://{address}") as client:
                wait_until(lambda: _ready(client), "Prometheus answers")
                _ask(edge, 3)
                # A rate needs two looks, between which something happened.
                seen = "count_over_time(wisp_sessions_ended_total{slo_class='default'}[30s]) > 1"
                wait_until(lambda: bool(value(client, seen)), "Prometheus has seen some")
                _ask(edge, 3)
                _ask(server, 1)
                yield client
        finally:
            process.terminate()
            process.wait()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def _ask(process: Process, count: int) -> None:
    for number in range(count):
        fields = {"model": "scripted", "prompt": "def f", "max_tokens": 24, "seed": number}
        answer = httpx.post(f"{process.url}/v1/completions", json=fields, timeout=60)
        assert answer.status_code == 200, answer.text


def value(client: httpx.Client, query: str) -> list[Any]:
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = answer["data"]["result"]
    return found


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_something_to_show(prometheus: httpx.Client, dashboard: Path) -> None:
    asked = queries(dashboard)
    check_queries(asked)
    empty = list(asked)

    def all_answer() -> bool:
        empty[:] = [query for query in empty if not value(prometheus, query)]
        return not empty

    wait_until(all_answer, f"all panels show something: {empty}")


def test_every_query_of_the_rules_is_understood(prometheus: httpx.Client) -> None:
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(rules())
    assert not [rule for rule in found if rule["health"] == "err"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(dashboard: Path) -> None:
    """Grafana takes what it does not know without a word: names and places are checked here."""
    content = json.loads(dashboard.read_text())
    ids = [panel["id"] for panel in content["panels"]]
    titles = [panel["title"] for panel in content["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    variables = {each["name"] for each in content["templating"]["list"]}
    named = set(re.findall(r"\$\{?([a-z_]+)", dashboard.read_text())) - {"__rate_interval", "__all"}
    assert named <= variables
    for panel in content["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
