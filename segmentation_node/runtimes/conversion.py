# SPDX-License-Identifier: Apache-2.0
"""The graph of a checkpoint in the forms of other runtimes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import openvino  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.geometry import Geometry
from segmentation_node.graph import SegmentationGraph


class _CoarseScores(nn.Module):
    """The graph up to its scores, for images of one size."""

    def __init__(self, graph: SegmentationGraph, geometry: Geometry) -> None:
        super().__init__()
        # Not "graph": a traced module has another thing of that name.
        self.whole, self.geometry = graph, geometry

    def forward(self, images_rgb: Tensor) -> Tensor:
        return self.whole.coarse_scores(images_rgb, self.geometry)


def to_openvino(
    checkpoint: Checkpoint, input_size: tuple[int, int] | None, shape: tuple[int, ...]
) -> tuple[openvino.Model, Geometry]:
    """Convert the graph up to its scores for batches of one shape.

    Args:
        checkpoint: whose network it is.
        input_size: (height, width) box that images are fitted into; None is the checkpoint's.
        shape: (B, H, W, 3) of the batches.

    Raises:
        CheckpointError: the weights cannot be loaded.
        ImageError: an image that would be padded beyond all bounds.
    """
    graph = checkpoint.graph(input_size)
    geometry = graph.geometry((shape[1], shape[2]))
    geometry.check()
    example = torch.zeros(shape, dtype=torch.uint8)
    with _quiet(), torch.inference_mode():
        model = openvino.convert_model(
            _CoarseScores(graph, geometry), example_input=example, input=list(shape)
        )
    return model, geometry


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what tracing has to say to the networks' authors off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
