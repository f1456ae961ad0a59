# SPDX-License-Identifier: Apache-2.0
"""Separate ROS domain, so that other nodes on this machine do not interfere."""

import os
import socket
from collections.abc import Sequence
from typing import Final

from segmentation_node.processes import DemoError

#: Domains whose ports are below the range that Linux uses for outgoing connections.
DOMAINS: Final[Sequence[int]] = range(1, 101)


def unused_domain() -> int:
    """Return a ROS_DOMAIN_ID that is unused on this machine; raises DemoError if there is none."""
    start = os.getpid() % len(DOMAINS)
    for domain_id in (*DOMAINS[start:], *DOMAINS[:start]):
        if not _is_used(domain_id):
            return domain_id
    raise DemoError(
        f'all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use; stop some ROS programs, '
        f'or share a domain with --domain-id'
    )


def environment_of(domain_id: int) -> dict[str, str]:
    """Return environment variables that put processes in a domain limited to this machine."""
    return {
        'ROS_DOMAIN_ID': str(domain_id),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }


def _is_used(domain_id: int) -> bool:
    # The first participant of a domain listens here (DDSI-RTPS 2.3, 9.6.1.1).
    port = 7400 + 250 * domain_id + 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', port))
        except OSError:
            return True
    return False
