# SPDX-License-Identifier: Apache-2.0
"""Loading of the model that the parameters select."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from segmentation_node.errors import printable
from segmentation_node.ros.parameters import Parameters
from segmentation_node.runtimes.activity import doing

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter


def load_model(
    values: Parameters, image_sizes_hw: Collection[tuple[int, int]] = ()
) -> 'Segmenter':
    """Return a segmenter, prepared for images of some sizes and of `values.image_size`.

    Raises SegmentationError.
    """
    with doing(f'loading {printable(values.model)}'):
        # Imported with the first model: the node responds and can be stopped while torch loads.
        from segmentation_node.segmenter import Segmenter

        segmenter = Segmenter(
            values.model,
            runtime=values.runtime,
            device=values.device,
            precision=values.precision,
            input_size=values.input_size_hw,
            label_scheme=values.label_scheme or None,
            min_confidence=values.min_confidence,
            thresholds=values.thresholds,
            measure_aside=True,
        )
        for image_hw in {*image_sizes_hw, values.image_size_hw}:
            if image_hw is not None:
                segmenter.prepare(image_hw)
        return segmenter
