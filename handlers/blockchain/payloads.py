"""What the blockchain family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from daemon.payload import Payload, PayloadModel
from handlers.blockchain.signatures import checked

__all__ = ["HandleEvent", "IndexEvents", "IndexedRange", "VerifiedEvent"]

#: Where the hash and the place of a transaction may stand among an event's parameters.
_HASHES = ("transaction_hash", "transactionHash", "tx_hash", "txHash")
_INDEXES = ("log_index", "logIndex")


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
Hash = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{64}$")]
NetworkId = Annotated[str, BeforeValidator(_text), Field(pattern=r"^[a-z0-9_-]{1,40}$")]
EventName = Annotated[str, Field(pattern=r"^[A-Za-z_$][A-Za-z0-9_$]{0,99}$")]
Signature = Annotated[str, AfterValidator(checked), Field(max_length=1000)]


class VerifiedEvent(PayloadModel):
    """An event that is on the chain.

    Attributes:
        parameters: as the contract gave them; numbers of more than 53 bits as text.
        confirmations: blocks on it when it was looked at, its own included.
        indexed: it is in the index; ``existed``: it was before this job.
        notified: it has been told of, by this job or before.
    """

    chain_id: int
    contract_address: str
    event_name: str
    parameters: dict[str, Any]
    transaction_hash: str
    log_index: int
    block_number: int
    block_hash: str
    confirmations: int
    indexed: bool = False
    existed: bool = False
    notified: bool = False


class _Told(Payload, family="blockchain"):
    """Whom ``notify`` tells.

    Fields:
        user_id: who gets a notification; none: nobody.
        endpoint, secret_ref: who gets a webhook; default ``ARQD_BLOCKCHAIN__WEBHOOK``.
    """

    user_id: str | None = Field(None, min_length=1, max_length=200)
    endpoint: str | None = Field(None, min_length=1, max_length=2000)
    secret_ref: str | None = Field(None, pattern=r"^[A-Za-z0-9_]{1,100}$")

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.endpoint is not None and "://" in self.endpoint and self.secret_ref is None:
            raise ValueError("a URL needs a secret_ref: the name of the secret that signs (ARQD_WEBHOOKS__SECRETS)")
        return self


class HandleEvent(_Told, family="blockchain", function="handle_event", returns=VerifiedEvent):
    """Check that an event has happened and is final, and hand it on.

    Fields:
        contract_address, event_name: which contract told of what.
        parameters: what must be so in it, by name; the transaction's hash (``transaction_hash``) and, where it has
            several such events, the log's number in its block (``log_index``) may stand here, too.
        network_id: a name or number with an RPC URL.
        action: ``verify``: only check; ``index``: and store; ``notify``: and tell by notification and webhook.
        signature: the event as Solidity writes it; default by name from ``ARQD_BLOCKCHAIN__EVENTS``.
        confirmations: default ``ARQD_BLOCKCHAIN__CONFIRMATIONS``.
    """

    contract_address: Address
    event_name: EventName
    parameters: dict[str, Any] = Field(default_factory=dict)
    network_id: NetworkId = "mainnet"
    action: Literal["verify", "index", "notify"] = "index"
    transaction_hash: Hash
    log_index: int | None = Field(None, ge=0)
    signature: Signature | None = None
    confirmations: int | None = Field(None, ge=1, le=10_000)

    @model_validator(mode="before")
    @classmethod
    def _found_among_parameters(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        # Also when it comes from Redis, where both may be written already.
        parameters = dict(fields.get("parameters") or {})
        hashes, indexes = ([parameters.pop(name, None) for name in names] for names in (_HASHES, _INDEXES))
        found = {"transaction_hash": _first(hashes), "log_index": _first(indexes)}
        given = {name: value for name, value in found.items() if value is not None}
        return {**fields, **given, "parameters": parameters} if given else fields

    @model_validator(mode="after")
    def _named(self) -> Self:
        _same_name(self.signature, self.event_name)
        return self


class IndexedRange(PayloadModel):
    """What a pass over a contract's events came to.

    Attributes:
        from_block, to_block: what was looked through last; ``to_block`` is the chain's newest block.
        added, removed: events written, and events a reorganisation took back.
        notified: events that were told of.
    """

    from_block: int
    to_block: int
    added: int
    removed: int
    notified: int


class IndexEvents(_Told, family="blockchain", function="index_events", returns=IndexedRange):
    """Bring the index of a contract's events up to the chain's newest block.

    Fields:
        contract_address, event_name, network_id, signature: as in `HandleEvent`.
        start_block: where its events begin, counted the first time only.
        action: ``notify`` tells of each event once, when it is final.
        confirmations: an event is final with so many; default ``ARQD_BLOCKCHAIN__CONFIRMATIONS``. As many blocks are
            looked through again each time.
    """

    contract_address: Address
    event_name: EventName
    network_id: NetworkId = "mainnet"
    start_block: int = Field(0, ge=0)
    action: Literal["index", "notify"] = "index"
    signature: Signature | None = None
    confirmations: int | None = Field(None, ge=1, le=10_000)

    @model_validator(mode="after")
    def _named(self) -> Self:
        _same_name(self.signature, self.event_name)
        return self


def _first(values: list[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _same_name(signature: str | None, name: str) -> None:
    if signature is not None and signature.removeprefix("event ").partition("(")[0].strip() != name:
        raise ValueError("the signature is that of another event")
