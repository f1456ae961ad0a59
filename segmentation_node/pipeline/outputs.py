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
    """One picture of a segmented image; `topic` is its attribute in Rendered, too."""

    topic: str
    encoding: str
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

    def pixels(self, rendered: Rendered) -> npt.NDArray[np.uint8]:
        """The picture, (H, W) or (H, W, 3) uint8."""
        picture: npt.NDArray[np.uint8] = getattr(rendered, self.topic)
        return picture


#: Labels and colours as PNG, since JPEG would make classes up.
OUTPUTS: Final = MappingProxyType(
    {
        output.name: output
        for output in (
            Output(topics.LABEL_MASK, 'mono8'),
            Output(topics.COLOR_MASK, 'rgb8'),
            Output(topics.OVERLAY, 'rgb8'),
            Output(topics.CONFIDENCE, 'mono8'),
            Output(topics.LABEL_MASK, 'mono8', 'png', encode_png),
            Output(topics.COLOR_MASK, 'rgb8', 'png', encode_png),
            Output(topics.OVERLAY, 'rgb8', 'jpeg', encode_jpeg),
        )
    }
)
