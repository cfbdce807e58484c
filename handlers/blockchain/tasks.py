"""``handle_event``: check that a contract's event has happened and is final, store it, and tell of it.

1. Look the transaction up: in no block yet, or not deep enough, the job comes back later and no try is counted.
2. Read the event from it, and compare it with what the job says.
3. Store it; that happens once, whoever else stores it.
4. Tell by notification and webhook, in jobs of their own with ids that follow from the event.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from daemon.context import JobContext
from daemon.errors import PermanentError, RetryAfter
from daemon.producing.options import JobOptions
from handlers.blockchain.index import ChainEvent, EventIndex
from handlers.blockchain.payloads import HandleEvent, IndexEvents, VerifiedEvent
from handlers.blockchain.settings import BlockchainSettings
from handlers.blockchain.signatures import event_abi, known
from handlers.integrations.database import Database
from handlers.integrations.endpoint_names import endpoint_group
from handlers.integrations.http import HttpClient
from handlers.integrations.rpc import Inclusion, Network, Node, inclusion, network_missing, replaced

#: Most of an event's parameters that is told of, bytes of JSON: a stranger may have written any text into one.
LARGEST = 100_000


class NotOnChain(PermanentError):
    """The chain does not say what the job says."""


class Events(Protocol):
    """Events of one name of one contract; see `handlers.blockchain.contracts.ContractEvents`."""

    topic: str
    address: str

    async def between(self, node: Node, first: int, last: int) -> list[ChainEvent]:
        """Give the events of these blocks."""

    async def of_transaction(self, node: Node, tx_hash: str) -> list[ChainEvent] | None:
        """Give the events of a transaction; None for one that is in no block."""


@dataclass(frozen=True, slots=True)
class BlockchainService:
    """What the family opens at start and finds in its context as ``blockchain``."""

    settings: BlockchainSettings
    database: Database
    http: HttpClient
    index: EventIndex
    networks: Mapping[str, Network]
    #: Makes what reads a contract's events; its module takes a second to import.
    contract: Callable[[Sequence[Any], str], Events]

    def network(self, name: str) -> Network:
        """Give a network.

        Raises:
            PermanentError: it has no node.
        """
        found = self.networks.get(name)
        if found is None:
            raise PermanentError(network_missing(name))
        return found

    def events(self, job: HandleEvent | IndexEvents) -> Events:
        """Give what reads the job's events.

        Raises:
            PermanentError: nobody said what the event looks like.
        """
        signatures = self.settings.events
        abis = [event_abi(job.signature)] if job.signature else known(job.event_name, signatures)
        if not abis:
            raise PermanentError(
                f"the event {job.event_name} is not known: give its signature, or set ARQD_BLOCKCHAIN__EVENTS"
            )
        try:
            return self.contract(abis, job.contract_address)
        except ValueError as error:
            raise PermanentError(str(error)) from None

    def confirmations(self, job: HandleEvent | IndexEvents) -> int:
        """Give how many blocks make the job's events final."""
        return job.confirmations or self.settings.confirmations

    def must_tell(self, job: HandleEvent | IndexEvents) -> None:
        """See that there is somebody to tell.

        Raises:
            PermanentError: there is nobody.
        """
        if job.action == "notify" and job.user_id is None and (job.endpoint or self.settings.webhook) is None:
            raise PermanentError("there is nobody to notify: give user_id or endpoint, or set ARQD_BLOCKCHAIN__WEBHOOK")


async def handle_event(ctx: JobContext, job: HandleEvent) -> VerifiedEvent:
    """Check an event, and store it or tell of it as the job says.

    It may run twice: it is stored once, and told of once for as long as the jobs that tell are kept.

    Raises:
        RetryAfter: it is not final yet; the job looks again later.
        NotOnChain: the transaction was reverted or replaced, or there is no such event in it.
        PermanentError: no node, no signature, nobody to tell, or it has not become final in time.
        NodeFailed, RpcRefused: no node answers as it should.
    """
    service: BlockchainService = ctx["blockchain"]
    service.must_tell(job)
    network, events = service.network(job.network_id), service.events(job)
    event, depth = await network.on_one_node(lambda node: _final(ctx, service, node, events, job))
    existed = told = False
    if job.action != "verify":
        existed, told = await service.index.add(event)
    if job.action == "notify" and not told:
        await tell(ctx, service, job, [event])
        told = True
    return VerifiedEvent(
        chain_id=event.chain_id,
        contract_address=event.address,
        event_name=event.event,
        parameters=event.parameters,
        transaction_hash=event.tx_hash,
        log_index=event.log_index,
        block_number=event.block_number,
        block_hash=event.block_hash,
        confirmations=depth,
        indexed=job.action != "verify",
        existed=existed,
        notified=told,
    )


