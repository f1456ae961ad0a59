# SPDX-License-Identifier: Apache-2.0
"""Outputs of a segmented image: their topics, encodings and compression."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.images.encodings import compressed_format, encode_jpeg, encode_png
from segmentation_node.images.rendering import Detection, Rendered

#: Forms of messages.
IMAGE: Final = 'image'
COMPRESSED: Final = 'compressed'
DETECTIONS: Final = 'detections'


@dataclass(frozen=True)
class Output:
    """One picture of a segmented image, or its detections.

    `render` returns (H, W) uint8 or uint16, (H, W, 3) uint8, or detections, which have no
    `encoding`. `encode` compresses a picture with `codec`; it is None for an output that is not
    compressed.
    """

    topic: str
    encoding: str
    render: Callable[[Rendered], Any]
    codec: str = ''
    encode: Callable[[Any], bytes] | None = None

    @property
    def needs_instances(self) -> bool:
        """True if the output is available only for models that have instances."""
        return self.topic in topics.OF_INSTANCES

    @property
    def form(self) -> str:
        """Form of the message: IMAGE, COMPRESSED or DETECTIONS."""
        if not self.encoding:
            return DETECTIONS
        return COMPRESSED if self.encode else IMAGE

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


def _instance_mask(rendered: Rendered) -> UInt16Array:
    return rendered.instance_mask


def _detections(rendered: Rendered) -> list[Detection]:
    return rendered.detections


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
            Output(topics.INSTANCE_MASK, '16UC1', _instance_mask),
            Output(topics.INSTANCE_MASK, '16UC1', _instance_mask, 'png', encode_png),
            Output(topics.DETECTIONS, '', _detections),
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
