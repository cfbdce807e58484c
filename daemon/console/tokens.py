"""API tokens: named, with a role, hashed at rest, expiring, revocable. Their text is shown once, when they are made.

The text is ``arqd_<name>.<secret>``, the secret 256 random bits: a plain SHA-256 of it is enough, since there is
nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from daemon.connecting.connections import translated
from daemon.console.roles import Role
from daemon.errors import InvalidToken, TokenConflict, TokenNotFound
from daemon.job import from_ms
from daemon.keys import CONSOLE_TOKENS

PREFIX = "arqd_"
_NAME = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token without its secret; ``expires_at`` None: it does not expire."""

    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None

    @property
    def expired(self) -> bool:
        """Whether its time is over, by this machine's clock."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


def digest(text: str) -> str:
    """Give the form in which secrets are kept."""
    return hashlib.sha256(text.encode()).hexdigest()


class Tokens:
    """The tokens of an installation.

    Every method raises `RedisUnavailable`, `RedisRefused` or `RedisFull` when Redis cannot do it.

    Args:
        redis: an asynchronous redis-py client without response decoding.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def add(
        self, name: str, role: Role | str, *, expires: float | None = None, by: str = ""
    ) -> tuple[TokenInfo, str]:
        """Make a token; gives it and its text, which nobody can be told again.

        Args:
            expires: after so many seconds; None: never.
            by: who made it.

        Raises:
            InvalidToken: for a wrong name, role or time. TokenConflict: when there is one of this name.
        """
        if not _NAME.fullmatch(name):
            raise InvalidToken(f"a token's name is 1 to 64 of a-z, 0-9, - and _, not {name[:70]!r}")
        if role not in list(Role):
            raise InvalidToken(f"{str(role)[:40]!r} is not a role: use {', '.join(Role)}")
        if expires is not None and not 1 <= expires <= 2**31:
            raise InvalidToken("a token expires after a second at least, and 68 years at most")
        secret, now = secrets.token_urlsafe(32), round(time.time() * 1000)
        kept: dict[str, Any] = {"digest": digest(secret), "role": str(role), "created": now, "by": by}
        if expires is not None:
            kept["expires"] = now + round(expires * 1000)
        with translated():
            if not await self._redis.hsetnx(CONSOLE_TOKENS, name, json.dumps(kept)):
                raise TokenConflict(f"there is a token {name!r} already: revoke it, or take another name")
        return _info(name, kept), f"{PREFIX}{name}.{secret}"

    async def list(self) -> list[TokenInfo]:
        """Give all tokens by name, expired ones too."""
        with translated():
            found = await self._redis.hgetall(CONSOLE_TOKENS)
        return sorted((_info(n.decode(), json.loads(kept)) for n, kept in found.items()), key=lambda each: each.name)

    async def get(self, name: str) -> TokenInfo | None:
        """Give a token that is in force, None where there is none."""
        kept = await self._kept(name)
        return None if kept is None else _in_force(_info(name, kept))

    async def check(self, text: str) -> TokenInfo | None:
        """Give the token this is the text of; None for anything else, an expired or a revoked one included."""
        name, _, secret = text.removeprefix(PREFIX).partition(".")
        kept = await self._kept(name) if _NAME.fullmatch(name) else None
        if kept is None or not hmac.compare_digest(kept["digest"], digest(secret)):
            return None
        return _in_force(_info(name, kept))

    async def revoke(self, name: str) -> None:
        """Remove a token; browsers that logged in with it are out as well.

        Raises:
            TokenNotFound: when there is none of this name.
        """
        with translated():
            if not await self._redis.hdel(CONSOLE_TOKENS, name):
                raise TokenNotFound(f"there is no token {name[:70]!r}")

    async def _kept(self, name: str) -> dict[str, Any] | None:
        with translated():
            raw = await self._redis.hget(CONSOLE_TOKENS, name)
        return None if raw is None else json.loads(raw)


def _in_force(token: TokenInfo) -> TokenInfo | None:
    return None if token.expired else token


def _info(name: str, kept: dict[str, Any]) -> TokenInfo:
    expires = kept.get("expires")
    return TokenInfo(
        name, Role(kept["role"]), from_ms(kept["created"]), kept["by"], None if expires is None else from_ms(expires)
    )
