# SPDX-License-Identifier: Apache-2.0
"""Outputs of a segmented image: their topics, encodings and compression."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.images.encodings import compressed_format, encode_jpeg, encode_png
from segmentation_node.images.rendering import Rendered


@dataclass(frozen=True)
class Output:
    """One picture of a segmented image.

    `render` returns (H, W) or (H, W, 3) uint8. `encode` compresses that with `codec`; it is None
    for an output that is not compressed.
    """

    topic: str
    encoding: str
    render: Callable[[Rendered], UInt8Array]
    codec: str = ''
    encode: Callable[[UInt8Array], bytes] | None = None

    @property
    def name(self) -> str:
        """Topic, with a suffix if the output is compressed."""
        return self.topic + (topics.COMPRESSED_SUFFIX if self.encode else '')

    @property
    def format(self) -> str:
        """The `format` field of a CompressedImage."""
        return compressed_format(self.encoding, self.codec)


def _label_mask(rendered: Rendered) -> UInt8Array:
    return rendered.label_mask


def _color_mask(rendered: Rendered) -> UInt8Array:
    return rendered.color_mask


def _overlay(rendered: Rendered) -> UInt8Array:
    return rendered.overlay


def _confidence(rendered: Rendered) -> UInt8Array:
    return rendered.confidence


#: Labels and colors are compressed as PNG, because JPEG would change classes.
OUTPUTS: Final = MappingProxyType(
    {
        output.name: output
        for output in (
            Output(topics.LABEL_MASK, 'mono8', _label_mask),
            Output(topics.COLOR_MASK, 'rgb8', _color_mask),
            Output(topics.OVERLAY, 'rgb8', _overlay),
            Output(topics.CONFIDENCE, 'mono8', _confidence),
            Output(topics.LABEL_MASK, 'mono8', _label_mask, 'png', encode_png),
            Output(topics.COLOR_MASK, 'rgb8', _color_mask, 'png', encode_png),
            Output(topics.OVERLAY, 'rgb8', _overlay, 'jpeg', encode_jpeg),
        )
    }
)


class ShutDown(Exception):  # noqa: N818 (an expected end, not an error)
    """The middleware was shut down: publishing is no longer possible."""


class OutputPublisher(Protocol):
    """Publisher of the outputs of one camera; every method may raise ShutDown."""

    def wanted(self) -> list[Output]:
        """Return the outputs that have a subscriber now."""
        ...

    def canvas(self, topic: str, size_hw: tuple[int, int]) -> UInt8Array:
        """Return memory to paint the picture of a topic in; valid until the next image."""
        ...

    def publish(self, outputs: list[Output], rendered: Rendered, header: Any) -> None:
        """Publish outputs of one image with the header of its camera message."""
        ...
