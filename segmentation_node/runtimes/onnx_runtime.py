# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime and TensorRT, on a CPU or an NVIDIA GPU."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import onnxruntime  # type: ignore[import-untyped]
import openvino  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state  # type: ignore[import-untyped]

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.checkpoint import Checkpoint
from segmentation_node.errors import SettingError, one_line
from segmentation_node.networks.preprocessing import Geometry
from segmentation_node.runtimes.cache import cache_root
from segmentation_node.runtimes.graph_files import load_graph
from segmentation_node.runtimes.graph_runtime import Forward, GraphRuntime, of_single_image
from segmentation_node.runtimes.openvino_core import core
from segmentation_node.runtimes.openvino_preprocessing import with_preprocessing

#: Exceptions of ONNX Runtime, which have no common base class.
_FAILURES: Final = tuple(
    member
    for member in vars(onnxruntime_pybind11_state).values()
    if isinstance(member, type) and issubclass(member, Exception)
)


class OnnxRuntime(GraphRuntime):
    """Runs the graph in ONNX Runtime's own kernels; OpenVINO does the preprocessing.

    `threads` limits the threads of the network; with 0, ONNX Runtime chooses.
    """

    name = 'onnxruntime'
    precisions: ClassVar[tuple[str, ...]] = ('fp32',)
    gpu_provider: ClassVar[str] = 'CUDAExecutionProvider'

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        precision: str,
        input_size: tuple[int, int] | None,
        threads: int = 0,
    ) -> None:
        super().__init__(checkpoint, input_size)
        self._threads = threads
        self.device = self._pick_device(device)
        self.precision = self._pick_precision(precision)
        self._session = self._open_session()

    def _compile(self, geometry: Geometry) -> Forward:
        height, width = geometry.network_hw
        pixels = openvino.op.Parameter(openvino.Type.f32, openvino.Shape([1, 3, height, width]))
        prepare = (
            core()
            .compile_model(
                with_preprocessing(
                    openvino.Model([pixels], [pixels]), geometry, self._preprocessing
                ),
                'CPU',
                {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'},
            )
            .create_infer_request()
        )
        session = self._session
        name = session.get_inputs()[0].name

        def forward(padded: UInt8Array) -> list[Float32Array]:
            (prepared,) = prepare.infer(padded, share_inputs=True, share_outputs=True).values()
            try:
                outputs = session.run(None, {name: prepared})
            except _FAILURES as error:
                raise self._setting_error(error) from error
            return of_single_image(outputs)

        return forward

    def _open_session(self) -> Any:
        graph = load_graph(self._checkpoint, 'onnx')
        wanted = self._provider()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # By default its threads busy-wait for the next run, on cores that other work needs.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        try:
            session = onnxruntime.InferenceSession(
                graph['graph.onnx'], options, providers=[wanted]
            )
        except _FAILURES as error:
            raise self._setting_error(error) from error
        # ONNX Runtime silently falls back to the CPU if the libraries of a provider do not load.
        if wanted[0] not in session.get_providers():
            raise SettingError(
                f'{wanted[0]} of ONNX Runtime does not load on this machine; install the CUDA '
                f'libraries that this version requires, or use device cpu'
            )
        return session

    def _setting_error(self, error: Exception) -> SettingError:
        return SettingError(
            f'device {self.device!r} cannot run model {self._checkpoint.name!r} '
            f'({one_line(error)}); free its memory, or use another device or runtime'
        )

    def _provider(self) -> tuple[str, Mapping[str, object]]:
        if self.device == 'cpu':
            return 'CPUExecutionProvider', {}
        return self.gpu_provider, {'device_id': self._device_id}

    @property
    def _device_id(self) -> int:
        return int(self.device.partition(':')[2] or 0)

    def _pick_device(self, device: str) -> str:
        available = self.gpu_provider in onnxruntime.get_available_providers()
        if device == 'auto':
            return 'cuda:0' if available else 'cpu'
        kind, _, index = device.partition(':')
        if kind not in ('cpu', 'cuda') or not (index.isdecimal() or not index):
            raise SettingError(f'unknown device {device!r}; use auto, cpu, cuda or cuda:N')
        if kind == 'cuda' and not available:
            raise SettingError(
                f'device {device!r} requires {self.gpu_provider}, which this build of ONNX '
                f'Runtime lacks; install the package onnxruntime-gpu instead, or use cpu'
            )
        return device

    def _pick_precision(self, precision: str) -> str:
        if precision == 'auto':
            return self.precisions[0]
        if precision not in self.precisions:
            raise SettingError(
                f'precision {precision!r} is not supported by runtime {self.name}; use one '
                f'of {", ".join(self.precisions)}, or auto'
            )
        return precision


class TensorRtRuntime(OnnxRuntime):
    """Runs the graph in TensorRT through ONNX Runtime; builds one engine per image size."""

    name = 'tensorrt'
    precisions = ('fp16', 'bf16', 'fp32')
    gpu_provider = 'TensorrtExecutionProvider'

    def _pick_device(self, device: str) -> str:
        picked = super()._pick_device(device)
        if picked == 'cpu':
            raise SettingError(
                f'runtime tensorrt requires a GPU and {self.gpu_provider}, which this build of '
                f'ONNX Runtime lacks; install the package onnxruntime-gpu and TensorRT, or use '
                f'another runtime'
            )
        return picked

    def _provider(self) -> tuple[str, Mapping[str, object]]:
        return self.gpu_provider, {
            'device_id': self._device_id,
            'trt_fp16_enable': self.precision == 'fp16',
            'trt_bf16_enable': self.precision == 'bf16',
            'trt_engine_cache_enable': True,
            # TensorRT names engines after the graph, whose name is the same in all checkpoints.
            'trt_engine_cache_path': str(cache_root() / 'engines' / self._checkpoint.digest[:32]),
        }
