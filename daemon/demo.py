"""The demonstration of ``arqd up --demo``: a few mails into the spool folder, shown on their way."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, NamedTuple

from daemon.errors import ConfigurationError
from daemon.job import ENDED, JobState
from daemon.producer import Producer
from daemon.producing.handle import JobHandle
from daemon.producing.options import JobOptions
from daemon.servers import RedisUrl
from daemon.settings import Settings
from daemon.typed import typed

REFRESH = 0.1


class Mail(NamedTuple):
    """A mail of the demonstration; ``delay`` in seconds."""

    template: str
    to: str
    subject: str
    context: dict[str, Any]
    priority: int
    delay: float = 0
    lang: str = "en"


# From the least urgent to the most urgent, to show that the order of handing over does not matter.
MAILS = (
    Mail("campaign", "grace@example.com", "What is new", {"message": "Jobs now run by priority."}, 7),
    Mail("report_ready", "ada@example.com", "Your report", {"report_url": "https://example.com/reports/1"}, 5),
    Mail("security_alert", "blaise@example.com", "Nouvelle connexion", {"event": "nouvelle connexion"}, 3, 5, "fr"),
    Mail("payment_confirmation", "nobody@shop.invalid", "Your payment", {"amount": "12.00", "currency": "EUR"}, 3),
    Mail("welcome", "alan@example.com", "Welcome", {"name": "Alan"}, 3),
    Mail("password_reset", "ada@example.com", "Your password", {"reset_link": "https://example.com/reset/1"}, 1),
)


def refuse_real_mail(settings: Settings) -> None:
    """Keep the demonstration's mails on this machine.

    Raises:
        ConfigurationError: when a mail server is set.
    """
    if settings.section("smtp").host:
        raise ConfigurationError(
            "--demo would send its mails through the mail server that is set: unset ARQD_SMTP__HOST"
        )


async def demonstrate(url: RedisUrl, settings: Settings) -> None:
    """Hand the mails over, print each change of their states until all have ended, and say where to look.

    Args:
        url: Redis.
    """
    print(f"\nDemonstration: {len(MAILS)} mails, handed over in one call")
    async with Producer.connect(url) as producer:
        jobs = await producer.enqueue_each([_job(mail) for mail in MAILS], family="email")
        states: list[JobState | None] = [None] * len(jobs)
        while not ENDED.issuperset(states):
            for number, job in reversed(list(enumerate(jobs))):
                if states[number] not in ENDED:
                    states[number] = await _show_change(MAILS[number], job, states[number])
            await asyncio.sleep(REFRESH)
    print(f"\nWhat was sent:     {settings.section('email').spool_dir}/*.eml")
    arqd = typed()
    for job, state in zip(jobs, states, strict=True):
        if state is JobState.FAILED:
            print(f"What was refused:  {arqd} dead list email;  {arqd} job {job.id}")
    print(f"More to see:       {arqd} queues;  {arqd} stats;  {arqd} jobs email --state completed", flush=True)


def _job(mail: Mail) -> tuple[tuple[str, dict[str, Any]], JobOptions]:
    fields = {name: getattr(mail, name) for name in ("template", "to", "subject", "context", "lang")}
    return ("send_email", fields), {"priority": mail.priority, "delay": mail.delay}


async def _show_change(mail: Mail, job: JobHandle, before: JobState | None) -> JobState:
    info = await job.info()
    if info.state is not before:
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        why = f": {info.error['message']}" if info.error else ""
        print(f"  {now}  {info.state:<9}  priority {mail.priority}  {mail.template} to {mail.to}{why}", flush=True)
    return info.state
