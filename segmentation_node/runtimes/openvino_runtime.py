# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, on the CPU: pixels in, class scores at the network's own stride out.

Graphs have fixed sizes, which they are compiled for. One that was converted before comes from the
cache, without torch.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino  # type: ignore[import-untyped]

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.decision import Decision, decide
from segmentation_node.errors import SettingError, one_line
from segmentation_node.geometry import Geometry
from segmentation_node.runtimes.graph_cache import GraphCache, cache_root

#: OpenVINO's names.
_ELEMENT_TYPES: Final = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
#: Sizes of batches that stay compiled, the newest by use.
_COMPILED: Final = 4
_GRAPH: Final = 'graph.xml'

_log = logging.getLogger(__name__)


class OpenVinoRuntime:
    """Compiles the graph for each size of batch that comes."""

    name = 'openvino'
    device = 'cpu'

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        precision: str,
        input_size: tuple[int, int] | None,
    ) -> None:
        if device not in ('auto', 'cpu'):
            raise SettingError(
                f'device {device!r} is not one of the runtime openvino, which runs on cpu; say '
                f'cpu, or runtime torch'
            )
        self._core = openvino.Core()
        self.precision = _pick_precision(self._core, precision)
        self._checkpoint, self._input_size = checkpoint, input_size
        self._cache = GraphCache(
            checkpoint,
            preprocessing=checkpoint.preprocessing(input_size),
            openvino=openvino.get_version(),
        )
        if not self._cache.knows_network():
            checkpoint.network  # noqa: B018 (read now: damaged weights are told before a frame comes)
        self._compiled: OrderedDict[tuple[int, ...], tuple[openvino.CompiledModel, Geometry]] = (
            OrderedDict()
        )

    def decide(self, images_rgb: npt.NDArray[np.uint8]) -> list[Decision]:
        compiled, geometry = self._for(images_rgb.shape)
        # In the runtime's own memory: read below, before the next batch overwrites it.
        scores = compiled(images_rgb, share_inputs=True, share_outputs=True)[0]
        return [decide(of_image, geometry, self._checkpoint.channel_ids) for of_image in scores]

    def _for(self, shape: tuple[int, ...]) -> tuple[openvino.CompiledModel, Geometry]:
        """The graph for one shape (B, H, W, 3), compiled now unless it still is."""
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(shape)
            if len(self._compiled) > _COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shape)
        return self._compiled[shape]

    def _compile(self, shape: tuple[int, ...]) -> tuple[openvino.CompiledModel, Geometry]:
        def convert(folder: Path) -> Mapping[str, Any]:
            _log.warning(
                'converting %s for images of %d x %d, which takes a while and is done once',
                self._checkpoint.name, shape[2], shape[1],
            )  # fmt: skip
            # Imports torch, which takes seconds.
            from segmentation_node.runtimes.conversion import to_openvino

            model, geometry = to_openvino(self._checkpoint, self._input_size, shape)
            openvino.save_model(model, folder / _GRAPH, compress_to_fp16=False)
            return {'padded_hw': geometry.padded_hw, 'network_hw': geometry.network_hw}

        try:
            folder, known = self._cache.get(convert, shape=shape)
        except OSError as error:
            raise SettingError(
                f'the converted graph cannot be kept in {cache_root()} ({one_line(error)}); make '
                f'room there, or set XDG_CACHE_HOME to another folder'
            ) from error
        padded, network = known['padded_hw'], known['network_hw']
        geometry = Geometry((shape[1], shape[2]), (padded[0], padded[1]), (network[0], network[1]))
        compiled = self._core.compile_model(
            self._core.read_model(folder / _GRAPH),
            'CPU',
            {
                'INFERENCE_PRECISION_HINT': _ELEMENT_TYPES[self.precision],
                'PERFORMANCE_HINT': 'LATENCY',
            },
        )
        return compiled, geometry


def _pick_precision(core: openvino.Core, precision: str) -> str:
    capabilities = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    there = [p for p in _ELEMENT_TYPES if p.upper() in capabilities]
    if precision == 'auto':
        return 'bf16' if 'bf16' in there else 'fp32'
    if precision not in there:
        raise SettingError(
            f'precision {precision!r} is none of this CPU under OpenVINO, which has '
            f'{", ".join(there)}; say one of these, or auto'
        )
    return precision
