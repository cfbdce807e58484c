"""How the database is used. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from daemon.family import Seconds


class DatabaseSettings(BaseModel):
    """The database of families that keep data of their own; where it is says ``ARQD_DATABASE_URL``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    pool_size: int = Field(5, ge=1, le=500, description="connections a family keeps open in one process")
    max_overflow: int = Field(5, ge=0, le=500, description="connections it may open beyond these for a while")
    pool_timeout: Seconds = Field(10, gt=0, description="limit on the wait for a free connection, seconds")
    connect_timeout: Seconds = Field(10, gt=0, description="limit on opening a connection, seconds")
    statement_timeout: Seconds = Field(
        30, gt=0, description="limit on one statement, seconds; in SQLite on the wait for another writer"
    )
    recycle: Seconds = Field(1800, gt=0, description="a connection older than this is replaced, seconds")
