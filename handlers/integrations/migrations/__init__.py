"""The schema of the database, step by step. Each family has a history of its own, so no two of them can collide.

A step is a file ``versions/<family>_<number>.py`` with four digits::

    \"\"\"Payments: attempts.\"\"\"
    import sqlalchemy as sa
    from alembic import op

    revision, down_revision, branch_labels = "payments_0001", None, "payments"

    def upgrade() -> None:
        op.create_table("arqd_payment_attempts", …)

The second step has ``down_revision = "payments_0001"`` and ``branch_labels = None``. Steps only go forward, and an old
release must still work on a newer schema: add, fill, and remove a release later.

Which were applied stands in the table ``arqd_schema``. alembic is loaded to upgrade only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSIONS = Path(__file__).parent / "versions"
TABLE = "arqd_schema"
_STEP = re.compile(r"([a-z][a-z_]*)_(\d{4})")
#: Any number that nobody else uses for an advisory lock of PostgreSQL.
LOCK = 0x61727164


def newest() -> dict[str, int]:
    """Give the number of each family's last step in this release."""
    return _last(path.stem for path in VERSIONS.glob("*.py"))


def applied(connection: Any) -> dict[str, int]:
    """Give the number of each family's last step in a database; what a newer release applied is among them.

    Args:
        connection: a synchronous SQLAlchemy connection.
    """
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table(TABLE):
        return {}
    return _last(connection.execute(text(f"SELECT version_num FROM {TABLE}")).scalars())  # noqa: S608


def _last(steps: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for step in steps:
        if match := _STEP.fullmatch(step):
            found[match[1]] = max(found.get(match[1], 0), int(match[2]))
    return found


def upgrade(connection: Any) -> Mapping[str, int]:
    """Apply every step that is missing, in the transaction the connection has: all of them or none.

    Args:
        connection: a synchronous SQLAlchemy connection.

    Returns:
        What `applied` gives now.
    """
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        # Another process that upgrades is waited for. SQLite's transaction holds the only writer's lock already.
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    have = applied(connection)
    script = ScriptDirectory(str(VERSIONS.parent), version_locations=[str(VERSIONS)])
    ours = {step.revision for step in script.walk_revisions()}
    # Of a newer release, which alembic does not find here: it stays as it is.
    wanted = [head for head in script.get_heads() if have.get(_STEP.fullmatch(head)[1], 0) < int(head[-4:])]  # type: ignore[index]
    if not wanted:
        return have

    def steps(current: Any, _: Any) -> Any:
        known: Any = tuple(step for step in current if step in ours)
        return [step for head in wanted for step in script._upgrade_revs(head, known)]

    environment = EnvironmentContext(Config(), script, fn=steps)
    with environment:
        environment.configure(connection=connection, version_table=TABLE, transactional_ddl=True)
        with environment.begin_transaction():
            environment.run_migrations()
    return applied(connection)
