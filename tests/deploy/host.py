"""Namespaces of their own: a throw-away machine with a real systemd as process 1, or a place for pods.

The machine has this one's files, seen through an overlay; it needs root, overlayfs and systemd's program, which need
not run here. Nothing that is done in it stays.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

BOOT_SECONDS = 120.0
SYSTEMD = Path("/lib/systemd/systemd")
CGROUPS = Path("/sys/fs/cgroup")


def missing() -> str:
    """Say what this machine lacks for it; nothing when it lacks nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux"
    programs = [name for name in ("unshare", "nsenter", "ip", "systemctl") if shutil.which(name) is None]
    return ", ".join([*programs, *[str(SYSTEMD)] * (not SYSTEMD.exists())])


class Place:
    """Namespaces of their own, which a script sets up and keeps, while the block lasts.

    Args:
        work: an empty folder.
        script: of this folder; it becomes the program ``first``.
        environ: variables for the script.
        variables: of commands that are run there.
    """

    def __init__(
        self, work: Path, script: str, first: str, environ: Mapping[str, str], variables: Sequence[str] = ()
    ) -> None:
        self._work = work
        self._script, self._program, self._environ, self._variables = script, first, environ, variables
        self._groups: list[Path] = []
        self._holder: subprocess.Popen[bytes] | None = None
        self._first = 0

    def __enter__(self) -> Self:
        self._make_groups()
        command = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"]
        log = self._work / "init.log"
        with log.open("wb") as output:
            self._holder = subprocess.Popen(
                [*command, "sh", str(Path(__file__).with_name(self._script))],
                env={**os.environ, "WORK": str(self._work), **self._environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=self._enter_groups,
            )
        deadline = time.monotonic() + BOOT_SECONDS
        while not self._booted():
            if self._holder.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"{self._program} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        if self._holder is not None:
            if self._first:
                os.kill(self._first, signal.SIGKILL)
            else:
                self._holder.kill()
            self._holder.wait()
        for group in self._groups:
            for folder in sorted(group.rglob("*/"), reverse=True):
                _remove(folder)
            _remove(group)

    def _make_groups(self) -> None:
        """Make a control group below our own in every hierarchy, so that systemd has one it may divide."""
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            unified = CGROUPS / "unified" if (CGROUPS / "unified").is_dir() else CGROUPS
            hierarchy = unified if number == "0" else CGROUPS / controllers.removeprefix("name=")
            parent = hierarchy / path.lstrip("/")
            if not parent.is_dir():
                continue
            group = parent / f"machine-{os.getpid()}"
            group.mkdir()
            self._groups.append(group)
            if controllers == "cpuset":
                # An empty set takes no process.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (group / name).write_text((parent / name).read_text())
                (group / "cgroup.clone_children").write_text("1")

    def _enter_groups(self) -> None:
        for group in self._groups:
            (group / "cgroup.procs").write_text("0")

    def _booted(self) -> bool:
        assert self._holder is not None
        if not self._first:
            children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == self._program:
                self._first = int(children[0])
        return self._first > 0

    def run(self, *command: str, check: bool = True, text: str = "", timeout: float = 180) -> Any:
        """Run a command in it; give what `subprocess.run` gives."""
        done = subprocess.run(
            self._inside(command), input=text, capture_output=True, text=True, timeout=timeout, preexec_fn=self._joining
        )
        assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command in it."""
        return subprocess.Popen(self._inside(command), preexec_fn=self._joining)

    def _joining(self) -> None:
        """What a process that goes there does before."""

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--target={self._first}", "--all", "env", "-C", "/", *self._variables, *command]

    def until(self, condition: Callable[[], Any], what: Callable[[], str], seconds: float = 90) -> Any:
        """Poll until a condition is true, and give it; ``what`` tells what was waited for."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not in time: {what()}"
            time.sleep(0.05)
        return found


class Host(Place):
    """The machine.

    Args:
        work: an empty folder.
        binds: folders of the real machine that are seen there, by where; for reading only.
    """

    def __init__(self, work: Path, binds: Mapping[str, Path]) -> None:
        lines = "\n".join(f"{source}:{target}" for target, source in binds.items())
        super().__init__(work, "init.sh", "systemd", {"BINDS": lines})

    def _booted(self) -> bool:
        if not super()._booted():
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file in it."""
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, text=text)

    def facts(self, unit: str) -> dict[str, str]:
        """Give what systemd knows of a unit."""
        shown = self.run("systemctl", "show", unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def journal(self, unit: str) -> str:
        """Give the lines of a unit, and of systemd about it."""
        return str(self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout)


class Pods(Place):
    """A place for podman: images are gone afterwards, and the network is a loopback of its own.

    Args:
        work: an empty folder.
    """

    def __init__(self, work: Path) -> None:
        variables = [f"CONTAINERS_STORAGE_CONF={work}/storage.conf", f"CONTAINERS_CONF={work}/containers.conf"]
        super().__init__(work, "pods.sh", "sleep", {}, variables)

    def _joining(self) -> None:
        # Containers are put below the group of the process that starts them.
        self._enter_groups()


def _remove(group: Path) -> None:
    """Remove a control group; its last processes may still be ending."""
    for _ in range(100):
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
