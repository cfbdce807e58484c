"""The mail that says a file is ready: a job of the email family for each who gets it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from daemon.context import JobContext
from handlers.integrations.addresses import parse_mailbox
from handlers.integrations.recipients import Language

_SUBJECTS = {"en": "{name} is ready", "fr": "{name} est prêt"}
_UNITS = (
    (86_400, {"en": ("day", "days"), "fr": ("jour", "jours")}),
    (3600, {"en": ("hour", "hours"), "fr": ("heure", "heures")}),
    (60, {"en": ("minute", "minutes"), "fr": ("minute", "minutes")}),
)


async def mail_link(
    ctx: JobContext, to: Sequence[str], lang: Language, *, name: str, url: str, lifetime: float | None, period: str = ""
) -> bool:
    """Hand over a mail with a link for each recipient; another try of the job hands over none again.

    Args:
        name: what is ready.
        lifetime: seconds the link is good for, None: it does not end.
        period: of a report.

    Returns:
        Whether there was somebody to write to.
    """
    fields = {
        "subject": _SUBJECTS[lang].format(name=name)[:500],
        "template": "report_ready",
        "context": {
            "report_name": name,
            "report_url": url,
            "period": period,
            "expires_in": "" if lifetime is None else spoken(lifetime, lang),
        },
        "lang": lang,
    }
    for address in to:
        # By name: a family does not import another one's payloads.
        digest = hashlib.sha256(f"{ctx.job_id}\n{parse_mailbox(address).identity}".encode()).hexdigest()
        await ctx.producer.enqueue(
            "send_email", {"to": address, **fields}, family="email", job_id=f"ready-{digest[:32]}", priority="normal"
        )
    return bool(to)


def spoken(seconds: float, lang: Language) -> str:
    """Give a duration in words, rounded down to one unit: ``7 days``."""
    for size, words in _UNITS:
        if seconds >= size or size == 60:
            count = max(1, int(seconds // size))
            return f"{count} {words[lang][count != 1]}"
    raise AssertionError("the last unit takes what is left")
