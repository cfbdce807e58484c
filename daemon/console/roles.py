"""Who may do what: three roles, each of which may do what those before it may."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """``viewer`` looks; ``operator`` also submits and acts on jobs, queues and schedules, and reads the audit log;
    ``admin`` also reveals what is encrypted and gives access to others."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether who has this role may do what the other may."""
        return _RANK[self] >= _RANK[other]


_RANK = {Role.VIEWER: 1, Role.OPERATOR: 2, Role.ADMIN: 3}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, as the audit log names them.

    Attributes:
        name: of the token, the JWT's ``sub``, or the user of the command line.
        via: ``token``, ``jwt``, ``session`` or ``cli``.
        address: where the request came from, or the host of the command line.
        csrf: what a form of a browser's session has to bring along; "" for everybody else.
    """

    name: str
    role: Role
    via: str
    address: str
    csrf: str = ""
