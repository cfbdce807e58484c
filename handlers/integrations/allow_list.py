"""Which addresses a URL that came in a job may lead to: public ones, and those an operator allows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")

#: Not the public internet, by the registries of special addresses (RFC 6890 and later), and one cloud's metadata server
#: that has a public number. The others' (169.254.169.254, fd00:ec2::254, 100.100.100.200, 192.0.0.192) are in here.
_NOT_PUBLIC_4 = [
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    )
]
#: Of IPv6 this much is given to networks at all; of it these are special: protocols and tunnels (Teredo among them),
#: examples, 6to4.
_GIVEN_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
#: An IPv4 address in the last 32 bits: mapped, and as a network with NAT64 writes it.
_MAPPED, _NAT64 = IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


def meant(address: Address) -> Address:
    """Give the address that is really reached: that of an IPv4 host where it is written as an IPv6 address."""
    if isinstance(address, IPv6Address) and (address in _MAPPED or address in _NAT64):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet."""
    address = meant(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _GIVEN_6 and not any(address in network for network in _NOT_PUBLIC_6)


def checked_entry(entry: str) -> str:
    """Give an entry of the allow-list back: a host's name, an address or a network.

    Raises:
        ValueError: for anything else.
    """
    try:
        ip_network(entry)
    except ValueError:
        if "/" in entry or ":" in entry or not _HOST.fullmatch(entry):
            raise ValueError(
                f"{entry!r} is no host, address or network: write hooks.internal, 10.1.2.3 or 10.1.0.0/16"
            ) from None
    return entry


class AllowList:
    """What an operator allows beyond the public internet.

    Args:
        entries: as `checked_entry` takes them. A name stands for all its addresses.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._hosts: set[str] = set()
        for entry in entries:
            try:
                self._networks.append(ip_network(entry))
            except ValueError:
                self._hosts.add(_bare(entry))

    def allows(self, host: str, address: str) -> bool:
        """Tell whether a host may be reached at an address it resolved to; text that is no address is refused."""
        try:
            found = ip_address(address)
        except ValueError:
            return False
        if is_public(found) or _bare(host) in self._hosts:
            return True
        return any(meant(found) in network or found in network for network in self._networks)


def _bare(host: str) -> str:
    return host.lower().rstrip(".")
