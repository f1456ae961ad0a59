# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU."""

import io
import logging
from functools import cached_property
from typing import Any, Final

import openvino  # type: ignore[import-untyped]

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.checkpoint import Checkpoint
from segmentation_node.errors import CheckpointError, SettingError, one_line
from segmentation_node.networks.preprocessing import Geometry
from segmentation_node.runtimes.cache import Cache
from segmentation_node.runtimes.graph_files import (
    Graph,
    exported_info,
    graph_digest,
    load_graph,
)
from segmentation_node.runtimes.graph_runtime import Forward, GraphRuntime, of_single_image
from segmentation_node.runtimes.machine import cpu_identity, multiplies_bf16_matrices
from segmentation_node.runtimes.openvino_core import core
from segmentation_node.runtimes.openvino_preprocessing import with_preprocessing

#: OpenVINO's names for the precisions.
_ELEMENT_TYPES: Final = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}

#: Graphs compiled for one image size and one CPU. OpenVINO's own cache (CACHE_DIR) is not used: it
#: is unbounded and does not detect damaged entries.
_COMPILED: Final = Cache('compiled', 2**29)

_log = logging.getLogger(__name__)


class OpenVinoRuntime(GraphRuntime):
    """Runs the graph up to its class scores in OpenVINO; `postprocess` computes the labels.

    `threads` limits the threads of the network; with 0, OpenVINO chooses.
    """

    name = 'openvino'
    device = 'cpu'

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        precision: str,
        input_size: tuple[int, int] | None,
        threads: int = 0,
    ) -> None:
        if device not in ('auto', 'cpu'):
            raise SettingError(
                f'device {device!r} is not supported by runtime openvino, which runs on cpu only; '
                f'use cpu, or runtime torch'
            )
        super().__init__(checkpoint, input_size)
        self.precision = precision
        self._kind = 'int8' if precision == 'int8' else 'float'
        supported = (*float_precisions(), 'int8')
        if precision not in supported:
            raise SettingError(
                f'precision {precision!r} is not supported on this CPU by OpenVINO; use one of '
                f'{", ".join(supported)}, or auto'
            )
        # Layers without an int8 form run in fp32, or in bf16 if the CPU has bf16 matrix units.
        native = 'bf16' if multiplies_bf16_matrices() else 'fp32'
        rest = native if precision == 'int8' else precision
        self._config = {
            'INFERENCE_PRECISION_HINT': _ELEMENT_TYPES[rest],
            'PERFORMANCE_HINT': 'LATENCY',
            **(_limited(threads) if threads else {}),
        }
        # Read at start-up, so that damage is reported before the first frame.
        self._files: Graph | None = load_graph(checkpoint, 'openvino', self._kind)

    @cached_property
    def _graph(self) -> Any:
        """Network of dynamic size, read only if an image size is not in the cache."""
        files = self._files or load_graph(self._checkpoint, 'openvino', self._kind)
        self._files = None
        try:
            return core().read_model(files['graph.xml'], files['graph.bin'])
        except RuntimeError as error:
            raise CheckpointError(
                f'{self._checkpoint.folder}: OpenVINO cannot read the graph of this checkpoint '
                f'({one_line(error)}); export the graph again'
            ) from error

    def _compile(self, geometry: Geometry) -> Forward:
        key = {
            'openvino': openvino.get_version(), **cpu_identity(),
            'graph': graph_digest(self._checkpoint, 'openvino', self._kind),
            'precision': self.precision, 'config': self._config,
            'geometry': geometry, 'preprocessing': self._preprocessing,
        }  # fmt: skip
        compiled = self._import(_COMPILED.get(key))
        if compiled is None:
            model = self._graph.clone()
            model.reshape({model.input(0): [1, 3, *geometry.network_hw]})
            model = with_preprocessing(model, geometry, self._preprocessing)
            compiled = core().compile_model(model, 'CPU', self._config)
            stream = io.BytesIO()
            compiled.export_model(stream)
            _COMPILED.put(key, stream.getvalue())
        self._files = None  # read again if another size is not in the cache
        run = compiled.create_infer_request()

        def forward(padded: UInt8Array) -> list[Float32Array]:
            # The outputs share the runtime's memory, without a copy.
            outputs = run.infer(padded, share_inputs=True, share_outputs=True)
            return of_single_image(outputs.values())

        return forward

    def _import(self, blob: bytes | None) -> Any:
        if blob is None:
            return None
        try:
            return core().import_model(blob, 'CPU', self._config)
        except RuntimeError as error:  # compiled by another build of the same version
            _log.warning('compiling a cached graph again (%s)', one_line(error))
            return None


def _limited(threads: int) -> dict[str, object]:
    """Return the settings of a limited number of threads, which other processes leave free.

    Pinned threads of several processes would share the first cores.
    """
    return {'INFERENCE_NUM_THREADS': threads, 'ENABLE_CPU_PINNING': False}


def worthwhile_precisions(checkpoint: Checkpoint) -> list[str]:
    """Return the precisions that may be fastest and keep the labels, most likely first.

    Raises:
        CheckpointError: the description of a graph is damaged.
    """
    info = exported_info(checkpoint, 'openvino', 'float')
    floats = [each for each in float_precisions() if info is None or info.keeps_labels(each)]
    if multiplies_bf16_matrices():
        floats.sort(key='bf16'.__ne__)
    int8 = exported_info(checkpoint, 'openvino', 'int8') is not None
    return (['int8'] if int8 else []) + floats


def float_precisions() -> list[str]:
    """Return the floating-point precisions that OpenVINO runs on this CPU, however slowly."""
    capabilities = core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    return [precision for precision in _ELEMENT_TYPES if precision.upper() in capabilities]
