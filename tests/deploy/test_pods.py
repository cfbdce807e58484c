"""The image, built from the Containerfile on a small Debian tree, and the worker's Deployment run as real pods."""

from __future__ import annotations

import asyncio
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.producer import Producer
from tests.deploy import host, installed
from tests.deploy.test_manifests import built, workers
from tests.servers import RedisServer, binary_of

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(480)]

#: What the image needs of Debian: Python, what libraries need beside it, a shell for the steps of the Containerfile.
PACKAGES = (
    "base-files,base-passwd,libc-bin,coreutils,dash,python3-minimal,libpython3-stdlib,libstdc++6,ca-certificates,tzdata"
)
IMAGE = "localhost/arqd:test"
POD = "arqd-worker-email-pod-0"
WORKER, PROBE = f"{POD}-worker", f"{POD}-probe"


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[host.Pods]:
    lacking = host.missing() or installed.missing()
    lacking = lacking or " and ".join(n for n in ("podman", "buildah", "crun", "mmdebstrap") if not shutil.which(n))
    if lacking:
        pytest.fail(f"make test-deploy needs {lacking}", pytrace=False)
    work = tmp_path / "pods"
    work.mkdir()
    with host.Pods(work) as place:
        yield place


def build(pods: host.Pods, folder: Path) -> None:
    """Build the image as the Containerfile says, on a Debian tree and the libraries that are installed here."""
    debian, libraries = folder / "debian.tar", folder / "libraries"
    # The same release as this machine's, whose Python the libraries were installed for.
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", release, str(debian)], check=True
    )
    pods.run("podman", "import", "--quiet", str(debian), "localhost/debian:python")
    installed.libraries_of_the_image(libraries / installed.HOME.lstrip("/"))
    options = [
        "--quiet",
        "--pull-never",
        "--isolation=chroot",
        "--format=docker",
        "--build-arg=PYTHON=localhost/debian:python",
    ]
    # A folder in the place of the first stage.
    context = f"--build-context=libraries={libraries}"
    file = installed.ROOT / "deploy/Containerfile"
    pods.run("buildah", "bud", *options, context, f"--file={file}", "--tag=localhost/arqd", str(installed.ROOT))
    # With the family of these tests; its user cannot write there.
    own = folder / "own"
    own.mkdir()
    (own / "Containerfile").write_text("FROM localhost/arqd\nCOPY deploy_family.py /opt/arqd/app/\n")
    shutil.copy(Path(__file__).with_name("family.py"), own / "deploy_family.py")
    pods.run("buildah", "bud", "--quiet", "--pull-never", "--format=docker", f"--tag={IMAGE}", str(own))


def as_podman_takes_it(document: dict[str, Any]) -> dict[str, Any]:
    """Give the Deployment without what podman does not know: sidecars, the kubelet's probes, ports of the host."""
    spec = document["spec"]["template"]["spec"]
    spec["containers"] = [*spec.pop("initContainers"), *spec["containers"]]
    for container in spec["containers"]:
        for name in ("ports", "restartPolicy", "startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(name, None)
        container["imagePullPolicy"] = "Never"
        container["image"] = IMAGE
    # Its secret is optional, and there is none.
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "secrets"]
    for container in spec["containers"]:
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "secrets"]
    spec["containers"][1]["args"] = ["run", "deployed"]
    return document


def manifests(url: str) -> str:
    [settings] = [each for each in built("cluster") if each["kind"] == "ConfigMap"]
    data = {name: value for name, value in settings["data"].items() if name != "ARQD_SECRETS_DIR"}
    data |= {"ARQD_REDIS_URL": url, "ARQD_FAMILIES__DEPLOYED": "deploy_family:WorkerSettings"}
    worker = as_podman_takes_it(json.loads(json.dumps(workers("cluster")["email"])))
    return yaml.safe_dump_all([{**settings, "data": data}, worker])


def status(pods: host.Pods, path: str) -> tuple[int, str]:
    """Ask the sidecar."""
    code = (
        "import sys, urllib.request as r, urllib.error as e\n"
        "try: a = r.urlopen(sys.argv[1], timeout=30)\nexcept e.HTTPError as x: a = x\n"
        "except OSError: print(0); sys.exit()\nprint(a.status); print(a.read().decode())"
    )
    told = pods.run("python3", "-c", code, f"http://127.0.0.1:9191{path}").stdout
    return int(told.split("\n")[0]), told.partition("\n")[2]


