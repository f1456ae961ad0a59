# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: on the CPU up to the scores, on a GPU up to the labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state  # type: ignore[import-untyped]

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.decision import Decided, Decision, decide
from segmentation_node.errors import SettingError, one_line
from segmentation_node.geometry import Geometry
from segmentation_node.runtimes.fixed_size import Bytes, Compiled, FixedSizeRuntime

GRAPH: Final = 'graph.onnx'

#: What ONNX Runtime raises; these have no base of their own.
_FAILURES: Final = tuple(
    found
    for found in vars(onnxruntime_pybind11_state).values()
    if isinstance(found, type) and issubclass(found, Exception)
)


class OnnxRuntime(FixedSizeRuntime):
    """The graph in ONNX Runtime's own kernels, on a CPU or with CUDA."""

    name = 'onnxruntime'
    precisions: ClassVar[tuple[str, ...]] = ('fp32',)
    gpu_provider: ClassVar[str] = 'CUDAExecutionProvider'

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        precision: str,
        input_size: tuple[int, int] | None,
    ) -> None:
        self.device = self._pick_device(device)
        self.precision = self._pick_precision(precision)
        self.outputs = ('class_scores',) if self.device == 'cpu' else ('labels', 'confidence')
        self.made_with = {'onnx': onnxruntime.__version__, 'outputs': self.outputs}
        super().__init__(checkpoint, input_size)

    def _convert(self, folder: Path, image_hw: tuple[int, int]) -> Geometry:
        from segmentation_node.runtimes.conversion import to_onnx

        try:
            return to_onnx(
                self._checkpoint, self._input_size, image_hw, self.outputs, folder / GRAPH
            )
        except ModuleNotFoundError as error:  # what torch exports with
            raise SettingError(
                f'{self._checkpoint.name} cannot be converted without the package {error.name}; '
                f'install it (pip install onnx onnxscript) or say another runtime'
            ) from error

    def _compile(self, folder: Path, geometry: Geometry) -> Compiled:
        session = self._session(folder)
        ids = self._checkpoint.channel_ids
        pixels = session.get_inputs()[0].name

        def forward(image_rgb: Bytes) -> Any:
            try:
                return session.run(None, {pixels: image_rgb})
            except _FAILURES as error:
                raise self._refused(error) from error

        def read(found: Any) -> Decision:
            if self.device == 'cpu':
                return decide(np.asarray(found[0][0], np.float32), geometry, ids)
            return Decided(found[0][0], found[1][0])

        return Compiled(forward, read)

    def _session(self, folder: Path) -> Any:
        wanted = self._provider(folder)
        options = onnxruntime.SessionOptions()
        # Else its threads wait for the next run at full speed, on cores that other work wants.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        try:
            session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=[wanted])
        except _FAILURES as error:
            raise self._refused(error) from error
        # A provider whose libraries do not load is replaced by the CPU without a word.
        if wanted[0] not in session.get_providers():
            raise SettingError(
                f'{wanted[0]} of ONNX Runtime does not load on this machine; install the CUDA '
                f'libraries that its version asks for, or say device cpu'
            )
        return session

    def _refused(self, error: Exception) -> SettingError:
        return SettingError(
            f'device {self.device!r} does not run model {self._checkpoint.name!r} '
            f'({one_line(error)}); free its memory, or say another device or runtime'
        )

    def _provider(self, folder: Path) -> tuple[str, Mapping[str, object]]:
        del folder
        if self.device == 'cpu':
            return 'CPUExecutionProvider', {}
        return self.gpu_provider, {'device_id': self._device_id}

    @property
    def _device_id(self) -> int:
        return int(self.device.partition(':')[2] or 0)

    def _pick_device(self, device: str) -> str:
        there = self.gpu_provider in onnxruntime.get_available_providers()
        if device == 'auto':
            return 'cuda:0' if there else 'cpu'
        kind, _, index = device.partition(':')
        if kind not in ('cpu', 'cuda') or not (index.isdecimal() or not index):
            raise SettingError(f'unknown device {device!r}; say auto, cpu, cuda or cuda:N')
        if kind == 'cuda' and not there:
            raise SettingError(
                f'device {device!r} needs {self.gpu_provider}, which this build of ONNX Runtime '
                f'lacks; install the package onnxruntime-gpu in its place, or say cpu'
            )
        return device

    def _pick_precision(self, precision: str) -> str:
        if precision == 'auto':
            return self.precisions[0]
        if precision not in self.precisions:
            raise SettingError(
                f'precision {precision!r} is none of runtime {self.name}, which has '
                f'{", ".join(self.precisions)}; say one of these, or auto'
            )
        return precision


class TensorRtRuntime(OnnxRuntime):
    """The graph in TensorRT's kernels, by ONNX Runtime; builds an engine once per size."""

    name = 'tensorrt'
    precisions = ('fp16', 'bf16', 'fp32')
    gpu_provider = 'TensorrtExecutionProvider'

    def _pick_device(self, device: str) -> str:
        picked = super()._pick_device(device)
        if picked == 'cpu':
            raise SettingError(
                f'runtime tensorrt needs a GPU and {self.gpu_provider}, which this build of ONNX '
                f'Runtime lacks; install the package onnxruntime-gpu and TensorRT, or say another '
                f'runtime'
            )
        return picked

    def _provider(self, folder: Path) -> tuple[str, Mapping[str, object]]:
        return self.gpu_provider, {
            'device_id': self._device_id,
            'trt_fp16_enable': self.precision == 'fp16',
            'trt_bf16_enable': self.precision == 'bf16',
            'trt_engine_cache_enable': True,
            # Within the entry, so that they are forgotten together.
            'trt_engine_cache_path': str(folder / 'engines'),
        }
