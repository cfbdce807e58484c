"""Thumbnails of 12-megapixel photographs, against sharp: ``python -m benchmarks.images``.

One worker with two processes makes them as jobs, with a server and an object store of this run's own; sharp makes the
same from the same files in one Node process, by the settings of those tried that it is quickest with. They take turns.
Told are pictures a second of both and their ratio, the memory a job adds to its process, and how late the worker's
event loop was meanwhile. ``--sizes`` instead compares what sizes ``fit`` gives with sharp's.

sharp is installed by npm into ``var/bench``, where it is not there yet.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image, ImageFilter

from benchmarks.server import measured_server
from daemon.family import load_family
from daemon.producer import Producer
from daemon.supervisor import Supervisor
from handlers.integrations.http_settings import HttpSettings
from handlers.integrations.object_store.settings import ObjectStoreSettings
from handlers.integrations.pictures.fitting import fitted
from handlers.integrations.process_child import NICE
from handlers.media.payloads import ProcessImage
from handlers.media.settings import MediaSettings
from handlers.media.worker import WorkerSettings

SHARP = "sharp@0.35.5"
WIDTH, HEIGHT = 4000, 3000
PROCESSES = 2
#: Files in the air and threads a file, of sharp.
SETTINGS = ((2, 1), (4, 1), (4, 2))
LAG_EVERY = 0.005
SIZES = ((4000, 3000), (40, 30), (101, 67), (67, 101), (1920, 1080), (333, 1000))
BOXES = ((200, 200), (200, None), (None, 200), (200, 20), (20, 200), (99, 33), (640, 480), (7, 7))


def photographs(folder: Path, count: int) -> list[Path]:
    """Make pictures with the detail of photographs: some 4 MB each."""
    chance = random.Random(1)  # noqa: S311 # the same pictures in every run
    made = []
    for number in range(count):
        small = Image.new("RGB", (40, 30))
        small.putdata([tuple(chance.randrange(256) for _ in range(3)) for _ in range(1200)])
        ground = small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        grain = Image.effect_noise((WIDTH, HEIGHT), 60).filter(ImageFilter.GaussianBlur(0.8)).convert("RGB")
        path = folder / f"{number}.jpg"
        Image.blend(ground, grain, 0.25).save(path, quality=88, subsampling=2)
        made.append(path)
    return made


@contextmanager
def sharp(cache: Path) -> Iterator[Any]:
    """Give a function that asks sharp."""
    folder = (cache / "sharp").resolve()
    if not (folder / "node_modules" / "sharp").exists():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", SHARP]
        subprocess.run(install, check=True, capture_output=True, timeout=300)
    # Node looks for a module beside the script.
    script = folder / "sharp.mjs"
    shutil.copyfile(Path(__file__).parent / "peers" / "sharp.mjs", script)
    node = subprocess.Popen(
        [shutil.which("node") or "node", str(script)],
        preexec_fn=_nicer,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdin is not None
    assert node.stdout is not None
    stdin, stdout = node.stdin, node.stdout

    def ask(**asked: Any) -> Any:
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    try:
        yield ask
    finally:
        stdin.close()
        node.wait(10)


def _nicer() -> None:
    # At the priority of our processes: what else the machine does then slows both alike.
    os.nice(NICE)


def processor_time(process: int) -> float:
    """Give the processor time a process has had, seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Lag:
    """How late the event loop is, seconds."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    async def watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_EVERY)
            self.seen.append(time.perf_counter() - before - LAG_EVERY)


def memory_of(process: int, name: str) -> int:
    """Read a figure of a process's memory, bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


async def worked(url: str, folder: Path, files: list[Path], lag: Lag) -> tuple[float, int, float, float]:
    """Make a thumbnail of each file by one worker, warm.

    Returns:
        The seconds, the most memory a job added, processor time of the processes and of the worker.
    """
    family = load_family(WorkerSettings, {"max_jobs": 3 * PROCESSES})
    family.ctx["settings"] = SimpleNamespace(
        var_dir=folder,
        object_store_url=None,
        object_store=ObjectStoreSettings(),
        http=HttpSettings(),
        media=MediaSettings(source_dirs=(files[0].parent,), processes=PROCESSES),
    )
    supervisor = Supervisor([family], url, handle_signals=False)
    running = asyncio.create_task(supervisor.run())
    steps = [{"type": "resize", "width": 200, "height": 200, "fit": "cover"}, {"type": "jpeg", "quality": 80}]
    async with Producer.connect(url) as producer:

        async def make(many: list[Path]) -> None:
            payloads = [ProcessImage.model_validate({"path": str(path), "transformations": steps}) for path in many]
            for job in await producer.enqueue_many(payloads):
                await job.result(120)

        tiny = files[0].parent / "tiny.png"
        Image.new("RGB", (8, 8)).save(tiny)
        await make([tiny] * (4 * PROCESSES))
        pids = [each._process.pid for each in supervisor.workers[0].ctx["processes"]._idle]
        before = {pid: memory_of(pid, "VmRSS") for pid in pids}
        watching = asyncio.create_task(lag.watch())
        begun, busy, own = time.perf_counter(), sum(map(processor_time, pids)), time.process_time()
        await make(files)
        seconds = time.perf_counter() - begun
        busy, own = sum(map(processor_time, pids)) - busy, time.process_time() - own
        watching.cancel()
        added = max(memory_of(pid, "VmHWM") - before[pid] for pid in pids)
    supervisor.drain()
    await running
    return seconds, added, busy, own


