# SPDX-License-Identifier: Apache-2.0
"""Runtimes whose graphs have a fixed size: converted once, compiled for each size that comes."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.decision import Decision
from segmentation_node.errors import SettingError, one_line
from segmentation_node.exports import Export
from segmentation_node.geometry import Geometry
from segmentation_node.runtimes.graph_cache import GraphCache, cache_root
from segmentation_node.runtimes.recent import Recent

Bytes: TypeAlias = npt.NDArray[np.uint8]

#: Sizes of image that stay compiled, the newest by use.
_COMPILED: Final = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compiled:
    """A graph for one size of image.

    `forward` runs it on (1, H, W, 3) uint8 RGB; `decide` reads what that gave, which the next run
    may overwrite.
    """

    forward: Callable[[Bytes], Any]
    decide: Callable[[Any], Decision]


class FixedSizeRuntime(ABC):
    """Runs one graph for each size of image.

    Images of a batch are run one by one: on a CPU more at a time are no faster, and so labels
    never depend on the company an image comes in.
    """

    name: str
    device: str
    precision: str
    #: What other graphs are made for, beside the checkpoint: the versions of libraries.
    made_with: Mapping[str, object]

    def __init__(self, checkpoint: Checkpoint, input_size: tuple[int, int] | None) -> None:
        self._checkpoint, self._input_size = checkpoint, input_size
        self._cache = GraphCache(
            checkpoint, preprocessing=checkpoint.preprocessing(input_size), **self.made_with
        )
        if not self._knows_network():
            checkpoint.network  # noqa: B018 (read now: damaged weights are told before a frame comes)
        self._compiled: Recent[tuple[int, int], Compiled] = Recent(_COMPILED)

    def _knows_network(self) -> bool:
        """Whether a graph was made of these very weights before, so that they are whole."""
        return self._cache.knows_network()

    @abstractmethod
    def _convert(self, folder: Path, image_hw: tuple[int, int]) -> Geometry:
        """Write the graph for one size into a folder; imports torch."""

    @abstractmethod
    def _compile(self, folder: Path, geometry: Geometry) -> Compiled:
        """Make a graph that was converted ready to run."""

    def _exported(self, image_hw: tuple[int, int]) -> Export | None:
        """A graph that came with the checkpoint, to be taken instead of a conversion."""
        del image_hw
        return None

    def decide(self, images_rgb: Bytes) -> list[Decision]:
        graph = self._for(images_rgb)
        return [graph.decide(graph.forward(image[None])) for image in images_rgb]

    def forward(self, images_rgb: Bytes) -> None:
        graph = self._for(images_rgb)
        for image in images_rgb:
            graph.forward(image[None])

    def _for(self, images_rgb: Bytes) -> Compiled:
        """The graph for images of a size, compiled now unless it still is."""
        image_hw = images_rgb.shape[1], images_rgb.shape[2]
        return self._compiled.get(image_hw, lambda: self._compile(*self._files(image_hw)))

    def _files(self, image_hw: tuple[int, int]) -> tuple[Path, Geometry]:
        """Folder of the graph for one size, and how an image meets it."""

        def convert(folder: Path) -> Mapping[str, Any]:
            _log.warning(
                'converting %s for images of %d x %d, which takes a while and is done once',
                self._checkpoint.name, image_hw[1], image_hw[0],
            )  # fmt: skip
            geometry = self._convert(folder, image_hw)
            return {'padded_hw': geometry.padded_hw, 'network_hw': geometry.network_hw}

        export = self._exported(image_hw)
        if export is not None:
            return self._checkpoint.folder / export.folder, export.geometry
        try:
            folder, known = self._cache.get(convert, image_hw=image_hw)
        except OSError as error:
            raise SettingError(
                f'the converted graph cannot be kept in {cache_root()} ({one_line(error)}); make '
                f'room there, or set XDG_CACHE_HOME to another folder'
            ) from error
        (ph, pw), (nh, nw) = known['padded_hw'], known['network_hw']
        return folder, Geometry(image_hw, (ph, pw), (nh, nw))