async def _final(
    ctx: JobContext, service: BlockchainService, node: Node, events: Events, job: HandleEvent
) -> tuple[ChainEvent, int]:
    """Give the job's event once it is final, and how deep it is."""
    found = await inclusion(node, job.transaction_hash)
    needed = service.confirmations(job)
    if found.receipt is None or found.depth < needed:
        if gone := await replaced(ctx, node, job.transaction_hash, found, needed):
            raise NotOnChain(gone)
        raise _later(ctx, service, found, needed)
    if found.receipt["status"] != "0x1":
        raise NotOnChain("the transaction was reverted")
    there = await events.of_transaction(node, job.transaction_hash)
    if there is None or any(event.block_hash != found.receipt["blockHash"] for event in there):
        # The chain was reorganised while we looked.
        raise _later(ctx, service, found, needed)
    if job.log_index is not None:
        there = [event for event in there if event.log_index == job.log_index]
    if not there:
        raise NotOnChain(f"this transaction has no {job.event_name} of this contract")
    fitting = [event for event in there if not _differing(job, event)]
    if not fitting:
        raise NotOnChain(f"the chain says otherwise about {', '.join(_differing(job, there[0]))}")
    if len(fitting) > 1:
        raise PermanentError(f"this transaction has {len(fitting)} events like that: give log_index")
    return fitting[0], found.depth


def _differing(job: HandleEvent, event: ChainEvent) -> list[str]:
    """Give the names of what the chain says otherwise, or not at all."""
    return [name for name, value in job.parameters.items() if not _same(value, event.parameters.get(name))]


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_same, expected, found))
    if isinstance(expected, str) and isinstance(found, str) and expected.startswith("0x"):
        # Addresses are written in mixed case, or not.
        return expected.lower() == found.lower()
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    # Numbers are written as numbers or as text.
    return found is not None and str(expected) == str(found)


def _later(ctx: JobContext, service: BlockchainService, found: Inclusion, needed: int) -> Exception:
    """Give what makes the job look again later, or gives up what takes too long."""
    waited = (datetime.now(UTC) - ctx.enqueue_time).total_seconds()
    if waited > service.settings.pending_limit:
        told = found.detail if found.receipt is None else f"{found.depth} of {needed} confirmations"
        return NotOnChain(f"still {told} after {waited / 3600:.0f} h")
    return RetryAfter(service.settings.poll, "job")


async def tell(
    ctx: JobContext, service: BlockchainService, job: HandleEvent | IndexEvents, events: Sequence[ChainEvent]
) -> None:
    """Enqueue what tells of some events, and write down that they were told of.

    The jobs' ids follow from the event: where this is done twice, they are there already.
    """
    endpoint, secret = job.endpoint, job.secret_ref
    if endpoint is None:
        endpoint, secret = service.settings.webhook, service.settings.webhook_secret
    more = {} if secret is None else {"secret_ref": secret}
    notes, hooks = list[_Named](), list[_Named]()
    for event in events:
        name: JobOptions = {"job_id": f"chain-{event.chain_id}-{event.tx_hash}-{event.log_index}"}
        said = _said(event)
        if job.user_id is not None:
            note = {"user_id": job.user_id, "type": "info", "title": event.event, "metadata": said}
            note["body"] = f"{event.event} in block {event.block_number} of {event.address}"
            notes.append((("notify_user", note), name))
        if endpoint is not None:
            hook = {"endpoint": endpoint, "event": f"chain.{event.event.replace('$', '_')}", "payload": said}
            # By name nothing tells the group, and without one a slow endpoint would have all slots of the family.
            hooks.append((("deliver_webhook", hook | more), {**name, "group": endpoint_group(endpoint)}))
    for jobs, family in ((notes, "notifications"), (hooks, "webhooks")):
        if jobs:
            await ctx.producer.enqueue_each(jobs, family=family)
    await service.index.told(events)


_Named = tuple[tuple[str, dict[str, Any]], JobOptions]


def _said(event: ChainEvent) -> dict[str, Any]:
    """Give what is told of an event; of parameters that are too large for a job only the others."""
    kept, room = dict[str, Any](), LARGEST
    for name, value in event.parameters.items():
        size = len(json.dumps(value))
        if size <= room:
            kept[name] = value
            room -= size
    cut = {"truncated": True} if len(kept) < len(event.parameters) else {}
    return {
        "chain_id": event.chain_id,
        "contract_address": event.address,
        "event_name": event.event,
        "parameters": kept,
        "transaction_hash": event.tx_hash,
        "log_index": event.log_index,
        "block_number": event.block_number,
        **cut,
    }
