"""Browsers that are logged in, and links with which one can log in once.

A session is a random text in a cookie; Redis keeps its hash with who it is and the CSRF token of its forms. One that
was begun with an API token ends when that is revoked.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from typing import Any

from daemon.connecting.connections import translated
from daemon.console.roles import Role
from daemon.console.tokens import Tokens, digest
from daemon.keys import CONSOLE_LOGIN, CONSOLE_SESSION

#: How long a login link can be used, seconds.
LINK_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is logged in; ``token`` is the API token it began with, "" where there was none, and ``made`` when
    that was made: a later one of its name is another."""

    name: str
    role: Role
    csrf: str
    token: str = ""
    made: str = ""


class Sessions:
    """Begins, finds and ends sessions.

    Every method raises `RedisUnavailable`, `RedisRefused` or `RedisFull` when Redis cannot do it.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        seconds: how long a session lasts.
    """

    def __init__(self, redis: Any, tokens: Tokens, seconds: float) -> None:
        self._redis, self._tokens, self.seconds = redis, tokens, seconds

    async def begin(self, name: str, role: Role, *, token: str = "", seconds: float | None = None) -> str:
        """Begin a session; gives the text for the cookie.

        Args:
            seconds: at most so long, where what it was begun with ends sooner.
        """
        text = secrets.token_urlsafe(32)
        kept = Session(name, role, secrets.token_urlsafe(32), token, await self._made(token))
        lasts = max(1, round(min(self.seconds, self.seconds if seconds is None else seconds)))
        with translated():
            await self._redis.set(CONSOLE_SESSION + digest(text), json.dumps(asdict(kept)), ex=lasts)
        return text

    async def find(self, text: str) -> Session | None:
        """Give the session of a cookie; None when it is over."""
        with translated():
            raw = await self._redis.get(CONSOLE_SESSION + digest(text))
        if raw is None:
            return None
        kept = json.loads(raw)
        session = Session(kept["name"], Role(kept["role"]), kept["csrf"], kept["token"], kept.get("made", ""))
        if session.token and (not session.made or await self._made(session.token) != session.made):
            return None
        return session

    async def _made(self, token: str) -> str:
        """Tell when the token in force of this name was made; "" where there is none."""
        info = await self._tokens.get(token) if token else None
        return "" if info is None else info.created_at.isoformat()

    async def end(self, text: str) -> None:
        """End a session."""
        with translated():
            await self._redis.delete(CONSOLE_SESSION + digest(text))

    async def make_link(self, name: str, role: Role) -> str:
        """Give the code of a link with which one can log in once, within `LINK_SECONDS`."""
        code = secrets.token_urlsafe(32)
        with translated():
            await self._redis.set(
                CONSOLE_LOGIN + digest(code), json.dumps({"name": name, "role": role}), ex=LINK_SECONDS
            )
        return code

    async def use_link(self, code: str) -> tuple[str, Role] | None:
        """Give who logs in with a code, which is used up then; None when it was used, or its time is over."""
        with translated():
            raw = await self._redis.getdel(CONSOLE_LOGIN + digest(code))
        if raw is None:
            return None
        kept = json.loads(raw)
        return kept["name"], Role(kept["role"])
