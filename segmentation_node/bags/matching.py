# SPDX-License-Identifier: Apache-2.0
"""Messages of several topics, perhaps of several bags, brought together by their header stamps."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segmentation_node.bags import messages
from segmentation_node.bags.reader import Bag
from segmentation_node.errors import BagError, ImageError

Pixels: TypeAlias = npt.NDArray[np.uint8]


def stamps_ns(bag: Bag, topic: str) -> list[int]:
    """Header stamps of a topic in order."""
    return [messages.stamp_ns_of(message) for message in _images(bag, topic)]


def decoded(
    bag: Bag, topic: str, wanted: Collection[int], decode: Callable[[Any], Pixels]
) -> Iterator[tuple[int, Pixels]]:
    """Stamp and pixels of the wanted stamps of an image topic, each once.

    Raises:
        BagError: a message cannot be decoded; names its stamp.
    """
    left = set(wanted)
    for message in _images(bag, topic):
        stamp_ns = messages.stamp_ns_of(message)
        if stamp_ns in left:
            left.remove(stamp_ns)
            try:
                yield stamp_ns, decode(message)
            except ImageError as error:
                raise BagError(f'{topic} of {bag.path} at {stamp_ns} ns: {error}') from error


def _images(bag: Bag, topic: str) -> Iterator[Any]:
    """Messages of an image topic; raises BagError where some under its name are no images."""
    for raw in bag.messages({topic}):
        if raw.topic.msgtype not in messages.DECODERS:
            raise BagError(
                f'topic {raw.topic.shown} of {bag.path} has messages of type '
                f'{raw.topic.shown_type}, expected {" or ".join(messages.DECODERS)} only: record '
                f'the others under another name'
            )
        yield messages.deserialize(raw)


def by_stamp(
    *streams: Iterator[tuple[int, Pixels]],
) -> Iterator[tuple[int, tuple[Pixels, ...]]]:
    """Stamp and pixels of all streams, which have the same stamps, each once.

    All come about in the order of time, so that only few wait for their partners at any time.
    """
    waiting: list[dict[int, Pixels]] = [{} for _ in streams]
    for items in zip(*streams, strict=True):
        for there, (stamp_ns, pixels) in zip(waiting, items, strict=True):
            there[stamp_ns] = pixels
        for stamp_ns in dict.fromkeys(stamp_ns for stamp_ns, _ in items):
            if all(stamp_ns in there for there in waiting):
                yield stamp_ns, tuple(there.pop(stamp_ns) for there in waiting)
