# SPDX-License-Identifier: Apache-2.0
"""Parts of a bag: spans of time that workers segment on their own."""

import math
from typing import Final, NamedTuple

from segmentation_node.bags.topic import ALL, Span

#: A damaged bag may claim any duration.
MAX_PARTS: Final = 1000


class BagPlan(NamedTuple):
    """Camera topic, its number of messages, the number of all messages, and the parts."""

    camera: str
    frames: int
    messages: int
    spans: tuple[Span, ...]


def cut(time_range_ns: tuple[int, int] | None, part_s: float) -> tuple[Span, ...]:
    """Cut a bag into parts of equal duration.

    Args:
        time_range_ns: first and last stamp; None for a bag that cannot be cut.
        part_s: longest duration of a part in seconds; 0 leaves the bag whole.

    Returns:
        Spans, which together include every stamp once.
    """
    if time_range_ns is None or not part_s:
        return (ALL,)
    start_ns, end_ns = time_range_ns
    duration_ns = end_ns - start_ns + 1
    count = min(max(math.ceil(duration_ns / (part_s * 1e9)), 1), MAX_PARTS)
    inner = [start_ns + index * duration_ns // count for index in range(1, count)]
    edges = [ALL.start_ns, *inner, ALL.end_ns]
    return tuple(map(Span, edges, edges[1:]))
