"""OneSignal: one message to some devices, once.

What the answers mean is documented at https://documentation.onesignal.com/reference/push-notification: an ``id`` says
that a message was made. Without one nothing was sent, whatever the status, and ``errors`` say why. The same
``idempotency_key`` gives the same answer again and sends nothing, for 30 days.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from daemon.errors import PermanentError
from handlers.integrations.http import HttpClient, HttpError
from handlers.push.payloads import SendPush

#: What OneSignal calls the priorities: 10 is delivered at once, 5 when it suits the phone.
_PRIORITIES: dict[str, dict[str, Any]] = {
    "HIGH": {"priority": 10},
    "MEDIUM": {"priority": 5},
    "LOW": {"priority": 5, "ios_interruption_level": "passive"},
}
#: Lists of ids in ``errors`` that name devices; the older name is the one that is answered today.
_INVALID = ("invalid_player_ids", "invalid_subscription_ids")
#: Said where none of the devices is known or subscribed.
_NOT_SUBSCRIBED = "not subscribed"
#: Of what OneSignal says, so much stands in an error, characters.
_TOLD = 300


@dataclass(frozen=True, slots=True)
class Pushed:
    """What OneSignal has made of a message.

    Attributes:
        message_id: its id; None: nothing was sent.
        invalid: devices it does not know, or that are not subscribed.
        told: why nothing was sent.
    """

    message_id: str | None
    invalid: frozenset[str]
    told: str


class OneSignal:
    """Calls OneSignal's API for one app."""

    def __init__(self, http: HttpClient, url: str, app_id: str, api_key: str) -> None:
        self._http = http
        self._url = f"{url}/notifications"
        self._app_id = app_id
        self._headers = {"authorization": f"Key {api_key}"}

    async def push(self, job: SendPush, devices: Sequence[str], key: UUID, timeout: float) -> Pushed:
        """Send a message to these devices.

        Args:
            key: the same in every try.
            timeout: limit on the call, seconds.

        Raises:
            RetryAfter, HttpStatus, HttpUnavailable: another try may end better.
            HttpError: the answer is none, and so it is unknown whether anything was sent.
            PermanentError: it is refused for good.
        """
        message = {
            "app_id": self._app_id,
            "include_subscription_ids": list(devices),
            "headings": {"en": job.title},
            "contents": {"en": job.message},
            "idempotency_key": str(key),
            **_PRIORITIES[job.priority],
            **({"data": job.data} if job.data else {}),
        }
        reply = await self._http.post(
            self._url, params={"c": "push"}, headers=self._headers, json=message, timeout=timeout
        )
        if reply.status == 400:
            raise PermanentError(f"OneSignal refuses the message: {_told(reply.fields.get('errors'))}")
        answer = reply.checked(settings="ARQD_PUSH__APP_ID and ARQD_PUSH__API_KEY").json()
        if not isinstance(answer, dict):
            raise HttpError(f"{reply.host} answers {reply.status} with something that is no message")
        errors = answer.get("errors")
        invalid = _invalid(errors)
        message_id = str(answer.get("id") or "") or None
        if message_id is None and not invalid and _NOT_SUBSCRIBED in _told(errors):
            invalid = frozenset(devices)
        return Pushed(message_id, invalid & frozenset(devices), _told(errors))


def _invalid(errors: Any) -> frozenset[str]:
    if not isinstance(errors, dict):
        return frozenset()
    named = [errors.get(name) for name in _INVALID]
    return frozenset(str(each) for ids in named if isinstance(ids, list) for each in ids)


def _told(errors: Any) -> str:
    """Give what OneSignal says in one line: its errors are a list of sentences, or lists of ids by what they are."""
    if isinstance(errors, dict):
        errors = [f"{len(ids) if isinstance(ids, list) else 'some'} {name}" for name, ids in errors.items()]
    texts = [str(each) for each in errors] if isinstance(errors, list) else []
    return " ".join("; ".join(texts).split())[:_TOLD] or "no reason given"
