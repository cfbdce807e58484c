"""API tokens: list, make, revoke."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import Field

from daemon.console import accounts
from daemon.console.api.common import Admin, Body, Given, problems
from daemon.console.fields import Duration
from daemon.console.roles import Role
from daemon.console.tokens import TokenInfo

router = APIRouter(tags=["access"])


class NewToken(Body):
    """A token to make."""

    name: str = Field(pattern=r"^[a-z0-9_-]{1,64}$")
    role: Role
    expires: Duration | None = Field(None, description="after so many seconds, or `90d`; default never")


@dataclass(slots=True)
class TokenMade:
    """A token that was made, and its text, which is told this once."""

    info: TokenInfo
    token: str


@router.get("/tokens", responses=problems())
async def list_tokens(services: Given, actor: Admin) -> list[TokenInfo]:
    """All tokens, without their secrets."""
    return await services.tokens.list()


@router.post("/tokens", status_code=201, responses=problems(409))
async def add(asked: NewToken, services: Given, actor: Admin) -> TokenMade:
    """Make a token."""
    return TokenMade(*await accounts.add(services.tokens, services.audit, actor, asked.name, asked.role, asked.expires))


@router.delete("/tokens/{name}", status_code=204, responses=problems(404))
async def revoke(name: str, services: Given, actor: Admin) -> None:
    """Revoke a token; browsers that logged in with it are out as well."""
    await accounts.revoke(services.tokens, services.audit, actor, name)
