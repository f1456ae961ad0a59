# SPDX-License-Identifier: Apache-2.0
"""Calibration of the confidence by a temperature, which leaves the labels unchanged."""

from typing import Final

import numpy as np

from segmentation_node.arrays import Float64Array, UInt8Array

#: Smallest and largest temperature of a checkpoint; 1 changes nothing.
TEMPERATURES: Final = (0.05, 20.0)


def calibrated(temperature: float) -> Float64Array:
    """Return the calibrated probability for each of the 256 byte values of a class score.

    Dividing logits by a temperature before the softmax (Guo et al., "On Calibration of Modern
    Neural Networks", ICML 2017) would change labels, because probabilities are interpolated after
    it, and Mask2Former has no logits per class. Here the log-odds of the best class score are
    divided, once the class is chosen. With two classes both are the same.

    Args:
        temperature: above 1 for a model that is too sure, below 1 for one that is too unsure.

    Returns:
        (256,) float64, increasing. The ends stand for scores of a quarter of a step from 0 and 1,
        since the log-odds of certainty are infinite.
    """
    scores = np.clip(np.arange(256), 0.25, 254.75) / 255
    odds: Float64Array = np.log(scores / (1 - scores))
    return 1 / (1 + np.exp(-odds / temperature))


def confidence_table(temperature: float) -> UInt8Array:
    """Return the published confidence for each byte value of a class score, (256,) uint8."""
    return np.rint(calibrated(temperature) * 255).astype(np.uint8)
