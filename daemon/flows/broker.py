"""The scripts that carry flows from slot to slot: one method per call of ``lua/flow.lua`` and ``lua/outbox.lua``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from daemon.broker import Broker, NewJob
from daemon.errors import QueueFull

#: Definitions and bytes in one call.
PORTION, PORTION_BYTES = 500, 1_000_000


class FlowJob(NamedTuple):
    """A job of a flow to make.

    ``edges`` are lines ``parent, rule, index, token`` with tabs between; an empty ``job.tail`` says that the job should
    be there already. Of ``children`` it waits for the ends.
    """

    job: NewJob
    edges: str
    children: Sequence[str] = ()

    @property
    def arguments(self) -> list[Any]:
        """What the script takes."""
        job = self.job
        return [
            *(job.id, job.level, job.when, job.ms, job.timeout_ms, job.expires_ms, job.tail),
            self.edges,
            "\t".join(self.children),
        ]


class ChildEnd(NamedTuple):
    """The end of a child, for one of its parents; ``kind`` is as in ``lua/flows.lua``."""

    parent: bytes
    child: bytes
    token: bytes
    rule: bytes
    place: bytes
    entry: bytes
    kind: bytes
    text: str
    result: bytes


class OutboxEntry(NamedTuple):
    """An entry of an outbox: its id in the stream, its fields and values one after the other."""

    id: bytes
    fields: Sequence[bytes]


class FlowBroker(Broker):
    """The scripts of flows in one family's slot."""

    async def stage(self, token: str, before: int, definitions: Sequence[bytes]) -> bool:
        """Put definitions of a flow down behind those ``before``; False when these are gone."""
        return bool(await self.run("flow", "stage", token, before, *definitions) >= 0)

    async def commit(
        self, token: str, families: Iterable[str], root: FlowJob, count: int, definitions: Sequence[bytes]
    ) -> int | bytes:
        """Make the root of a flow, and with it the flow, of ``count`` definitions; those staged are not given again.

        Returns:
            The outbox's entry for it, 1 when it was made before, 0 when a job with this id exists, -1 when staged
            definitions are gone.

        Raises:
            QueueFull: when the root's family has no room for it in its budget of bytes.
        """
        job = root.job
        root_job = (job.id, job.level, job.timeout_ms, job.expires_ms, job.tail, "\t".join(root.children))
        made = await self.run("flow", "commit", token, " ".join(families), count, *root_job, *definitions)
        if isinstance(made, list):
            raise QueueFull(self.keys.family, made[1] / 1000)
        entry: int | bytes = made
        return entry

    async def make(self, token: str, read_at: int, jobs: Iterable[FlowJob]) -> bool | None:
        """Make jobs of a flow, or attach to those that are there.

        Args:
            read_at: when their definitions were read, ms by that server's clock.

        Returns:
            Whether something was written to this slot's outbox; None when they have to be read again.
        """
        reply = await self.run("flow", "make", token, read_at, *(part for job in jobs for part in job.arguments))
        return None if reply[0] == b"stale" else reply[1] == b"1"

    async def end(self, ends: Iterable[ChildEnd]) -> bool:
        """Tell parents in this slot of ended children; True when this wrote to its outbox."""
        return bool(await self.run("outbox", "end", *(part for end in ends for part in end)) == b"1")

    async def read_outbox(self, courier: str, lease_ms: int, after: bytes) -> tuple[int, list[OutboxEntry]]:
        """Give ``(0, entries)``, or the ms until the outbox is free when another courier has it."""
        reply = await self.run("outbox", "read", courier, lease_ms, after)
        return reply[0], [OutboxEntry(*entry) for entry in reply[1]] if len(reply) > 1 else []

    async def read_definitions(self, token: str) -> tuple[int, list[bytes]]:
        """Give the time of this slot's server in ms, and a flow's first definitions that are not delivered yet."""
        now, definitions = await self.run("outbox", "defs", token, PORTION)
        return int(now), definitions

    async def trim(self, token: str, first: int, count: int) -> int:
        """Remove ``count`` delivered definitions from number ``first`` on; gives how many are left.

        Nothing is removed when another courier has.
        """
        return int(await self.run("outbox", "trim", token, first, count))

    async def seal(self, token: str) -> None:
        """All of the flow is made: what is known of that goes in time."""
        await self.run("outbox", "seal", token)

    async def acknowledge(self, entries: Sequence[bytes]) -> None:
        """Delete entries of the outbox that every slot has acknowledged."""
        await self.run("outbox", "ack", *entries)
