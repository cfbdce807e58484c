"""The manifests: built by kustomize, strictly valid for two versions of Kubernetes, and true of one another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from daemon.cli.starting import DAEMONS
from daemon.console.settings import ConsoleSettings
from daemon.dotted import shipped_families
from daemon.inspector import Inspector
from daemon.probe.settings import ProbeSettings
from daemon.registry import load_families
from daemon.settings import load_settings
from scripts import k8s_families
from tests.deploy import keda

FOLDER = Path(__file__).parents[2] / "deploy/k8s"
OVERLAYS = sorted(
    path.parent.name for path in FOLDER.glob("overlays/*/kustomization.yaml") if path.parent.name != "namespace"
)
VERSIONS = ("1.33", "1.37")
# Resources of operators, which the schemas of Kubernetes do not have.
FOREIGN = ("keda.sh/", "monitoring.coreos.com/")
GRACE_BEYOND_DRAIN = 15


@cache
def built(overlay: str) -> list[dict[str, Any]]:
    return build(FOLDER / "overlays" / overlay)


def build(folder: Path) -> list[dict[str, Any]]:
    assert shutil.which("kubectl"), "the tests of the manifests need kubectl 1.27 or later"
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> list[dict[str, Any]]:
    return [each for each in built(overlay) if each["kind"] in kinds]


def pod_specs(overlay: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (e["metadata"]["name"], e["spec"]["template"]["spec"]) for e in of_kind(overlay, "Deployment", "StatefulSet")
    ]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def workers(overlay: str) -> dict[str, dict[str, Any]]:
    """Give the worker Deployments by what they run."""
    found = [each for each in of_kind(overlay, "Deployment") if each["metadata"]["name"].startswith("arqd-worker")]
    return {each["spec"]["template"]["spec"]["containers"][0]["args"][1]: each for each in found}


def test_every_overlay_is_built() -> None:
    assert OVERLAYS == ["cluster", "external", "hpa", "laptop", "prometheus"]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_strictly_valid(overlay: str, version: str) -> None:
    for document in built(overlay):
        if not document["apiVersion"].startswith(FOREIGN):
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlay: str) -> None:
    [namespace] = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, spec in pod_specs(overlay):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert (spec["enableServiceLinks"], spec["automountServiceAccountToken"]) == (False, False), name
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"]["type"] == "RuntimeDefault"
        assert {kind for volume in spec.get("volumes", []) for kind in volume.keys() - {"name"}} <= {
            "secret",
            "emptyDir",
        }
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, container["name"]
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_in_one_place_are_there_in_the_other(overlay: str) -> None:
    documents = built(overlay)
    names = {(each["kind"], each["metadata"]["name"]) for each in documents}
    assert {each["metadata"].get("namespace") for each in documents if each["kind"] != "Namespace"} == {"arqd"}
    labels = [e["spec"]["template"]["metadata"]["labels"] for e in of_kind(overlay, "Deployment", "StatefulSet")]
    ports = {
        (port["name"], port["containerPort"])
        for _, spec in pod_specs(overlay)
        for container in containers(spec)
        for port in container.get("ports", [])
    }
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] in (
            "Deployment",
            "StatefulSet",
            "Service",
            "PodDisruptionBudget",
            "PodMonitor",
            "NetworkPolicy",
        ):
            selector = spec.get("selector") or spec["podSelector"]
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= each.items() for each in labels), document["metadata"]["name"]
        if document["kind"] == "Service":
            for port in spec["ports"]:
                assert port["targetPort"] in {name for name, _ in ports}
        if document["kind"] == "PodMonitor":
            assert {each["port"] for each in spec["podMetricsEndpoints"]} <= {name for name, _ in ports}
        if document["kind"] == "NetworkPolicy":
            assert {p["port"] for rule in spec["ingress"] for p in rule["ports"]} <= {number for _, number in ports}
        if target := spec.get("scaleTargetRef"):
            assert (target.get("kind", "Deployment"), target["name"]) in names
    for _, pod in pod_specs(overlay):
        assert "serviceAccountName" not in pod or ("ServiceAccount", pod["serviceAccountName"]) in names
        for container in containers(pod):
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"]) in names
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            claims = {"data"} if container["name"] == "redis" else set()
            assert mounts <= {volume["name"] for volume in pod.get("volumes", [])} | claims


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_settings_and_ports_are_theirs(overlay: str) -> None:
    [settings] = of_kind(overlay, "ConfigMap")
    for _, spec in pod_specs(overlay):
        for container in containers(spec):
            if container["name"] == "redis":
                continue
            given = {each["name"]: each["value"] for each in container.get("env", [])}
            data = {k: v for k, v in settings["data"].items() if k != "ARQD_SECRETS_DIR"}
            loaded = load_settings({**data, **given})
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert settings["data"]["ARQD_SECRETS_DIR"] in mounted
            assert str(loaded.var_dir) in mounted
            assert str(loaded.heartbeat_file and loaded.heartbeat_file.parent) in mounted
            port = {"probe": loaded.probe.port, "backlog": loaded.probe.port, "console": loaded.console.port}
            expected = [port[container["name"]]] if container["name"] in port else []
            expected += [loaded.probe.scaler_port] if loaded.probe.scaler_port else []
            assert [each["containerPort"] for each in container.get("ports", [])] == expected
            assert container["args"][0] in DAEMONS or container["args"] == ["db", "upgrade"]
    assert (ProbeSettings().port, ConsoleSettings().port) == (9191, 9180)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_may_drain(overlay: str) -> None:
    families = {family.name: family for family in load_families(shipped_families(), list(shipped_families()))}
    for name, deployment in workers(overlay).items():
        spec = deployment["spec"]["template"]["spec"]
        drains = [family.values.drain_timeout for family in families.values() if name in (family.name, "all")]
        assert drains, f"no family {name} ships"
        assert spec["terminationGracePeriodSeconds"] >= max(drains) + GRACE_BEYOND_DRAIN
        sidecar, *before = spec["initContainers"]
        # Where the database is a file in the pod its tables are made in it.
        assert [each["args"] for each in before] == [["db", "upgrade"]] * (overlay == "laptop")
        assert (sidecar["restartPolicy"], sidecar["args"]) == ("Always", ["probe"])
        [worker] = spec["containers"]
        assert {worker[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")} == {
            "/startupz", "/livez", "/readyz",
        }  # fmt: skip
        # What is scaled has no number of its own, which every apply would set again.
        scaled = bool(of_kind(overlay, "ScaledObject", "HorizontalPodAutoscaler"))
        assert ("replicas" in deployment["spec"]) is not scaled
        assert "/etc/arqd/secrets" in {mount["mountPath"] for mount in worker["volumeMounts"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_hangs_is_started_again(overlay: str) -> None:
    for name, spec in pod_specs(overlay):
        for container in spec["containers"]:
            assert "livenessProbe" in container, f"{name}: {container['name']}"


def test_what_is_written_of_the_families_is_up_to_date() -> None:
    for path, text in k8s_families.files().items():
        # A list may be of fewer families than ship; what is of a family that is in it has its values.
        if (FOLDER / path).exists() and not path.endswith("s/kustomization.yaml") and "api/kust" not in path:
            assert (FOLDER / path).read_text() == text, "run: python scripts/k8s_families.py"


async def test_scaled_objects_are_what_keda_knows_and_the_backlog_tells(redis_url: str) -> None:
    async with Inspector.connect(redis_url, list(shipped_families())) as inspector:
        for overlay in OVERLAYS:
            services = {each["metadata"]["name"]: each for each in of_kind(overlay, "Service")}
            for document in of_kind(overlay, "ScaledObject"):
                assert list(keda.problems(document)) == []
                spec = document["spec"]
                assert spec["fallback"]["behavior"] in keda.FALLBACKS
                assert 0 < spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
                for trigger in spec["triggers"]:
                    needed, others = keda.TRIGGERS[trigger["type"]]
                    assert needed <= trigger["metadata"].keys() <= needed | others
                    if trigger["type"] == "external-push":
                        host, port = trigger["metadata"]["scalerAddress"].removesuffix(".arqd").split(".arqd:")
                        assert int(port) in {each["port"] for each in services[host]["spec"]["ports"]}
                        assert trigger["metadata"]["family"] in shipped_families()
                    if trigger["type"] == "metrics-api":
                        host, port, family = re.fullmatch(
                            r"http://([^:]+):(\d+)/backlog/(.+)", trigger["metadata"]["url"]
                        ).groups()  # type: ignore[union-attr]
                        assert int(port) in {each["port"] for each in services[host]["spec"]["ports"]}
                        figures = await inspector.backlog(family)
                        assert isinstance(figures[trigger["metadata"]["valueLocation"]], int | float)


def test_the_alerts_are_rules_and_what_scalers_ask_prometheus_for_is_ours(tmp_path: Path) -> None:
    [rule] = of_kind("cluster", "PrometheusRule")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ours = set(re.findall(r"`(arqd_\w+)`", (FOLDER.parents[1] / "docs/metrics.md").read_text()))
    adapter = yaml.safe_load((FOLDER / "scaling/hpa-prometheus-adapter/adapter-rules.yaml").read_text())
    [external] = adapter["rules"]["external"]
    queries = [external["metricsQuery"], external["seriesQuery"]]
    queries += [t["metadata"]["query"] for e in of_kind("prometheus", "ScaledObject") for t in e["spec"]["triggers"]]
    assert {name for query in queries for name in re.findall(r"arqd_\w+", query)} <= ours
    metrics = [
        m["external"]["metric"]["name"] for e in of_kind("hpa", "HorizontalPodAutoscaler") for m in e["spec"]["metrics"]
    ]
    assert set(metrics) == {external["name"]["as"]}


def test_the_compose_file_holds() -> None:
    path = FOLDER.parent / "compose.yaml"
    done = subprocess.run(["docker-compose", "-f", str(path), "config"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services["worker"]["deploy"]["replicas"] == 3
    for name, service in services.items():
        if name != "redis":
            assert service["command"][0] in (*DAEMONS, "db")
            load_settings(service["environment"])


def test_a_component_lets_workers_say_how_busy_they_are(tmp_path: Path) -> None:
    # kustomize takes relative paths only.
    laptop, component = (
        os.path.relpath(FOLDER / each, tmp_path) for each in ("overlays/laptop", "components/deletion-cost")
    )
    text = f"resources: [{laptop}]\ncomponents: [{component}]\nnamespace: arqd\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    documents = build(tmp_path)
    for version in VERSIONS:
        for document in documents:
            kubernetes_validate.validate(document, version, strict=True)
    [worker] = [e for e in documents if (e["kind"], e["metadata"]["name"]) == ("Deployment", "arqd-worker")]
    spec = worker["spec"]["template"]["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("arqd-worker", True)
    names = {each["name"] for each in spec["initContainers"][0]["env"]}
    assert names == {"ARQD_PROBE__POD_NAME", "ARQD_PROBE__POD_NAMESPACE"}
    load_settings(dict.fromkeys(names, "x"))
    [role] = [each for each in documents if each["kind"] == "Role"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    others = [e for e in documents if e["kind"] == "Deployment" and e is not worker]
    assert {each["spec"]["template"]["spec"]["automountServiceAccountToken"] for each in others} == {False}
