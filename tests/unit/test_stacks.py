"""Where threads are, read while they run on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from daemon.process.stacks import Frame, Stacks, parse


def test_a_thread_is_where_it_waits() -> None:
    here, go = threading.Event(), threading.Event()

    def înner() -> None:
        here.set()
        go.wait(20)

    thread = threading.Thread(target=înner)
    thread.start()
    here.wait(20)
    try:
        with Stacks() as stacks:
            # What was read before leaves nothing behind.
            found = [stacks.read() for _ in range(3)][-1]
    finally:
        go.set()
        thread.join()
    frames = found[thread.ident or 0]
    names = [frame.name for frame in frames]
    assert names[0] == "wait" or "wait" in names
    (own,) = (frame for frame in frames if frame.name == "înner")
    assert (own.file, Path(__file__).read_text().splitlines()[own.line - 1].strip()) == (__file__, "go.wait(20)")
    assert names.index("înner") < names.index("run")
    mine = found[threading.get_ident()]
    assert "test_a_thread_is_where_it_waits" in [frame.name for frame in mine]


def test_of_a_long_stack_the_innermost_are_given() -> None:
    found: list[list[Frame]] = []

    def down(depth: int) -> None:
        if depth:
            down(depth - 1)
        else:
            with Stacks() as stacks:
                found.append(stacks.read()[threading.get_ident()])

    down(300)
    assert len(found[0]) == 100
    assert [frame.name for frame in found[0][:2]] == ["read", "down"]


def test_what_is_not_known_is_none() -> None:
    text = (
        "Thread 0x00007fbe9feff6c0 [arqd-leases] (most recent call first):\n"
        "  <no Python frame>\n\n"
        "Current thread 0x0000000000000abc (most recent call first):\n"
        '  File "/srv/h\\xe9.py", line ??? in call\\u20ac\n'
        '  File "<string>", line 7 in <module>\n'
        "  ...\n"
    )
    assert parse(text) == {
        0x7FBE9FEFF6C0: [],
        0xABC: [Frame("/srv/hé.py", 0, "call€"), Frame("<string>", 7, "<module>")],
    }


def test_threads_that_run_on_do_no_harm() -> None:
    end = time.monotonic() + 0.5

    def deep(n: int) -> int:
        return deep(n - 1) + 1 if n else 0

    def busy() -> None:
        while time.monotonic() < end:
            deep(50)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    with Stacks() as stacks:
        while time.monotonic() < end:
            for frames in stacks.read().values():
                assert all(frame.name and frame.file for frame in frames)
    for thread in threads:
        thread.join()
