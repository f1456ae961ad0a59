# SPDX-License-Identifier: Apache-2.0
"""Conversion of a PyTorch network to a graph for images of any size."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from segmentation_node.networks.network import Network
from segmentation_node.runtimes.openvino_telemetry import without_telemetry

INPUT: Final = 'pixels'
OUTPUTS: Final = ('class_scores', 'features')
_MODE: Final = 'coordinate_transformation_mode'
#: Height and width for tracing. They are not multiples of Swin's window size, so that window
#: padding becomes part of the trace.
_TRACED_HW: Final = (288, 416)


def to_openvino(network: Network) -> Any:
    """Convert a network into an openvino.Model with dynamic height and width."""
    import openvino  # type: ignore[import-untyped]

    with _quiet(), without_telemetry(), torch.inference_mode():
        model = openvino.convert_model(
            _WithFeatures(network), example_input=_example(), input=[(1, 3, -1, -1)]
        )
    for operation in model.get_ops():
        # The converter's mode differs from PyTorch's for maps of a single row or column.
        if operation.get_attributes().get(_MODE) == 'pytorch_half_pixel':
            operation.set_attribute(_MODE, 'half_pixel')
    model.input(0).get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    return model


def to_onnx(network: Network, path: Path) -> None:
    """Write a network as ONNX with dynamic height and width."""
    sides = {2: 'height', 3: 'width'}
    with _quiet(), torch.inference_mode():
        # Traced, because torch.export (2.14) cannot track all dynamic sizes of Mask2Former.
        torch.onnx.export(
            _WithFeatures(network),
            (_example(),),
            path,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes={INPUT: sides, OUTPUTS[0]: sides},
            opset_version=18,
            dynamo=False,
        )


class _WithFeatures(torch.nn.Module):
    """Network whose `forward` returns class scores and features."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network.scores_and_features(pixels)


def _example() -> torch.Tensor:
    return torch.zeros((1, 3, *_TRACED_HW))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence tracer warnings, which are meant for authors of networks."""
    library_log = logging.getLogger('transformers')
    level = library_log.level
    library_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        library_log.setLevel(level)
