"""Where a worker's processor time goes: a thread looks at the stacks of all others, some seconds long.

``arqd profile`` asks for it by a message on the session's control list, which the thread that renews the leases reads:
so it also works when the event loop is blocked, which is when one wants to know. What is found goes back on a list of
its own, as collapsed stacks (``outer;inner count``), and the command draws it as a flame graph.
"""

from __future__ import annotations

import html
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from daemon.process.stacks import Stacks

logger = logging.getLogger("arqd.profile")

#: Between two looks, seconds, and the longest profile.
INTERVAL, LONGEST = 0.02, 120.0
#: How long a profile that nobody has fetched is kept, ms.
KEPT_MS = 600_000
#: Stacks that are told apart: what is beyond is cut.
MAX_STACKS = 5000
#: Threads that belong to arqd and mostly wait.
_OWN = ("arqd-leases", "arqd-watchdog", "arqd-profile")

_running = threading.Lock()


def message(seconds: float, reply: str) -> str:
    """Give the control message that asks for a profile, to be sent to the list ``reply``."""
    return f"profile {seconds:g} {reply}"


def start(asked: str, send: Callable[[str, str], None]) -> bool:
    """Begin a profile in a thread of its own, if this is a message that asks for one; gives whether it is.

    Args:
        asked: a control message.
        send: takes the reply's key and the text; called in that thread.
    """
    verb, _, rest = asked.partition(" ")
    seconds, _, reply = rest.partition(" ")
    if verb != "profile":
        return False
    try:
        limit = min(float(seconds), LONGEST)
    except ValueError:
        return True
    threading.Thread(target=_profile, args=(limit, reply, send), name="arqd-profile", daemon=True).start()
    return True


def _profile(seconds: float, reply: str, send: Callable[[str, str], None]) -> None:
    if not _running.acquire(blocking=False):
        send(reply, "busy")
        return
    try:
        logger.warning("profiled for %g s", seconds)
        send(reply, collapsed(sample(seconds)))
    except Exception:
        logger.exception("no profile")
    finally:
        _running.release()


def sample(seconds: float) -> Counter[tuple[str, ...]]:
    """Look at the stacks of all other threads for some seconds; gives how often each was seen, outermost first."""
    found: Counter[tuple[str, ...]] = Counter()
    end = time.monotonic() + seconds
    with Stacks() as stacks:
        while time.monotonic() < end:
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frames in stacks.read().items():
                name = names.get(ident, "thread")
                if not name.startswith(_OWN):
                    stack = (name, *(f"{frame.name} ({PurePath(frame.file).name})" for frame in reversed(frames)))
                    found[stack if stack in found or len(found) < MAX_STACKS else (name, "(others)")] += 1
            time.sleep(INTERVAL)
    return found


def collapsed(stacks: Mapping[tuple[str, ...], int]) -> str:
    """Give stacks as text, a line each, as tools for flame graphs take them."""
    return "\n".join(
        f"{';'.join(part.replace(';', ',') for part in stack)} {count}" for stack, count in sorted(stacks.items())
    )


# ---------------------------------------------------------------------- the picture

WIDTH, ROW, MARGIN = 1200, 18, 24
#: Boxes narrower than this are left out, pixels.
_NARROW = 0.3


@dataclass(slots=True)
class _Node:
    count: int = 0
    children: dict[str, _Node] = field(default_factory=dict)


def flame_graph(text: str, title: str) -> str:
    """Draw collapsed stacks as SVG: a box's width is its share, what it called stands above it."""
    root = _Node()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        node, number = root, int(count)
        node.count += number
        for name in stack.split(";"):
            node = node.children.setdefault(name, _Node())
            node.count += number
    boxes = list(_boxes(root, 0.0, 0, WIDTH / max(1, root.count)))
    height = MARGIN + ROW * (max((depth for depth, *_ in boxes), default=0) + 1)
    drawn = [_drawn(*box, root.count, height) for box in boxes]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
            "<style>text{font:11px sans-serif}rect{stroke:#fff;stroke-width:.5}g:hover rect{fill:#f7d774}</style>",
            f'<text x="4" y="16">{html.escape(title)}</text>',
            *drawn,
            "</svg>\n",
        ]
    )


def _boxes(node: _Node, x: float, depth: int, scale: float) -> Iterable[tuple[int, float, float, str, int]]:
    for name, child in sorted(node.children.items()):
        width = child.count * scale
        if width >= _NARROW:
            yield depth, x, width, name, child.count
            yield from _boxes(child, x, depth + 1, scale)
        x += width


def _drawn(depth: int, x: float, width: float, name: str, count: int, total: int, height: int) -> str:
    y = height - ROW * (depth + 1)
    # The same function has the same colour in every picture.
    hue = 20 + sum(name.encode()) % 35
    told = html.escape(f"{name}: {count} of {total} looks, {count / total:.1%}")
    letters = int(width / 6.2)
    label = html.escape(name if len(name) <= letters else name[: max(0, letters - 1)] + "…") if letters > 3 else ""
    return (
        f'<g><title>{told}</title><rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW}" '
        f'fill="hsl({hue},80%,65%)"/><text x="{x + 3:.2f}" y="{y + 13}">{label}</text></g>'
    )
