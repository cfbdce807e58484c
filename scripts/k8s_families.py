"""Write what deploy/k8s has of each shipped family, from its values: `python scripts/k8s_families.py`.

A worker each in families/, and in scaling/ an autoscaler each by KEDA (asking the backlog, or Prometheus) or by an HPA
with prometheus-adapter. Targets are 0.8 of max_jobs: docs/operations/autoscaling.md says why.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path

from daemon.dotted import shipped_families
from daemon.family import FamilyValues
from daemon.registry import load_families

FOLDER = Path(__file__).parents[1] / "deploy/k8s"
MAX_REPLICAS = 10
#: Beyond the drain: what the pod may take to end.
GRACE = 15
#: Families of this priority or before it keep one worker: their jobs wait for no pod.
URGENT = 2
SCALERS = ("keda-metrics-api", "keda-prometheus", "keda-external", "hpa-prometheus-adapter")


def main() -> int:
    """Write the files."""
    for path, text in files().items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text, "utf-8")
    return 0


def files() -> dict[str, str]:
    """Give every file by its path below `FOLDER`."""
    families = {family.name: family.values for family in load_families(shipped_families(), list(shipped_families()))}
    found = {"families/kustomization.yaml": _list("A worker for each family that ships.", families)}
    found["monitoring/prometheusrule.yaml"] = _rules((FOLDER.parent / "monitoring/arqd.rules.yaml").read_text("utf-8"))
    for name, values in families.items():
        found[f"families/{name}/kustomization.yaml"] = _worker(name, values)
        for scaler in SCALERS:
            text = _hpa(name, values) if scaler.startswith("hpa") else _scaled_object(scaler, name, values)
            found[f"scaling/{scaler}/{name}.yaml"] = text
    for scaler in SCALERS:
        text = _list("Add to an overlay beside families/.", [f"{name}.yaml" for name in families])
        found[f"scaling/{scaler}/kustomization.yaml"] = _with_scaler(text) if scaler == "keda-external" else text
    return found


def _list(about: str, resources: Iterable[str]) -> str:
    lines = "".join(f"  - {name}\n" for name in resources)
    return f"# {about}\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{lines}"


def _rules(text: str) -> str:
    """Give the rules of deploy/monitoring as a resource of the Prometheus operator."""
    groups = "".join(f"  {line}".rstrip() + "\n" for line in text.splitlines() if not line.startswith("#"))
    return f"""\
# Of deploy/monitoring/arqd.rules.yaml: scripts/k8s_families.py writes it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: arqd
  labels: {{app.kubernetes.io/part-of: arqd}}
spec:
{groups}"""


def _with_scaler(text: str) -> str:
    """Let the backlog be KEDA's external scaler: a component, which changes what an overlay has."""
    text = text.replace("v1beta1", "v1alpha1").replace("kind: Kustomization", "kind: Component")
    text = text.replace("beside families/.", "beside families/, as a component.")
    return f"""{text}patches:
  - target: {{kind: Deployment, name: arqd-backlog}}
    patch: |-
      - op: add
        path: /spec/template/spec/containers/0/env/-
        value: {{name: ARQD_PROBE__SCALER_PORT, value: "9192"}}
      - {{op: add, path: /spec/template/spec/containers/0/ports/-, value: {{name: scaler, containerPort: 9192}}}}
  - target: {{kind: Service, name: arqd-backlog}}
    patch: |-
      - {{op: add, path: /spec/ports/-, value: {{name: scaler, port: 9192, targetPort: scaler}}}}
  - target: {{kind: NetworkPolicy, name: arqd}}
    patch: |-
      - {{op: add, path: /spec/ingress/0/ports/-, value: {{port: 9192}}}}
"""


def _worker(name: str, values: FamilyValues) -> str:
    grace = math.ceil(values.drain_timeout) + GRACE
    return f"""\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../worker]
nameSuffix: -{name}
labels:
  - pairs: {{arqd/family: {name}}}
    includeSelectors: true
patches:
  - target: {{kind: Deployment}}
    patch: |-
      - {{op: replace, path: /spec/template/spec/containers/0/args/1, value: {name}}}
      - {{op: replace, path: /spec/template/spec/terminationGracePeriodSeconds, value: {grace}}}
"""


def _bounds(values: FamilyValues) -> tuple[int, int, int]:
    """Give the least and most replicas, and the load one of them is to have."""
    most = MAX_REPLICAS if values.global_limit is None else math.ceil(values.global_limit / values.max_jobs)
    return int(values.priority <= URGENT), most, max(1, round(0.8 * values.max_jobs))


def _scaled_object(scaler: str, name: str, values: FamilyValues) -> str:
    least, most, target = _bounds(values)
    query = f'sum(max by (state) (arqd_queue_jobs{{family="{name}",state=~"waiting|active"}}))'
    triggers = {
        "keda-metrics-api": f"""\
    - type: metrics-api
      metadata:
        url: http://arqd-backlog:9191/backlog/{name}
        valueLocation: load
        targetValue: "{target}"
        activationTargetValue: "0"
""",
        "keda-prometheus": f"""\
    - type: prometheus
      metadata:
        serverAddress: http://prometheus-operated.monitoring:9090
        query: '{query}'
        threshold: "{target}"
        activationThreshold: "0"
        # Without an answer there is no load of 0, but an error: the fallback holds.
        ignoreNullValues: "false"
""",
        "keda-external": f"""\
    - type: external-push
      metadata:
        scalerAddress: arqd-backlog.arqd:9192
        family: {name}
        target: "{target}"
""",
    }
    return f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: arqd-worker-{name}
  labels: {{app.kubernetes.io/part-of: arqd, arqd/family: {name}}}
spec:
  scaleTargetRef:
    name: arqd-worker-{name}
  minReplicaCount: {least}
  maxReplicaCount: {most}
  pollingInterval: 5
  cooldownPeriod: 120
  # While nobody can tell the load: never 0, and no replica is taken away.
  fallback:
    failureThreshold: 3
    replicas: {max(1, most // 2)}
    behavior: currentReplicasIfHigher
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
        scaleDown:
          stabilizationWindowSeconds: 120
  triggers:
{triggers[scaler]}"""


def _hpa(name: str, values: FamilyValues) -> str:
    least, most, target = _bounds(values)
    return f"""\
# An HPA does not scale to zero.
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: arqd-worker-{name}
  labels: {{app.kubernetes.io/part-of: arqd, arqd/family: {name}}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: arqd-worker-{name}}}
  minReplicas: {max(1, least)}
  maxReplicas: {most}
  behavior:
    scaleUp: {{stabilizationWindowSeconds: 0}}
    scaleDown: {{stabilizationWindowSeconds: 120}}
  metrics:
    - type: External
      external:
        metric:
          name: arqd_queue_load
          selector:
            matchLabels: {{family: {name}}}
        target: {{type: AverageValue, averageValue: "{target}"}}
"""


if __name__ == "__main__":
    sys.exit(main())
