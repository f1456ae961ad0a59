# SPDX-License-Identifier: Apache-2.0
"""Fairness between clients: one address never holds all places, and slow holders make room."""

import ipaddress
from collections import defaultdict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from starlette.types import Scope

T = TypeVar('T')
#: Providers give a customer a whole network of IPv6 addresses of this prefix length.
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


def share_of(places: int, share: float) -> int:
    """Return how many of all places one client may hold, at least one."""
    return max(1, int(places * share))


class Places(Generic[T]):
    """A limited number of places, of which one client may hold only a share.

    Args:
        total: places.
        share: of them that one client may hold, 0 to 1.
    """

    def __init__(self, total: int, share: float) -> None:
        self.total = total
        self.per_client = share_of(total, share)
        self._holders: dict[str, set[T]] = defaultdict(set)
        self.held = 0

    def take(
        self, client: str, holder: T, slowness: Callable[[T], float | None]
    ) -> tuple[bool, T | None]:
        """Take a place; return whether there was one, and the holder that lost its place for it.

        Where all places are taken, the slowest holder of the client with the most places makes
        room. Where the client has its share, the slowest of its own does.

        Args:
            client: key of the client.
            holder: takes the place.
            slowness: of a holder, higher is slower; None where it must keep its place.
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
        """Give a place back; does nothing where the holder has lost it."""
        holders = self._holders.get(client, set())
        if holder in holders:
            holders.remove(holder)
            self.held -= 1
            if not holders:
                del self._holders[client]
