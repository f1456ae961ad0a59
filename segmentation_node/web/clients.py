# SPDX-License-Identifier: Apache-2.0
"""Fairness between clients: an address gets a share of the slots, and slow holders are evicted."""

import ipaddress
from collections import defaultdict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from starlette.types import Scope

T = TypeVar('T')
#: Prefix length of the IPv6 network that a provider assigns to one customer.
IPV6_PREFIX: Final = 64


def client_key(host: str | None) -> str:
    """Return the key of a client: its IPv4 address, or the network of its IPv6 address."""
    try:
        address = ipaddress.ip_address(host or '')
    except ValueError:  # a Unix socket, or a name from a proxy
        return host or ''
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))


def scope_client(scope: Scope) -> str:
    """Return the key of the client of an ASGI request."""
    host, _port = scope.get('client') or ('', 0)
    return client_key(host)


def share_of(total: int, share: float) -> int:
    """Return the number of slots that one client may hold, at least one."""
    return max(1, int(total * share))


class ClientSlots(Generic[T]):
    """A fixed number of slots, of which one client may hold only a share.

    Args:
        total: number of slots.
        share: share of them that one client may hold, 0 to 1.
    """

    def __init__(self, total: int, share: float) -> None:
        self.total = total
        self.per_client = share_of(total, share)
        self._holders: dict[str, set[T]] = defaultdict(set)
        self.held = 0

    def take(
        self, client: str, holder: T, slowness: Callable[[T], float | None]
    ) -> tuple[bool, T | None]:
        """Take a slot; return whether one was available, and the holder evicted for it.

        If all slots are taken, the slowest holder of the client with the most slots is evicted.
        If the client already has its share, the slowest of its own holders is.

        Args:
            client: key of the client.
            holder: takes the slot.
            slowness: slowness of a holder, higher is slower; None if it must not be evicted.
        """
        evicted = None
        count = len(self._holders.get(client, ()))
        if count >= self.per_client or self.held >= self.total:
            candidates = [
                (len(holders), slow, key, other)
                for key, holders in self._holders.items()
                if key == client or count < min(len(holders), self.per_client)
                for other in holders
                if (slow := slowness(other)) is not None
            ]
            if not candidates:
                return False, None
            _, _, key, evicted = max(candidates, key=lambda c: c[:2])
            self.release(key, evicted)
        self._holders[client].add(holder)
        self.held += 1
        return True, evicted

    def release(self, client: str, holder: T) -> None:
        """Free a slot; does nothing if the holder was evicted."""
        holders = self._holders.get(client, set())
        if holder in holders:
            holders.remove(holder)
            self.held -= 1
            if not holders:
                del self._holders[client]
