"""What an operator can set about chains' events. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from daemon.family import Seconds
from handlers.blockchain.signatures import checked


def _split(value: Any) -> Any:
    return [part for part in value.split(";") if part.strip()] if isinstance(value, str) else value


class BlockchainSettings(BaseModel):
    """Events of contracts: when they count, which are known, whom to tell. The nodes are in ``ARQD_RPC``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    events: Annotated[tuple[Annotated[str, AfterValidator(checked)], ...], BeforeValidator(_split)] = Field(
        (),
        description="events jobs may name, `;` between them: `Paid(address indexed by, uint256 amount)`",
    )
    confirmations: int = Field(12, ge=1, le=10_000, description="blocks that make an event count, its own included")
    poll: Seconds = Field(12, ge=0.1, le=3600, description="wait between looks at a transaction, seconds")
    pending_limit: Seconds = Field(
        86_400, gt=0, description="an event that is not final so long after its job was enqueued is given up, seconds"
    )
    max_range: int = Field(2000, ge=1, le=1_000_000, description="blocks asked for at once; halved when a node refuses")
    calls_per_second: float = Field(25, gt=0, description="calls a process makes to a node, per second")
    webhook: str | None = Field(
        None, description="endpoint (docs/families/webhooks.md) that `notify` tells of events where a job names none"
    )
    webhook_secret: str | None = Field(None, description="its `secret_ref`, where the endpoint is a URL")
