# SPDX-License-Identifier: Apache-2.0
"""The graph of a checkpoint in the forms of other runtimes."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.geometry import Geometry
from segmentation_node.graph import SegmentationGraph
from segmentation_node.runtimes.unreported import unreported

#: Name of the pixels that go in, (1, H, W, 3) uint8 RGB.
INPUT: Final = 'images_rgb'
#: What may come out: (1, H, W) uint8 twice, and (1, C, h, w) float32 at the network's stride.
OUTPUTS: Final = ('labels', 'confidence', 'class_scores')


class _FixedSize(nn.Module):
    """The graph for images of one size."""

    def __init__(
        self, graph: SegmentationGraph, geometry: Geometry, outputs: Sequence[str]
    ) -> None:
        super().__init__()
        # Not "graph": a traced module has another thing of that name.
        self.whole, self.geometry, self.outputs = graph, geometry, outputs

    def forward(self, images_rgb: Tensor) -> tuple[Tensor, ...]:
        found = {'class_scores': self.whole.coarse_scores(images_rgb, self.geometry)}
        if 'labels' in self.outputs:
            decided = self.whole.postprocess(found['class_scores'], self.geometry)
            found['labels'], found['confidence'] = decided
        return tuple(found[name] for name in self.outputs)


def to_openvino(
    checkpoint: Checkpoint,
    input_size: tuple[int, int] | None,
    image_hw: tuple[int, int],
    outputs: Sequence[str],
) -> tuple[Any, Geometry]:
    """Convert the graph for images of one size into an openvino.Model.

    Args:
        checkpoint: whose network it is.
        input_size: (height, width) box that images are fitted into; None is the checkpoint's.
        image_hw: of the images.
        outputs: some of OUTPUTS, the names of what comes out.

    Raises:
        CheckpointError: the weights cannot be loaded.
        ImageError: an image that would be padded beyond all bounds.
    """
    import openvino  # type: ignore[import-untyped]

    module, example, geometry = _prepared(checkpoint, input_size, image_hw, outputs)
    with _quiet(), unreported(), torch.inference_mode():
        model = openvino.convert_model(module, example_input=example, input=list(example.shape))
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    return model, geometry


def to_onnx(
    checkpoint: Checkpoint,
    input_size: tuple[int, int] | None,
    image_hw: tuple[int, int],
    outputs: Sequence[str],
    path: Path,
) -> Geometry:
    """Write the graph for images of one size as ONNX; arguments and errors as `to_openvino`."""
    module, example, geometry = _prepared(checkpoint, input_size, image_hw, outputs)
    with _quiet(), torch.inference_mode():
        torch.onnx.export(
            module,
            (example,),
            path,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return geometry


def _prepared(
    checkpoint: Checkpoint,
    input_size: tuple[int, int] | None,
    image_hw: tuple[int, int],
    outputs: Sequence[str],
) -> tuple[nn.Module, Tensor, Geometry]:
    """The module to convert and an example of what goes in."""
    graph = checkpoint.graph(input_size)
    geometry = graph.geometry(image_hw)
    geometry.check()
    example = torch.zeros((1, *image_hw, 3), dtype=torch.uint8)
    return _FixedSize(graph, geometry, outputs).eval(), example, geometry


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what tracing has to say to the networks' authors off the terminal."""
    library_log = logging.getLogger('transformers')
    level = library_log.level
    library_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        library_log.setLevel(level)
