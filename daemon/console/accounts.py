"""Giving access and taking it back, audited; the API and ``arqd token`` do it with these."""

from __future__ import annotations

from daemon.console.audit import Audit
from daemon.console.roles import Actor, Role
from daemon.console.tokens import TokenInfo, Tokens
from daemon.job import seconds


async def add(
    tokens: Tokens, audit: Audit, actor: Actor, name: str, role: Role | str, expires: float | str | None
) -> tuple[TokenInfo, str]:
    """Make a token; gives it and its text.

    Args:
        expires: after so many seconds, or ``"90d"``; None: never.

    Raises:
        InvalidToken, InvalidJob: for a wrong name, role or time. TokenConflict: when there is one of this name.
    """
    after = None if expires is None else seconds(expires)
    async with audit.record(actor, "token.add", name[:70], role=str(role)[:40], expires=after):
        return await tokens.add(name, role, expires=after, by=actor.name)


async def revoke(tokens: Tokens, audit: Audit, actor: Actor, name: str) -> None:
    """Revoke a token.

    Raises:
        TokenNotFound: when there is none of this name.
    """
    async with audit.record(actor, "token.revoke", name[:70]):
        await tokens.revoke(name)
