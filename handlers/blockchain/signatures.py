"""Events as Solidity writes them: ``TicketAllocated(address indexed winner, uint256 tokenId)``."""

from __future__ import annotations

import re
from typing import Any

#: Events that are known without being set: those of ERC-20 and of ERC-721, which differ in what is indexed.
STANDARD = (
    "Transfer(address indexed from, address indexed to, uint256 indexed tokenId)",
    "Transfer(address indexed from, address indexed to, uint256 value)",
    "Approval(address indexed owner, address indexed approved, uint256 indexed tokenId)",
    "Approval(address indexed owner, address indexed spender, uint256 value)",
)
_EVENT = re.compile(r"\s*(?:event\s+)?([A-Za-z_$][\w$]*)\s*\(([^()]*)\)\s*;?\s*")
_INPUT = re.compile(r"\s*([a-z]+\d*(?:\[\d*\])*)(\s+indexed)?(?:\s+([A-Za-z_$][\w$]*))?\s*")
_TYPE = re.compile(r"(address|bool|string|bytes([1-9]|[12]\d|3[0-2])?|u?int(8|[1-9]\d{1,2})?)(\[\d*\])*")


def event_abi(text: str) -> dict[str, Any]:
    """Give an event's ABI.

    Raises:
        ValueError: for anything that is no event of plain types; structs are not read.
    """
    event = _EVENT.fullmatch(text)
    inputs = [_INPUT.fullmatch(part) for part in event[2].split(",")] if event and event[2].strip() else []
    if event is None or None in inputs:
        raise ValueError("write an event as Solidity does: TicketAllocated(address indexed winner, uint256 tokenId)")
    made = []
    for number, found in enumerate(inputs):
        assert found is not None
        typed = _TYPE.fullmatch(found[1])
        if typed is None or int(typed[3] or 8) not in range(8, 257, 8):
            raise ValueError(f"{event[1]}: {found[1]} is no type of an event here")
        # uint is short for uint256, and the topic is made of the long name.
        kind = re.sub(r"^(u?int)(?=\[|$)", r"\g<1>256", found[1])
        made.append({"name": found[3] or f"arg{number}", "type": kind, "indexed": found[2] is not None})
    if len({each["name"] for each in made}) < len(made):
        raise ValueError(f"{event[1]}: two parameters have one name")
    if sum(bool(each["indexed"]) for each in made) > 3:
        raise ValueError(f"{event[1]}: at most three parameters are indexed")
    return {"type": "event", "name": event[1], "anonymous": False, "inputs": made}


def checked(text: str) -> str:
    """Give an event back that can be read.

    Raises:
        ValueError: see `event_abi`.
    """
    event_abi(text)
    return " ".join(text.split())


def known(name: str, signatures: tuple[str, ...]) -> list[dict[str, Any]]:
    """Give the ABI of every event of this name."""
    return [abi for abi in map(event_abi, (*signatures, *STANDARD)) if abi["name"] == name]
