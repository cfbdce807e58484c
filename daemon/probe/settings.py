"""What the probe can be told from outside: the section ``probe`` of the settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from daemon.family import Seconds
from daemon.probe.health import Limits


def worker_file(path: Path, number: int) -> Path:
    """Give the heartbeat file of the nth of several worker processes: ``heartbeat-1.json``."""
    return path.with_stem(f"{path.stem}-{number}")


class ProbeSettings(BaseModel):
    """The health sidecar."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address the probe listens on; `0.0.0.0` in a pod")
    port: int = Field(9191, ge=0, le=65535, description="port the probe listens on")
    scaler_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="port of KEDA's external scaler (docs/operations/autoscaling.md); none: there is none",
    )
    pod_name: str | None = Field(
        None,
        description="pod whose deletion cost the probe sets to the number of running jobs (Kubernetes); none: of none",
    )
    pod_namespace: str = Field("default", description="namespace of that pod")
    workers: int = Field(
        1, ge=0, le=256, description="worker processes beside the probe (`--processes`); 0: it only tells the backlog"
    )
    heartbeats: str | None = Field(
        None,
        description="heartbeat files of all workers here, e.g. `/run/arqd/*/heartbeat.json`; one must be there, unless "
        "`workers` is 0",
    )
    heartbeat_limit: Seconds = Field(9, gt=0, description="a worker is dead when its heartbeat is older, seconds")
    stall_limit: Seconds = Field(
        15, gt=0, description="a worker is not ready when it took nothing for so long though it could, seconds"
    )

    def files(self, path: Path) -> list[Path]:
        """Give the heartbeat files of the workers beside the probe now; ``path`` is that of a single one."""
        if self.heartbeats is not None:
            pattern = self.heartbeats.removeprefix("/")
            # Of none at all the pattern stands for the file that is missing: a unit's folder goes with its worker.
            return sorted(Path("/").glob(pattern)) or [Path("/", pattern)] * min(self.workers, 1)
        return [path] if self.workers == 1 else [worker_file(path, n) for n in range(1, self.workers + 1)]

    def limits(self) -> Limits:
        """Give them in the form the probe wants."""
        return Limits(self.heartbeat_limit, self.stall_limit)
