"""A real node of an Ethereum chain for the tests: anvil, on loopback with a free port, and contracts on it.

The node mines a block for each transaction; `Anvil.mine` mines more, `Anvil.reorganise` replaces the newest ones. The
contracts are in ``tests/contracts``. What all need is installed by ``scripts/chain_tools.sh``.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".venv" / "node"
CONTRACTS = ROOT / "tests" / "contracts"
#: The event a contract tells of a ticket with.
TICKET_ALLOCATED = "TicketAllocated(address indexed winner, uint256 indexed tokenId, uint64 eventId, string seat)"
#: Two of the accounts a fresh node has, unlocked and rich.
OPERATOR, WINNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
START_SECONDS = 60.0


class NodeError(Exception):
    """The node answers with an error."""


class Anvil:
    """One node. Stopped and started again it has the chain it had; killed, the chain of its last stop.

    Args:
        folder: where it keeps its chain.
    """

    def __init__(self, folder: Path, chain_id: int = 31337) -> None:
        self.port = free_port()
        self.chain_id = chain_id
        self._state = folder / f"anvil-{self.port}.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(timeout=60, trust_env=False)
        self._started_at = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Anvil:
        """Start it, and wait until it answers."""
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--chain-id", str(self.chain_id), "--silent"]
        words += ["--state", str(self._state), "--preserve-historical-states", "--accounts", "2"]
        self._process = subprocess.Popen([TOOLS / "node_modules" / ".bin" / "anvil", *words], env={})
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._started_at = self.height
                return self
            except httpx.TransportError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise
                time.sleep(0.01)

    def stop(self) -> None:
        """End it in order: it writes its chain down."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(START_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._client.close()

    def call(self, method: str, *params: Any) -> Any:
        """Make a call of JSON-RPC.

        Raises:
            NodeError: it answers with an error.
        """
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._client.post(self.url, json=request).json()
        if "error" in answer:
            raise NodeError(f"{method}: {answer['error']}")
        return answer["result"]

    @property
    def height(self) -> int:
        """Number of its newest block."""
        return int(self.call("eth_blockNumber"), 16)

    def mine(self, count: int = 1) -> None:
        """Mine empty blocks."""
        self.call("anvil_mine", hex(count))

    def reorganise(self, depth: int, transactions: list[tuple[dict[str, Any], int]] | None = None) -> None:
        """Replace the newest ``depth`` blocks by as many others.

        Only blocks since its start: of those before it the node has forgotten what contracts there were.

        Args:
            transactions: what is in them: a transaction, and in which of them, 0 for the first.
        """
        assert depth <= self.height - self._started_at, "these blocks are older than the node's start"
        self.call("anvil_reorg", depth, [list(each) for each in transactions or []])

    def send(self, **transaction: Any) -> str:
        """Send a transaction from the operator's account, and give its hash when it is in a block."""
        sent = str(self.call("eth_sendTransaction", {"from": OPERATOR, "gas": hex(2_000_000), **transaction}))
        deadline = time.monotonic() + START_SECONDS
        while self.call("eth_getTransactionReceipt", sent) is None:
            assert time.monotonic() < deadline, "the node does not mine"
            time.sleep(0.001)
        return sent


@dataclass(frozen=True, slots=True)
class Tickets:
    """The contract on a node."""

    node: Anvil
    address: str
    block: int

    @classmethod
    def deploy(cls, node: Anvil) -> Tickets:
        """Put it on the chain."""
        return cls(node, *deployed(node, "Tickets"))

    def allocation(self, winner: str = WINNER, event_id: int = 7, seat: str = "A1", count: int = 1) -> dict[str, Any]:
        """Give a transaction that allocates tickets."""
        data = calldata("allocate(address,uint64,string,uint256)", winner, event_id, seat, count)
        return {"from": OPERATOR, "to": self.address, "data": data, "gas": hex(2_000_000)}

    def allocate(self, **what: Any) -> str:
        """Allocate tickets in a block of their own; give the transaction's hash."""
        return self.node.send(**self.allocation(**what))


def deployed(node: Anvil, contract: str) -> tuple[str, int]:
    """Put a contract on the chain; gives its address and its block."""
    receipt = node.call("eth_getTransactionReceipt", node.send(data="0x" + compiled(contract)["bytecode"]))
    return receipt["contractAddress"], int(receipt["blockNumber"], 16)


def calldata(signature: str, *values: Any) -> str:
    """Give the data of a transaction that calls a function of a contract."""
    types = signature.partition("(")[2].rstrip(")").split(",")
    return "0x" + (keccak(text=signature)[:4] + encode(types, values)).hex()


@cache
def compiled(contract: str = "Tickets") -> dict[str, Any]:
    """Give a contract's ``abi`` and ``bytecode``. It is compiled once for each text of its source."""
    source = (CONTRACTS / f"{contract}.sol").read_text("utf-8")
    settings = {"evmVersion": "cancun", "optimizer": {"enabled": True}}
    settings["outputSelection"] = {"*": {"*": ["abi", "evm.bytecode.object"]}}
    asked = {"language": "Solidity", "sources": {f"{contract}.sol": {"content": source}}, "settings": settings}
    text = json.dumps(asked)
    kept = TOOLS / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not kept.exists():
        compiler = [TOOLS / "node_modules" / ".bin" / "solcjs", "--standard-json"]
        said = subprocess.run(compiler, input=text, capture_output=True, text=True, check=True, timeout=60).stdout
        answer = json.loads(said[said.index("{") :])
        assert not answer.get("errors"), answer["errors"]
        found = answer["contracts"][f"{contract}.sol"][contract]
        # Other processes of tests may be at it as well.
        mine = kept.with_suffix(f".{free_port()}")
        mine.write_text(json.dumps({"abi": found["abi"], "bytecode": found["evm"]["bytecode"]["object"]}))
        mine.replace(kept)
    made: dict[str, Any] = json.loads(kept.read_text())
    return made
