# SPDX-License-Identifier: Apache-2.0
"""Base class of runtimes that compile a graph file for each image size."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import cv2
import numpy as np

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.checkpoint import Checkpoint
from segmentation_node.instances import DEFAULT_THRESHOLDS, Thresholds
from segmentation_node.networks.postprocessing import Segmentation
from segmentation_node.networks.preprocessing import Geometry
from segmentation_node.runtimes.activity import doing
from segmentation_node.runtimes.memory import check_memory
from segmentation_node.runtimes.recent import Recent

#: Runs a compiled graph on the padded image, (1, H, W, 3) uint8 RGB, and returns its outputs for
#: the image, float32, in memory that the next run may overwrite.
Forward: TypeAlias = Callable[[UInt8Array], Sequence[Float32Array]]

#: Total pixels of the most recently used image sizes that stay compiled, such as four sizes of
#: 1024 x 512; smaller sizes count as the minimum. Each compiled size keeps its layers in memory.
_COMPILED_PIXELS: Final = 2**21
_MIN_PIXELS: Final = 2**19

_log = logging.getLogger(__name__)


class GraphRuntime(ABC):
    """Runs a graph file of a checkpoint, compiled for each image size.

    The images of a batch run one by one: on a CPU, batches are no faster, and this way the labels
    never depend on the other images of a batch.
    """

    name: str
    device: str
    precision: str

    def __init__(self, checkpoint: Checkpoint, input_size: tuple[int, int] | None) -> None:
        self._checkpoint = checkpoint
        self._preprocessing = checkpoint.preprocessing(input_size)
        self._decode = checkpoint.decoder
        self._compiled: Recent[tuple[int, int], tuple[Geometry, Forward]] = Recent(
            _COMPILED_PIXELS, lambda image_hw: max(_MIN_PIXELS, math.prod(image_hw))
        )

    @abstractmethod
    def _compile(self, geometry: Geometry) -> Forward:
        """Return a function that runs the graph on images of one size."""

    def run(
        self, images_rgb: UInt8Array, thresholds: Thresholds = DEFAULT_THRESHOLDS
    ) -> list[Segmentation]:
        geometry, forward = self._compiled_for(images_rgb)
        return [
            self._decode(forward(_padded(image, geometry)), geometry, thresholds)
            for image in images_rgb
        ]

    def forward(self, images_rgb: UInt8Array) -> None:
        geometry, forward = self._compiled_for(images_rgb)
        for image in images_rgb:
            forward(_padded(image, geometry))

    def _compiled_for(self, images_rgb: UInt8Array) -> tuple[Geometry, Forward]:
        """Return the geometry and the compiled graph for the size of some images."""
        image_hw = images_rgb.shape[1], images_rgb.shape[2]

        def compile_graph() -> tuple[Geometry, Forward]:
            geometry = Geometry.fit(image_hw, self._preprocessing.size_hw)
            geometry.check()
            check_memory(geometry.network_hw, self._checkpoint.bytes_per_pixel)
            with doing(f'compiling {self._checkpoint.name} for {image_hw[1]} x {image_hw[0]}'):
                forward = self._compile(geometry)
            _log.info(
                '%s: %s %s is ready for images of %d x %d', self._checkpoint.name, self.name,
                self.precision, image_hw[1], image_hw[0],
            )  # fmt: skip
            return geometry, forward

        return self._compiled.get(image_hw, compile_graph)


def of_single_image(outputs: Iterable[Any]) -> list[Float32Array]:
    """Return the outputs of a graph for its single image."""
    return [np.asarray(output[0], np.float32) for output in outputs]


def _padded(image_rgb: UInt8Array, geometry: Geometry) -> Any:
    """Pad (H, W, 3) to (1, H, W, 3) by repeating edge pixels, as the torch graph does."""
    (height, width), (padded_height, padded_width) = geometry.image_hw, geometry.padded_hw
    if geometry.padded_hw != geometry.image_hw:
        below, right = padded_height - height, padded_width - width
        padded = cv2.copyMakeBorder(image_rgb, 0, below, 0, right, cv2.BORDER_REPLICATE)
        image_rgb = np.asarray(padded, np.uint8)
    return image_rgb[None]
