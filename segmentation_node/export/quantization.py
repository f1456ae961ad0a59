# SPDX-License-Identifier: Apache-2.0
"""Int8 by NNCF: ranges of activations measured on images of the user's, no training."""

import logging
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import openvino  # type: ignore[import-untyped]

from segmentation_node.errors import SettingError
from segmentation_node.image_files import ImageRgb
from segmentation_node.runtimes.openvino_runtime import SCORES
from segmentation_node.runtimes.unreported import unreported

#: From the labels of an image and what a graph found to the share that agrees.
Judge = Callable[[int, Any], float]


def quantize(model: Any, images: Sequence[ImageRgb], *, transformer: bool) -> Any:
    """Quantize a graph, all that computes scores in it.

    Args:
        model: openvino.Model of the pixels-in labels-out graph; stays as it is.
        images: (H, W, 3) uint8 RGB to calibrate on.
        transformer: whether most of it is attention.
    """
    with unreported():
        nncf = _nncf()
        return nncf.quantize(
            model.clone(),
            nncf.Dataset(images, _batch),
            subset_size=len(images),
            **_settings(nncf, model, transformer),
        )


def quantize_carefully(
    model: Any,
    images: Sequence[ImageRgb],
    judged: Sequence[int],
    judge: Judge,
    max_drop: float,
    *,
    transformer: bool,
) -> Any:
    """Quantize, and keep those layers in higher precision that cost the most agreement.

    Args:
        model: as for `quantize`.
        images: as for `quantize`.
        judged: indices of the images that labels are compared on.
        judge: tells the share of labels that agree.
        max_drop: share of labels that may differ.
        transformer: as for `quantize`.
    """

    def validate(compiled: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        shares = [judge(index, compiled(_batch(images[index]))) for index in items]
        return float(np.mean(shares)), shares

    with unreported():
        nncf = _nncf()
        return nncf.quantize_with_accuracy_control(
            model.clone(),
            nncf.Dataset(images, _batch),
            nncf.Dataset(judged),
            validate,
            max_drop=max_drop,
            subset_size=len(images),
            **_settings(nncf, model, transformer),
        )


def _nncf() -> Any:
    # It loads a part of torch that speaks of a GPU that is not there.
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)
    try:
        nncf: Any = import_module('nncf')
    except ModuleNotFoundError as error:
        raise SettingError(
            f'int8 needs the package {error.name}, which is not installed; install it (pip '
            f'install nncf), or say another precision'
        ) from error
    nncf.set_log_level(logging.WARNING)
    return nncf


def _settings(nncf: Any, model: Any, transformer: bool) -> dict[str, Any]:
    """What is the same with and without care; the decision is left as it is."""
    scores = openvino.Model([model.output(SCORES)], model.get_parameters(), SCORES)
    network = {op.get_friendly_name() for op in scores.get_ops()}
    decision = [
        op.get_friendly_name()
        for op in model.get_ops()
        if op.get_friendly_name() not in network and op.get_type_name() != 'Result'
    ]
    return {
        'target_device': nncf.TargetDevice.CPU,
        'preset': nncf.QuantizationPreset.MIXED,
        'model_type': nncf.ModelType.TRANSFORMER if transformer else None,
        'ignored_scope': nncf.IgnoredScope(names=decision, validate=False),
    }


def _batch(image: ImageRgb) -> ImageRgb:
    return image[None]
