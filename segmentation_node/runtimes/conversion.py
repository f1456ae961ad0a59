# SPDX-License-Identifier: Apache-2.0
"""Conversion of a PyTorch network to a graph for images of any size."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from segmentation_node.instances import INSTANCE, PANOPTIC, SEMANTIC
from segmentation_node.networks.network import Network
from segmentation_node.runtimes.openvino_telemetry import without_telemetry

INPUT: Final = 'pixels'
#: Outputs of a graph by task, see `Network.outputs`.
_OF_QUERIES: Final = ('class_logits', 'mask_logits', 'features')
OUTPUTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {SEMANTIC: ('class_scores', 'features'), PANOPTIC: _OF_QUERIES, INSTANCE: _OF_QUERIES}
)
#: Input and outputs whose height and width depend on the image.
_DYNAMIC: Final = (INPUT, 'class_scores', 'mask_logits')
_MODE: Final = 'coordinate_transformation_mode'
#: Height and width for tracing. They are not multiples of Swin's window size, so that window
#: padding becomes part of the trace.
_TRACED_HW: Final = (288, 416)


def to_openvino(network: Network, task: str = SEMANTIC) -> Any:
    """Convert a network into an openvino.Model with dynamic height and width, for one of TASKS."""
    import openvino  # type: ignore[import-untyped]

    with _quiet(), without_telemetry(), torch.inference_mode():
        model = openvino.convert_model(
            _Outputs(network, task), example_input=_example(), input=[(1, 3, -1, -1)]
        )
    for operation in model.get_ops():
        # The converter's mode differs from PyTorch's for maps of a single row or column.
        if operation.get_attributes().get(_MODE) == 'pytorch_half_pixel':
            operation.set_attribute(_MODE, 'half_pixel')
    model.input(0).get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, OUTPUTS[task], strict=True):
        output.get_tensor().set_names({name})
    return model


def to_onnx(network: Network, path: Path, task: str = SEMANTIC) -> None:
    """Write a network as ONNX with dynamic height and width, for one of TASKS."""
    sides = {2: 'height', 3: 'width'}
    with _quiet(), torch.inference_mode():
        # Traced, because torch.export (2.14) cannot track all dynamic sizes of Mask2Former.
        torch.onnx.export(
            _Outputs(network, task),
            (_example(),),
            path,
            input_names=[INPUT],
            output_names=list(OUTPUTS[task]),
            dynamic_axes={name: sides for name in (INPUT, *OUTPUTS[task]) if name in _DYNAMIC},
            opset_version=18,
            dynamo=False,
        )


class _Outputs(torch.nn.Module):
    """Network whose `forward` returns the outputs of a graph."""

    def __init__(self, network: Network, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task
        self.eval()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.network.outputs(pixels, self.task)


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
