# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, on the CPU: pixels in, class scores at the network's own stride out.

A graph that was converted before comes from the cache, without torch.
"""

from pathlib import Path
from typing import Final

import numpy as np
import openvino  # type: ignore[import-untyped]

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.decision import Scores, decide
from segmentation_node.errors import CheckpointError, SettingError
from segmentation_node.exports import Export, exports_of
from segmentation_node.geometry import Geometry
from segmentation_node.runtimes.fixed_size import Bytes, Compiled, FixedSizeRuntime

#: OpenVINO's names; what is left of a network in int8 that has no int8 runs in the precision
#: that is otherwise the CPU's own.
_ELEMENT_TYPES: Final = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
GRAPH: Final = 'graph.xml'
SCORES: Final = 'class_scores'


class OpenVinoRuntime(FixedSizeRuntime):
    """The graph up to its scores in OpenVINO, the decision by cells."""

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
        self._exports = (
            _int8_exports(checkpoint, input_size) if precision in ('auto', 'int8') else []
        )
        self.precision = self._pick_precision(precision, checkpoint)
        self.made_with = {'openvino': openvino.get_version()}
        super().__init__(checkpoint, input_size)

    def _knows_network(self) -> bool:
        return bool(self._exports) or super()._knows_network()

    def _convert(self, folder: Path, image_hw: tuple[int, int]) -> Geometry:
        from segmentation_node.runtimes.conversion import to_openvino

        model, geometry = to_openvino(self._checkpoint, self._input_size, image_hw, (SCORES,))
        openvino.save_model(model, folder / GRAPH, compress_to_fp16=False)
        return geometry

    def _compile(self, folder: Path, geometry: Geometry) -> Compiled:
        model = self._core.read_model(folder / GRAPH)
        # An exported graph goes on to labels, all pixels computed; that part is left out.
        scores = openvino.Model([model.output(SCORES)], model.get_parameters(), SCORES)
        rest = _native_precision(self._core) if self.precision == 'int8' else self.precision
        compiled = self._core.compile_model(
            scores,
            'CPU',
            {'INFERENCE_PRECISION_HINT': _ELEMENT_TYPES[rest], 'PERFORMANCE_HINT': 'LATENCY'},
        )
        ids = self._checkpoint.channel_ids

        def forward(image_rgb: Bytes) -> Scores:
            # In the runtime's own memory, without a copy.
            (found,) = compiled(image_rgb, share_inputs=True, share_outputs=True).values()
            return np.asarray(found[0])

        return Compiled(forward, lambda scores: decide(scores, geometry, ids))

    def _exported(self, image_hw: tuple[int, int]) -> Export | None:
        if self.precision != 'int8':
            return None
        for export in self._exports:
            if export.image_hw == image_hw:
                return export
        raise SettingError(
            f'{self._checkpoint.name} was exported in int8 for images of '
            f'{_sizes(self._exports)}, and one of {image_hw[1]} x {image_hw[0]} came; export it '
            f'for this size, too, or say another precision, such as auto of another model'
        )

    def _pick_precision(self, precision: str, checkpoint: Checkpoint) -> str:
        if precision == 'int8' and not self._exports:
            raise SettingError(
                f"precision 'int8' needs an export of {checkpoint.name}, calibrated on images of "
                f'the camera: run export_model --precision int8, and give the folder it writes as '
                f'the model'
            )
        if self._exports:  # somebody made it to have it
            return 'int8'
        if precision == 'auto':
            return _native_precision(self._core)
        there = _precisions(self._core)
        if precision not in there:
            raise SettingError(
                f'precision {precision!r} is none of this CPU under OpenVINO, which has '
                f'{", ".join(there)}; say one of these, or auto'
            )
        return precision


def _int8_exports(checkpoint: Checkpoint, input_size: tuple[int, int] | None) -> list[Export]:
    exports = exports_of(checkpoint, 'openvino', 'int8', input_size)
    for export in exports:
        if export.network != checkpoint.digest:
            raise CheckpointError(
                f'{checkpoint.folder / export.folder} was exported from other weights than '
                f'lie in {checkpoint.folder}; export anew, or delete it'
            )
    return exports


def _sizes(exports: list[Export]) -> str:
    return ', '.join(f'{width} x {height}' for height, width in (e.image_hw for e in exports))


def _precisions(core: openvino.Core) -> list[str]:
    capabilities = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    return [precision for precision in _ELEMENT_TYPES if precision.upper() in capabilities]


def _native_precision(core: openvino.Core) -> str:
    return 'bf16' if 'bf16' in _precisions(core) else 'fp32'
