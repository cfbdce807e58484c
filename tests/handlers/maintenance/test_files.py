"""Old files are removed below a folder and nowhere else, whoever else works in it."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import threading
import time
from pathlib import Path

import pytest

from handlers.maintenance import files
from handlers.maintenance.files import OutsideError, Sweep

NOW = 2_000_000_000.0
OLD, NEW = NOW - 1000, NOW + 1000
#: Files of the large tree; `CLEANUP_FILES=100000` is the full size.
MANY = int(os.environ.get("CLEANUP_FILES", "3000"))


def write(path: Path, size: int = 3, at: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (at, at))
    return path


def sweep(root: Path, below: str | None = None, pattern: str | None = None, **more: bool) -> tuple[int, int]:
    removed = Sweep(root, NOW, pattern, **more).run(below)
    return removed.count, removed.size


def test_only_old_regular_files_that_fit_go(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", write(tmp_path / "outside" / "kept.tmp")
    for name in ("a.tmp", "b.log", "deep/er/c.tmp"):
        write(root / name, 10)
    new = write(root / "new.tmp", at=NEW)
    (root / "folder").symlink_to(outside.parent)
    (root / "file.tmp").symlink_to(outside)
    (root / "dangling.tmp").symlink_to(tmp_path / "nothing")
    os.utime(root / "file.tmp", (OLD, OLD), follow_symlinks=False)
    os.mkfifo(root / "pipe.tmp")
    os.utime(root / "pipe.tmp", (OLD, OLD))
    os.link(write(tmp_path / "twice", 100), root / "twice.tmp")
    assert sweep(root, pattern="*.tmp", dry_run=True) == (3, 20)
    assert sweep(root, pattern="*.tmp") == (3, 20)
    assert sweep(root, pattern="*.tmp") == (0, 0)
    left = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert left == {"b.log", new.name, "folder", "file.tmp", "dangling.tmp", "pipe.tmp"}
    assert outside.exists()
    assert (tmp_path / "twice").exists()


def test_a_path_must_be_below_and_no_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", write(tmp_path / "outside" / "kept")
    write(root / "in" / "a")
    (root / "out").symlink_to(outside.parent)
    for wrong in ("out", "in/../..", "../outside", str(outside.parent), "/", "in/a", str(root / "out")):
        with pytest.raises(OutsideError):
            sweep(root, wrong)
    assert sweep(root, "missing") == (0, 0)
    assert sweep(root, "in") == (1, 3)
    assert outside.exists()


def test_another_mount_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    write(root / "own" / "a")
    mounted = write(root / "mounted" / "kept").parent.stat().st_ino
    real = files._mount
    monkeypatch.setattr(files, "_mount", lambda fd: "other" if os.fstat(fd).st_ino == mounted else real(fd))
    with pytest.raises(OutsideError, match="another file system"):
        sweep(root, "mounted")
    assert sweep(root) == (1, 3)
    assert (root / "mounted" / "kept").exists()


def test_a_link_that_takes_a_folders_place_leads_nowhere(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for n in range(50):
        write(outside / f"kept{n}")
        write(root / "folder" / f"f{n}")
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            (root / "folder").rename(root / "aside")
            (root / "folder").symlink_to(outside)
            (root / "folder").unlink()
            (root / "aside").rename(root / "folder")

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(200):
            sweep(root)
    finally:
        stop.set()
        thread.join()
    sweep(root)
    assert len(list(outside.iterdir())) == 50
    assert list((root / "folder").iterdir()) == []


def test_many_files_while_others_remove_them_too(tmp_path: Path) -> None:
    """Two sweeps and a deleter over one tree with links out of it: each file counts once, bytes are right."""
    seed = random.Random(7)
    root, outside = tmp_path / "root", write(tmp_path / "outside" / "kept").parent
    sizes: dict[Path, int] = {}
    for n in range(MANY):
        folder = root / f"d{n % 97}" / f"e{n % 7}"
        if n < 97 * 7:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "out").symlink_to(outside)
        path = folder / f"f{n}"
        sizes[path] = seed.randrange(200)
        at = OLD if n % 10 else NEW
        write(path, sizes[path], at)
    old = {path for path in sizes if path.stat().st_mtime < NOW}
    taken = set(seed.sample(sorted(old), len(old) // 20))
    gone: set[Path] = set()

    def take() -> None:
        for path in taken:
            try:
                path.unlink()
                gone.add(path)
            except FileNotFoundError:
                pass

    sweeps = [Sweep(root, NOW) for _ in range(2)]
    threads = [threading.Thread(target=each) for each in (take, *(one.run for one in sweeps))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{MANY} files: {time.perf_counter() - began:.2f} s")
    assert sum(one.removed.count for one in sweeps) == len(old) - len(gone)
    assert sum(one.removed.size for one in sweeps) == sum(sizes[path] for path in old - gone)
    left = {path for path in root.rglob("f*") if path.is_file() and not path.is_symlink()}
    assert left == sizes.keys() - old
    assert (outside / "kept").exists()


def test_a_file_somebody_is_writing_stays(tmp_path: Path) -> None:
    """A log of a service that had nothing to say for weeks, and a lock that is held: both are old, and in use."""
    log, lock, read = (write(tmp_path / "root" / name) for name in ("quiet.log", "one.lock", "read"))
    with log.open("a") as held, lock.open() as locked, read.open() as reading:
        fcntl.flock(locked, fcntl.LOCK_EX)
        assert sweep(tmp_path / "root", dry_run=True) == (1, 3)
        assert sweep(tmp_path / "root") == (1, 3)
        assert not read.exists()
        assert reading.read() == "xxx"
        held.write("more")
    os.utime(log, (OLD, OLD))
    assert log.read_text() == "xxxmore"
    assert sweep(tmp_path / "root") == (2, 10)


def test_a_mapped_file_somebody_writes_into_stays(tmp_path: Path) -> None:
    mapped = write(tmp_path / "root" / "shared")
    with mapped.open("r+b") as file, mmap.mmap(file.fileno(), 3):
        file.close()
        assert sweep(tmp_path / "root") == (0, 0)
    assert sweep(tmp_path / "root") == (1, 3)


def test_it_can_be_stopped(tmp_path: Path) -> None:
    write(tmp_path / "root" / "a")
    one = Sweep(tmp_path / "root", NOW)
    one.stop()
    assert one.run().count == 0
