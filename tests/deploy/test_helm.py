"""The chart, rendered by Helm itself and checked against the schemas of Kubernetes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.promql import check_queries
from wisp import __version__
from wisp.config import ServerConfig, load

ROOT = Path(__file__).parent.parent.parent
HELM = ROOT / "deploy" / "helm"
EXAMPLES = ("one-gpu", "fleet")
# Kinds of others than Kubernetes itself, whose schemas no package brings.
CUSTOM = {"ServiceMonitor", "ScaledObject", "HTTPRoute", "GRPCRoute", "LeaderWorkerSet"}
KUBERNETES = ("1.32", "1.37")  # the oldest and the newest that the validator has and that we check

Manifest = dict[str, Any]
Render = Callable[[Path], list[Manifest]]


@pytest.fixture(scope="session")
def helm(tools: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    def run(values: Path) -> subprocess.CompletedProcess[str]:
        command = [str(tools / "python"), str(ROOT / "tests" / "deploy" / "render.py")]
        return subprocess.run(
            [*command, str(HELM / "wisp"), str(values)], capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="session", params=EXAMPLES)
def manifests(
    request: pytest.FixtureRequest, helm: Callable[[Path], subprocess.CompletedProcess[str]]
) -> list[Manifest]:
    rendered = helm(HELM / "examples" / f"{request.param}.yaml")
    assert rendered.returncode == 0, rendered.stderr
    texts = json.loads(rendered.stdout).values()
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [each for each in manifests if each["kind"] == kind]
    return found


def test_kubernetes_takes_every_manifest(
    manifests: list[Manifest], tools: Path, tmp_path: Path
) -> None:
    own = [each for each in manifests if each["kind"] not in CUSTOM]
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(own))
    for version in KUBERNETES:
        command = [str(tools / "kubernetes-validate"), "--strict", "-k", version, str(path)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_validator_finds_what_is_wrong(tools: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{prot: 1}]}"
    )
    command = [str(tools / "kubernetes-validate"), "--strict", "-k", KUBERNETES[-1], str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_settings_are_those_that_the_server_takes(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(only(manifests, "ConfigMap")["data"]["server.yaml"])
    config = load(ServerConfig, [f"--config={path}"], "wisp-server")
    assert config.engine.kind == "vllm"
    assert (config.http.port, config.grpc.port, config.admin.port) == (8000, 8001, 9000)
    pod = only(manifests, "StatefulSet")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert {port["name"]: port["containerPort"] for port in server["ports"]} == {
        "https": config.http.port,
        "grpc": config.grpc.port,
        "operators": config.admin.port,
    }
    # The hook's five seconds, the drain, and time to leave.
    assert pod["terminationGracePeriodSeconds"] >= config.drain_s + 10
    mounted = {mount["mountPath"] for mount in server["volumeMounts"]}
    for path_of in (config.target, config.tls.cert, config.estimator.state_dir, config.keys):
        assert path_of is None or any(str(path_of).startswith(mount) for mount in mounted)
    tensor = config.engine.options.get("tensor_parallel_size", 1)
    assert server["resources"]["limits"]["nvidia.com/gpu"] == tensor


def test_a_replica_is_locked_down(manifests: list[Manifest]) -> None:
    pod = only(manifests, "StatefulSet")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert server["livenessProbe"]["httpGet"]["path"] == "/live"
    assert server["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert only(manifests, "NetworkPolicy")["spec"]["egress"] == []


def test_what_selects_finds_the_replicas(manifests: list[Manifest]) -> None:
    stateful = only(manifests, "StatefulSet")
    labels = stateful["spec"]["template"]["metadata"]["labels"].items()
    selectors = [stateful["spec"]["selector"]["matchLabels"]]
    selectors += [each["spec"]["selector"] for each in manifests if each["kind"] == "Service"]
    selectors += [
        only(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert len(selectors) == 5
    for selector in selectors:
        assert selector.items() <= labels
    services = {each["metadata"]["name"]: each for each in manifests if each["kind"] == "Service"}
    headless = services[stateful["spec"]["serviceName"]]
    assert headless["spec"]["clusterIP"] == "None"
    monitors = [each for each in manifests if each["kind"] == "ServiceMonitor"]
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [each for each in services.values() if wanted <= each["metadata"]["labels"].items()]
        assert found == [headless]


def test_what_scales_asks_prometheus_for_metrics_that_there_are(manifests: list[Manifest]) -> None:
    scaled = [each for each in manifests if each["kind"] == "ScaledObject"]
    queries = [t["metadata"]["query"] for each in scaled for t in each["spec"]["triggers"]]
    check_queries(queries)
    assert len(queries) in (0, 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("image: {repository: x}\ntls: {secret: t}\n", "set model.claim or model.hostPath"),
        ("model: {path: /models/x, claim: m}\ntls: {secret: t}\n", "repository"),
        ("image: {repository: x}\nmodel: {path: /models/x, claim: m}\n", "secret"),
        (
            "image: {repository: x}\nmodel: {path: /models/x, claim: m}\ntls: {secret: t}\n"
            "replica: 2",
            "replica",
        ),
        (
            "image: {repository: x}\nmodel: {path: /models/x, claim: m}\ntls: {secret: t}\n"
            "config: {http: {port: 1}}",
            "config",
        ),
        ("image: {repository: x, digest: sha256:12}\ntls: {secret: t}\n", "digest"),
    ],
)
def test_wrong_values_are_refused(
    helm: Callable[[Path], subprocess.CompletedProcess[str]],
    tmp_path: Path,
    values: str,
    said: str,
) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(values)
    refused = helm(path)
    assert refused.returncode != 0
    assert said in refused.stderr


def test_every_value_is_in_the_schema() -> None:
    values = yaml.safe_load((HELM / "wisp" / "values.yaml").read_text())
    schema = json.loads((HELM / "wisp" / "values.schema.json").read_text())

    def check(values: Manifest, schema: Manifest, path: str) -> None:
        for name, value in values.items():
            assert name in schema["properties"], f"{path}{name}"
            inner = schema["properties"][name]
            if isinstance(value, dict) and "properties" in inner:
                check(value, inner, f"{path}{name}.")

    check(values, schema, "")


def test_the_chart_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load((HELM / "wisp" / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_example_over_several_nodes_is_of_pods_that_kubernetes_takes(
    tools: Path, tmp_path: Path
) -> None:
    example = yaml.safe_load((HELM / "examples" / "leaderworkerset.yaml").read_text())
    template = example["spec"]["leaderWorkerTemplate"]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": kind}} | template[kind]
        for kind in ("leaderTemplate", "workerTemplate")
    ]
    for pod in pods:
        pod["metadata"] = {"name": "pod", **pod["metadata"]}
    path = tmp_path / "pods.yaml"
    path.write_text(yaml.safe_dump_all(pods))
    command = [str(tools / "kubernetes-validate"), "--strict", "-k", KUBERNETES[-1], str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
