"""How busy a pod is, for Kubernetes: of the pods it may choose from it takes away those with the lowest cost first.

The probe beside a worker writes the number of running jobs into its own pod's annotation
``controller.kubernetes.io/pod-deletion-cost``, when it has changed. It needs the right to patch pods, and so a token of
a service account, which pods have not by default: deploy/k8s/components/deletion-cost gives it to workers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.process.heartbeat import read_heartbeat

logger = logging.getLogger("arqd.probe")

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
#: Where Kubernetes puts a pod's token, and the certificate of its API server.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: How often the number is looked at; the API server is asked only when it has changed. Seconds.
LOOK_SECONDS, TIMEOUT = 5.0, 5.0


@dataclass(frozen=True, slots=True)
class Pod:
    """This pod, and the way to the API server.

    Attributes:
        server: URL of the API server.
        namespace, name: of the pod.
        account: folder with ``token`` and ``ca.crt``.
    """

    server: str
    namespace: str
    name: str
    account: Path = ACCOUNT

    def set_cost(self, cost: int) -> None:
        """Write the annotation; call it in a thread.

        Raises:
            OSError: when the API server refuses it or cannot be reached.
        """
        body = json.dumps({"metadata": {"annotations": {ANNOTATION: str(cost)}}}).encode()
        request = urllib.request.Request(  # noqa: S310 - of our own
            f"{self.server}/api/v1/namespaces/{self.namespace}/pods/{self.name}",
            data=body,
            method="PATCH",
            headers={
                "content-type": "application/merge-patch+json",
                # It is renewed every hour.
                "authorization": f"Bearer {(self.account / 'token').read_text().strip()}",
            },
        )
        context = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        urllib.request.urlopen(request, timeout=TIMEOUT, context=context).close()  # noqa: S310 - of our own


def running_jobs(files: Sequence[Path]) -> int:
    """Give how many jobs the workers with these heartbeat files run."""
    beats = [beat for file in files if (beat := read_heartbeat(file)) is not None]
    return sum(family["running"] for beat in beats for family in beat["families"].values())


async def keep_cost(pod: Pod, files: Callable[[], Sequence[Path]]) -> None:
    """Keep the annotation right until cancelled; that it cannot be written is told once and tried again."""
    told: int | None = None
    failing = False
    while True:
        cost = running_jobs(files())
        if cost != told:
            try:
                await asyncio.to_thread(pod.set_cost, cost)
            except OSError as error:
                if not failing:
                    logger.warning("the pod's deletion cost is not written: %s", error)
                failing = True
            else:
                told, failing = cost, False
        await asyncio.sleep(LOOK_SECONDS)
