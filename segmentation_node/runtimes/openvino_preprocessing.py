# SPDX-License-Identifier: Apache-2.0
"""Preprocessing as part of an OpenVINO model, from image pixels to the network's input."""

from typing import Any

import numpy as np
import openvino  # type: ignore[import-untyped]
from openvino import opset13 as ops
from openvino.preprocess import PrePostProcessor  # type: ignore[import-untyped]
from openvino.utils.decorators import (  # type: ignore[import-untyped]
    custom_preprocess_function,
)

from segmentation_node.arrays import Float32Array
from segmentation_node.networks.preprocessing import Geometry, Preprocessing


def with_preprocessing(model: Any, geometry: Geometry, preprocessing: Preprocessing) -> Any:
    """Add preprocessing to a model, so that its input is the padded image.

    Args:
        model: openvino.Model with input (1, 3, h, w) float32 of size `geometry.network_hw`.
        geometry: padding and scaling of the image.
        preprocessing: mean and standard deviation.

    Returns:
        openvino.Model with input (1, H, W, 3) uint8 RGB of size `geometry.padded_hw`.
    """
    processor = PrePostProcessor(model)
    pixels = processor.input()
    pixels.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout('NHWC'))
    pixels.tensor().set_shape([1, *geometry.padded_hw, 3])
    pixels.model().set_layout(openvino.Layout('NCHW'))
    steps = pixels.preprocess()
    steps.convert_element_type(openvino.Type.f32).convert_layout(openvino.Layout('NCHW'))
    if geometry.network_hw != geometry.padded_hw:
        steps.custom(_resize_step(geometry))
    steps.mean([255 * value for value in preprocessing.mean])
    steps.scale([255 * value for value in preprocessing.std])
    return processor.build()


def _resize_step(geometry: Geometry) -> Any:
    """Return a preprocessing step that resizes by two matrix products.

    OpenVINO's antialiased resize (2026.4) takes seconds to compile, and twice as long to run.
    """
    rows, columns = (
        ops.constant(resize_matrix(padded, network)[None, None])
        for padded, network in zip(geometry.padded_hw, geometry.network_hw, strict=True)
    )

    @custom_preprocess_function  # type: ignore[untyped-decorator]
    def resize(pixels: openvino.Output) -> Any:
        lower = ops.matmul(rows, pixels, False, False)
        return ops.matmul(lower, columns, False, True)

    return resize


def resize_matrix(padded: int, network: int) -> Float32Array:
    """Return the weight of each pixel of a padded row for each pixel of a network input row.

    The interpolation is bilinear and antialiased: when the image is scaled down, the triangle
    filter widens accordingly, as in torch.nn.functional.interpolate(antialias=True).

    Returns:
        (network, padded) float32; each row sums to 1.
    """
    scale = padded / network
    centers = (np.arange(network) + 0.5) * scale
    distances = np.abs(np.arange(padded) + 0.5 - centers[:, None]) / max(scale, 1.0)
    weights = np.maximum(1 - distances, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights, np.float32)