def run_all_families(pods: host.Pods, url: str) -> None:
    """Run a worker of every family until there is nothing to do: the image has the libraries of each."""
    folders = [f"--tmpfs={folder}:mode=1777" for folder in ("/run/arqd", "/var/lib/arqd")]
    options = ["--rm", "--network=host", "--read-only", "--cap-drop=all", *folders, f"--env=ARQD_REDIS_URL={url}"]
    command = "arqd db upgrade && exec arqd run --all --burst"
    pods.run("podman", "run", *options, "--entrypoint=/bin/sh", "localhost/arqd", "-c", command)


async def test_the_worker_deployment_as_real_pods(pods: host.Pods, tmp_path: Path) -> None:
    began = time.monotonic()
    await asyncio.to_thread(build, pods, tmp_path)
    built_after = time.monotonic() - began
    size = int(pods.run("podman", "image", "inspect", "localhost/arqd", "--format={{.Size}}").stdout)
    healthy = json.loads(pods.run("podman", "image", "inspect", "localhost/arqd").stdout)[0]["Healthcheck"]["Test"]
    assert healthy == ["CMD", "arqd", "healthcheck"]

    folder = tmp_path / "valkey"
    folder.mkdir()
    server = RedisServer(folder)
    config = f"port {server.port}\nbind 127.0.0.1\ndir {folder}\nunixsocket {folder}/s\nappendonly yes\n"
    (folder / "valkey.conf").write_text(config)

    def start_redis() -> None:
        redis = pods.begin(
            binary_of("valkey"), str(folder / "valkey.conf"), "--daemonize", "yes", "--pidfile", f"{folder}/pid"
        )
        assert redis.wait(60) == 0

    start_redis()
    url = f"redis://127.0.0.1:{server.port}/0"
    await asyncio.to_thread(run_all_families, pods, url)
    (tmp_path / "pod.yaml").write_text(manifests(url))
    started = time.monotonic()
    pods.run("podman", "kube", "play", "--network=host", str(tmp_path / "pod.yaml"))
    pods.until(
        lambda: status(pods, "/readyz")[0] == 200, lambda: pods.run("podman", "logs", WORKER, check=False).stderr
    )
    ready_after = time.monotonic() - started

    facts = pods.run("podman", "exec", WORKER, "cat", "/proc/1/status").stdout
    assert facts.split("Uid:")[1].split()[0] == "10001"
    assert "CapBnd:\t0000000000000000" in facts
    assert "NoNewPrivs:\t1" in facts
    assert "Seccomp:\t2" in facts
    assert pods.run("podman", "exec", WORKER, "touch", "/opt/arqd/app/written", check=False).returncode != 0
    pods.run("podman", "exec", WORKER, "touch", "/var/lib/arqd/written")
    for container in (WORKER, PROBE):
        pods.run("podman", "exec", container, "arqd", "healthcheck")

    async with Producer.connect(f"unix://{folder}/s?db=0") as producer:
        seen = await (await producer.enqueue("look", [], family="deployed")).result(timeout=60)
        assert (seen["uid"], seen["usr"], seen["etc"], seen["state"]) == (10001, False, False, True)

        # Redis stopped: alive, not ready, and no zeros for an autoscaler.
        pods.run("sh", "-c", f"kill $(cat {folder}/pid)")
        pods.until(lambda: status(pods, "/readyz")[0] == 503, lambda: "not ready")
        assert status(pods, "/livez")[0] == 200
        assert status(pods, "/backlog/deployed")[0] == 503
        start_redis()
        pods.until(lambda: status(pods, "/readyz")[0] == 200, lambda: "ready again")

        # SIGTERM in mid-job: it ends within the grace, and its job with it.
        running = await producer.enqueue("nap", [5], family="deployed")
        pods.until(lambda: '"active": 1' in status(pods, "/backlog/deployed")[1], lambda: "the job runs")
        stopping = time.monotonic()
        grace = workers("cluster")["email"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        pods.run("podman", "stop", f"--time={grace}", WORKER, timeout=grace + 10)
        assert time.monotonic() - stopping < grace
        assert pods.run("podman", "inspect", WORKER, "--format={{.State.ExitCode}}").stdout.strip() == "0"
        assert await running.result(timeout=60) > 0
        assert await producer.redis.lrange("test:starts", 0, -1) == [running.job_id.encode()]
    print(
        f"\nimage: built in {built_after:.1f} s, {size / 1e6:.0f} MB; pod ready after {ready_after:.1f} s; "
        f"all {time.monotonic() - began:.1f} s"
    )
