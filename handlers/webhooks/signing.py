"""The headers of Standard Webhooks: https://www.standardwebhooks.com."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from standardwebhooks.webhooks import Webhook


def headers(webhook_id: str, at: datetime, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Give the headers of a delivery.

    Args:
        webhook_id: the same in every try: receivers know repeats by it.
        at: of this try, aware.
        body: as it is sent.
        secrets: ``whsec_…``; each signs, so that a receiver with the old one and one with the new one both verify.
    """
    signatures = [Webhook(secret).sign(webhook_id, at, body.decode()) for secret in secrets]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
        "content-type": "application/json",
    }
