# SPDX-License-Identifier: Apache-2.0
"""The pictures made of a segmented image: their topics, encodings and how they are compressed."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from segmentation_node import topics
from segmentation_node.images.encodings import compressed_format, encode_jpeg, encode_png
from segmentation_node.images.rendering import Rendered


@dataclass(frozen=True)
class Output:
    """One picture of a segmented image.

    `render` returns it as (H, W) or (H, W, 3) uint8; `encode`, where the picture is published
    compressed, compresses it with `codec`.
    """

    topic: str
    encoding: str
    render: Callable[[Rendered], npt.NDArray[np.uint8]]
    codec: str = ''
    encode: Callable[[npt.NDArray[np.uint8]], bytes] | None = None

    @property
    def name(self) -> str:
        """Topic with the suffix that says it is compressed."""
        return self.topic + (topics.COMPRESSED_SUFFIX if self.encode else '')

    @property
    def format(self) -> str:
        """The `format` of the compressed picture."""
        return compressed_format(self.encoding, self.codec)


def _label_mask(rendered: Rendered) -> npt.NDArray[np.uint8]:
    return rendered.label_mask


def _color_mask(rendered: Rendered) -> npt.NDArray[np.uint8]:
    return rendered.color_mask


def _overlay(rendered: Rendered) -> npt.NDArray[np.uint8]:
    return rendered.overlay


def _confidence(rendered: Rendered) -> npt.NDArray[np.uint8]:
    return rendered.confidence


#: Labels and colors are compressed as PNG, because JPEG would alter classes.
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
