# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization to int8 by NNCF, with activation ranges measured on images."""

import logging
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from segmentation_node.arrays import Float32Array
from segmentation_node.errors import SettingError
from segmentation_node.runtimes.openvino_telemetry import without_telemetry

Pixels = Float32Array
#: Returns the share of equal labels for an image index and the outputs of the graph.
Share = Callable[[int, Sequence[Any]], float]


def quantize(model: Any, pixels: Sequence[Pixels], *, transformer: bool) -> Any:
    """Quantize a network.

    Args:
        model: openvino.Model from normalized pixels to class scores; not modified.
        pixels: network inputs to calibrate on, (1, 3, H, W) float32 each, all of one size.
        transformer: the network consists mostly of attention layers.
    """
    with without_telemetry():
        nncf = _nncf()
        fixed = _of_size(model, pixels[0].shape[2:])
        quantized = nncf.quantize(
            fixed, nncf.Dataset(pixels), subset_size=len(pixels), **_settings(nncf, transformer)
        )
    return _of_size(quantized, (-1, -1))


def quantize_carefully(
    model: Any,
    pixels: Sequence[Pixels],
    judged: Sequence[Pixels],
    share: Share,
    max_drop: float,
    *,
    transformer: bool,
) -> Any:
    """Quantize, but keep the layers that reduce agreement the most in higher precision.

    Args:
        model: as for `quantize`.
        pixels: as for `quantize`.
        judged: network inputs of the same size, to compare labels on.
        share: function that returns the share of equal labels.
        max_drop: maximum share of labels that may differ.
        transformer: as for `quantize`.
    """

    def validate(compiled: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        shares = [share(index, list(compiled(judged[index]).values())) for index in items]
        return float(np.mean(shares)), shares

    with without_telemetry():
        nncf = _nncf()
        quantized = nncf.quantize_with_accuracy_control(
            _of_size(model, pixels[0].shape[2:]),
            nncf.Dataset(pixels),
            nncf.Dataset(range(len(judged))),
            validate,
            max_drop=max_drop,
            subset_size=len(pixels),
            **_settings(nncf, transformer),
        )
    return _of_size(quantized, (-1, -1))


def _of_size(model: Any, size_hw: Sequence[int]) -> Any:
    """Copy a model for images of one size, or of any size (-1, -1).

    NNCF cannot run Mask2Former with dynamic sizes.
    """
    copy = model.clone()
    copy.reshape({copy.input(0): [1, 3, *size_hw]})
    return copy


def _nncf() -> Any:
    # nncf loads a module of torch that warns about a missing GPU.
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)
    try:
        nncf: Any = import_module('nncf')
    except ModuleNotFoundError as error:
        raise SettingError(
            f'int8 requires the package {error.name}, which is not installed; install it (pip '
            f'install nncf), or use --precision fp32'
        ) from error
    nncf.set_log_level(logging.WARNING)
    return nncf


def _settings(nncf: Any, transformer: bool) -> dict[str, Any]:
    return {
        'target_device': nncf.TargetDevice.CPU,
        'preset': nncf.QuantizationPreset.MIXED,
        'model_type': nncf.ModelType.TRANSFORMER if transformer else None,
    }