async def compare(url: str, ask: Any, folder: Path, jobs: int, repeats: int) -> None:
    """Let both make the thumbnails in turns, and print what came of it."""
    sources = folder / "sources"
    sources.mkdir()
    some = photographs(sources, 8)
    size = statistics.mean(path.stat().st_size for path in some)
    print(f"{len(some)} photographs of {WIDTH}x{HEIGHT}, {size / 1e6:.1f} MB each; {jobs} thumbnails of 200x200 a run")
    files = list(itertools.islice(itertools.cycle(some), jobs))
    ours, theirs, ratios, added, rss, cost, their_cost = [], [], [], [], [], [], []
    lag = Lag()
    for number in range(repeats):
        seconds, more, busy, own = await worked(url, folder / f"ours-{number}", files, lag)
        ours.append(jobs / seconds)
        added.append(more)
        cost.append((busy / jobs, own / jobs))
        target = folder / f"sharp-{number}"
        target.mkdir()
        asked = [
            await asyncio.to_thread(
                ask,
                do="thumbnails",
                files=[str(path) for path in files],
                folder=str(target),
                flying=flying,
                threads=threads,
            )
            for flying, threads in SETTINGS
        ]
        theirs.append(jobs / min(each["seconds"] for each in asked))
        their_cost.append(min(each["processor"] for each in asked) / jobs)
        rss.append(max(each["rss"] for each in asked))
        ratios.append(ours[-1] / theirs[-1])
        print(f"  arqd {ours[-1]:.1f}/s, sharp {theirs[-1]:.1f}/s, ratio {ratios[-1]:.2f}")
    late = sorted(lag.seen)
    print(f"arqd, {PROCESSES} processes: {statistics.median(ours):.1f} pictures a second")
    print(f"sharp, the best of {len(SETTINGS)} settings: {statistics.median(theirs):.1f}")
    inside, worker = (statistics.median(each[number] for each in cost) * 1000 for number in (0, 1))
    print(
        f"processor time a picture: arqd {inside:.0f} ms in its process and {worker:.0f} ms in worker and producer; "
        f"sharp {statistics.median(their_cost) * 1000:.0f} ms"
    )
    print(f"ratio, median of {repeats}: {statistics.median(ratios):.2f}")
    print(
        f"memory a job adds to its process, at most: {max(added) / 1e6:.0f} MB; "
        f"the whole process of sharp: {max(rss) / 1e6:.0f} MB"
    )
    print(
        f"event loop late by: p50 {late[len(late) // 2] * 1000:.1f} ms, p99 {late[int(len(late) * 0.99)] * 1000:.1f} ms"
    )


def compare_sizes(ask: Any) -> int:
    """Compare sizes, and give how many differ."""
    fits = ("cover", "contain", "fill", "inside", "outside")
    cases = [
        (*size, *box, fit, enlarged) for size in SIZES for box in BOXES for fit in fits for enlarged in (False, True)
    ]
    answer = ask(do="sizes", cases=cases)
    differ = [
        (case, theirs)
        for case, theirs in zip(cases, answer["sizes"], strict=True)
        if list(fitted(case[:2], *case[2:]).frame) != theirs
    ]
    for case, theirs in differ:
        print(f"{case}: sharp {theirs}, ours {fitted(case[:2], *case[2:]).frame}")
    print(f"sharp {answer['version']}: {len(cases) - len(differ)} of {len(cases)} sizes are the same")
    return len(differ)


def main(arguments: list[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=60, help="thumbnails of a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--cache", type=Path, default=Path("var/bench"), help="where sharp is installed")
    parser.add_argument("--sizes", action="store_true", help="compare sizes only")
    options = parser.parse_args(arguments)
    with sharp(options.cache) as ask:
        if options.sizes:
            return min(1, compare_sizes(ask))
        with measured_server() as (url, _), tempfile.TemporaryDirectory() as folder:
            asyncio.run(compare(url, ask, Path(folder), options.jobs, options.repeats))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
