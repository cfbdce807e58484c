"""Which fields KEDA's ScaledObject has, by its resource definition: what else is given KEDA drops silently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ANY: dict[str, Any] = {}
#: Names of fields, with theirs; a type where nothing is below.
SCALED_OBJECT: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": ANY,
    "spec": {
        "advanced": {
            "horizontalPodAutoscalerConfig": {"behavior": ANY, "name": str},
            "restoreToOriginalReplicaCount": bool,
            "scalingModifiers": {"activationTarget": str, "formula": str, "metricType": str, "target": str},
        },
        "cooldownPeriod": int,
        "fallback": {"behavior": str, "failureThreshold": int, "replicas": int},
        "idleReplicaCount": int,
        "initialCooldownPeriod": int,
        "maxReplicaCount": int,
        "minReplicaCount": int,
        "pollingInterval": int,
        "scaleTargetRef": {"apiVersion": str, "envSourceContainerName": str, "kind": str, "name": str},
        "triggers": [
            {
                "authenticationRef": {"kind": str, "name": str},
                "metadata": {"*": str},
                "metricType": str,
                "name": str,
                "type": str,
                "useCachedMetrics": bool,
            }
        ],
    },
}
FALLBACKS = {"static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower", "scalingModifiers"}
#: What a trigger of a type takes, those it needs first.
TRIGGERS = {
    "metrics-api": ({"url", "valueLocation", "targetValue"}, {"activationTargetValue", "format", "authMode"}),
    "prometheus": ({"serverAddress", "query", "threshold"}, {"activationThreshold", "ignoreNullValues"}),
    "external": ({"scalerAddress"}, {"family", "target"}),
    "external-push": ({"scalerAddress"}, {"family", "target"}),
}


def problems(document: Any, known: Any = SCALED_OBJECT, where: str = "") -> Iterator[str]:
    """Give what KEDA does not know or takes for another type."""
    if isinstance(known, type):
        if type(document) is not known:
            yield f"{where} is no {known.__name__}"
    elif isinstance(known, list):
        for number, each in enumerate(document):
            yield from problems(each, known[0], f"{where}[{number}]")
    elif known:
        for name, value in document.items():
            if name not in known and "*" not in known:
                yield f"{where}.{name} is not known"
            else:
                yield from problems(value, known.get(name, known.get("*")), f"{where}.{name}")
