"""The overview: how much there is to do, what was done, what needs attention."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from daemon.console import alerts, queues
from daemon.console.api.common import Viewer
from daemon.console.pages.board import STEPS
from daemon.console.pages.charts import chart, spark
from daemon.console.pages.frame import board_of, page
from daemon.console.services import services_of
from daemon.inspector import QueueStats
from daemon.statistics import Figures, Point

router = APIRouter()

_NAMES = {"1h": "hour", "24h": "24 hours", "14d": "14 days"}


@router.get("/")
async def overview(request: Request, actor: Viewer, span: str = "1h") -> Response:
    """Show all queues; ``span`` is one of `STEPS`."""
    span = span if span in STEPS else "1h"
    services, reader = services_of(request), board_of(request)
    board = await reader.board()
    names = [queue.family for queue in board.queues]
    each, together = await reader.together(names, span)
    hours = each if span == "1h" else {name: await reader.series(name, "1h") for name in names}
    workers = await services.inspector.only(names).workers()
    judged = [
        queues.judge(q, [w for w in workers if w.family == q.family], summed(hours[q.family])) for q in board.queues
    ] + queues.down(board.away)
    fired = await alerts.look(services)
    troubled = [found for found in judged if found.status is not queues.Status.OK]
    step = STEPS[span][0]
    return await page(
        request,
        actor,
        "overview.html",
        section="",
        health=queues.Status.DEGRADED if troubled or fired.alerts else queues.Status.OK,
        troubled=troubled,
        alerts=fired.alerts,
        silences=fired.silences,
        span=span,
        spans=list(STEPS),
        span_name=_NAMES[span],
        ended=summed(together),
        live_workers=len({(w.host, w.pid) for w in workers if w.lease_seconds > 0}),
        throughput=chart(f"Jobs ended per {step}", together, step, "completed", "failed"),
        failures=chart(f"Failures per {step}", together, step, "failed", "retried"),
        sparks={name: spark(points) for name, points in each.items()},
        standing=standing,
    )


def summed(points: list[Point]) -> Figures:
    """Add up what ended in a series; times are not told."""
    total = Figures()
    for point in points:
        total.completed += point.figures.completed
        total.failed += point.figures.failed
        total.retried += point.figures.retried
    return total


def standing(queue: QueueStats) -> tuple[str, str]:
    """Give how a queue stands in a word, and what that means."""
    if queue.paused:
        return "paused", "nothing is started until it is resumed"
    if not queue.workers and queue.waiting - queue.limited > 0:
        return "no worker", "jobs wait, and no worker is there"
    if queue.active:
        return "running", ""
    return "idle", ""
