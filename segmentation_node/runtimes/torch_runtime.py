# SPDX-License-Identifier: Apache-2.0
"""PyTorch, on a CPU or an NVIDIA GPU."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import torch

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import Checkpoint
from segmentation_node.errors import SettingError, one_line
from segmentation_node.instances import DEFAULT_THRESHOLDS, SEMANTIC, Thresholds
from segmentation_node.networks.graph import SegmentationGraph
from segmentation_node.networks.postprocessing import (
    Decoder,
    DeviceSegmentation,
    Segmentation,
    check_finite,
)
from segmentation_node.networks.preprocessing import Geometry
from segmentation_node.runtimes.memory import check_memory
from segmentation_node.runtimes.recent import Recent
from segmentation_node.runtimes.short_thread import in_short_thread

_DTYPES: Final = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}

#: Number of batch shapes whose CUDA graphs are kept, the most recently used.
_CAPTURED: Final = 16
#: Runs before a graph is captured; they load kernels, choose algorithms and allocate memory.
_WARM_UPS: Final = 3

_log = logging.getLogger(__name__)

Forward: TypeAlias = Callable[..., Any]


class TorchRuntime:
    """Runs the graph in PyTorch, with channels-last weights; uses autocast unless in fp32."""

    name = 'torch'

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        precision: str,
        input_size: tuple[int, int] | None,
    ) -> None:
        self._device = _pick_device(device)
        self.device = str(self._device)
        self.precision = _pick_precision(precision, self._device)
        self._bytes_per_pixel = checkpoint.bytes_per_pixel
        #: Network input sizes for which enough memory is known to be available.
        self._fitting: set[tuple[int, int]] = set()
        try:
            self._graph = in_short_thread(lambda: self._load_graph(checkpoint, input_size))
        except RuntimeError as error:  # raised by torch if out of memory, or by a failing driver
            raise SettingError(
                f'device {self.device!r} cannot load model {checkpoint.name!r} '
                f'({one_line(error)}); free its memory, or use another device or a smaller model'
            ) from error
        self._executor: _DecodedOnCpu | _OnGpu
        if self._device.type == 'cpu' or checkpoint.task != SEMANTIC:
            run = self._compiled(self._graph.outputs)
            self._executor = _DecodedOnCpu(run, checkpoint.decoder, self._device)
        else:
            self._executor = _OnGpu(self._compiled(self._graph.forward_checked), self._device)

    def _load_graph(
        self, checkpoint: Checkpoint, input_size: tuple[int, int] | None
    ) -> SegmentationGraph:
        graph = checkpoint.load_graph(input_size).to(self._device)
        graph.to(memory_format=torch.channels_last)
        return graph

    def _compiled(self, run: Forward) -> Forward:
        return run

    def run(
        self, images_rgb: UInt8Array, thresholds: Thresholds = DEFAULT_THRESHOLDS
    ) -> list[Segmentation]:
        geometry = self._geometry(images_rgb, None)
        with torch.inference_mode(), self._autocast():
            return self._executor.run(images_rgb, geometry, thresholds)

    def forward(self, images_rgb: UInt8Array) -> None:
        geometry = self._geometry(images_rgb, None)
        with torch.inference_mode(), self._autocast():
            self._executor.forward(images_rgb, geometry)

    def class_scores(self, images_rgb: UInt8Array, scale: float | None = None) -> torch.Tensor:
        """Compute scores (B, C, H, W) float32, 0 or greater, on the device, from RGB images.

        `images_rgb` is (B, H, W, 3) uint8. `scale` is in network pixels per image pixel; None uses
        the scale of `run`.
        """
        self._geometry(images_rgb, scale)
        with torch.inference_mode(), self._autocast():
            batch = torch.from_numpy(images_rgb).to(self._device)
            return self._graph.class_scores(batch, scale)

    def postprocess(self, scores: torch.Tensor) -> list[Segmentation]:
        """Convert (B, C, H, W) scores, for example a sum over several views, to segmentations."""
        with torch.inference_mode():
            return _split_by_image(self._graph.choose_class(scores))

    def _geometry(self, images_rgb: UInt8Array, scale: float | None) -> Geometry:
        geometry = self._graph.geometry((images_rgb.shape[1], images_rgb.shape[2]), scale)
        geometry.check()
        if self._device.type == 'cpu' and geometry.network_hw not in self._fitting:
            check_memory(geometry.network_hw, self._bytes_per_pixel)
            self._fitting.add(geometry.network_hw)
        return geometry

    def _autocast(self) -> torch.autocast:
        dtype = _DTYPES[self.precision]
        return torch.autocast(self._device.type, dtype, enabled=dtype is not torch.float32)


class CompiledTorchRuntime(TorchRuntime):
    """Runs the graph compiled by torch.compile.

    Each batch shape is compiled on first use, which takes a minute or more; torch caches the
    compiled code (TORCHINDUCTOR_CACHE_DIR).
    """

    name = 'torch_compiled'

    def _compiled(self, run: Forward) -> Forward:
        try:
            # Detects a missing compiler at start-up rather than with the first frame.
            torch.compile(torch.neg)(torch.ones(1, device=self._device))
        except RuntimeError as error:
            raise SettingError(
                f'torch cannot compile on {self.device} ({one_line(error)}); install a C++ '
                f'compiler (Debian, Ubuntu: sudo apt install g++) and the Python headers, or use '
                f'runtime torch'
            ) from error
        # Does not use its CUDA graphs, which are bound to the thread that captured them, unlike
        # ours.
        return torch.compile(run, dynamic=False)


class _DecodedOnCpu:
    """Runs the network up to its outputs; on a CPU, the decoder is faster than torch."""

    def __init__(self, run: Forward, decode: Decoder, device: torch.device) -> None:
        self._run, self._decode, self._device = run, decode, device

    def run(
        self, images_rgb: UInt8Array, geometry: Geometry, thresholds: Thresholds
    ) -> list[Segmentation]:
        outputs = (
            part.float().contiguous().cpu().numpy() for part in self.forward(images_rgb, geometry)
        )
        return [self._decode(each, geometry, thresholds) for each in zip(*outputs, strict=True)]

    def forward(self, images_rgb: UInt8Array, geometry: Geometry) -> Sequence[torch.Tensor]:
        batch = torch.from_numpy(images_rgb).to(self._device)
        outputs: Sequence[torch.Tensor] = self._run(batch, geometry)
        return outputs


class _OnGpu:
    """Runs everything from pixels to labels as one CUDA graph per batch shape.

    Launching the kernels of a network one by one takes longer than running many of them.
    """

    def __init__(self, run: Forward, device: torch.device) -> None:
        self._run, self._device = run, device
        #: Shared by all graphs, because only one of them runs at a time.
        self._memory = torch.cuda.graph_pool_handle()
        self._captured: Recent[tuple[int, ...], Forward] = Recent(_CAPTURED)

    def run(
        self, images_rgb: UInt8Array, geometry: Geometry, thresholds: Thresholds
    ) -> list[Segmentation]:
        del geometry, thresholds
        with torch.cuda.device(self._device):
            return _split_by_image(self._graph_for(images_rgb)(torch.from_numpy(images_rgb)))

    def forward(self, images_rgb: UInt8Array, geometry: Geometry) -> None:
        del geometry
        with torch.cuda.device(self._device):
            self._graph_for(images_rgb)(torch.from_numpy(images_rgb))
            torch.cuda.synchronize()

    def _graph_for(self, images_rgb: UInt8Array) -> Forward:
        """Return a function that runs batches of this shape; each run overwrites its results."""
        return self._captured.get(images_rgb.shape, lambda: self._capture(images_rgb.shape))

    def _capture(self, shape: tuple[int, ...]) -> Forward:
        pixels = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        side_stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream), _fastest_convolutions():
            for _ in range(_WARM_UPS):
                self._run(pixels)
            side_stream.synchronize()
            try:
                # Other threads may load a model in the meantime.
                with torch.cuda.graph(
                    graph, self._memory, side_stream, capture_error_mode='thread_local'
                ):
                    outputs = self._run(pixels)
            except RuntimeError as error:  # a layer synchronizes with the host, or out of memory
                _log.warning(
                    'cannot capture a CUDA graph for images of shape %s (%s); launching kernels '
                    'one by one, which is slower', shape, one_line(error),
                )  # fmt: skip
                return lambda batch: self._run(batch.to(self._device))

        def replay(batch: torch.Tensor) -> Any:
            pixels.copy_(batch)
            graph.replay()
            return outputs

        return replay


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Make cuDNN measure its kernels and use the fastest one for each size."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _split_by_image(parts: Sequence[torch.Tensor]) -> list[Segmentation]:
    """Copy labels and confidence of a batch from the device and split them by image.

    `parts` are labels and confidence, (B, H, W) uint8 each, and optionally features, (B, D)
    float32, and whether the scores of each image are finite, (B,) bool; raises ScoresError if one
    is not.
    """
    # GPUs write to pinned memory several times faster.
    pinned = parts[0].is_cuda
    copies = [torch.empty(part.shape, dtype=part.dtype, pin_memory=pinned) for part in parts]
    for host, part in zip(copies, parts, strict=True):
        host.copy_(part, non_blocking=pinned)
    if pinned:
        torch.cuda.current_stream(parts[0].device).synchronize()
    labels, confidence, *more = (host.numpy() for host in copies)
    if more:
        check_finite(more.pop())
    return [DeviceSegmentation(*each) for each in zip(labels, confidence, *more, strict=True)]


def _pick_device(device: str) -> torch.device:
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise SettingError(f'unknown device {device!r}; use auto, cpu, cuda or cuda:N') from error
    if picked.type not in ('cpu', 'cuda'):
        raise SettingError(f'device {device!r} is not supported; use auto, cpu, cuda or cuda:N')
    if picked.type == 'cuda' and (picked.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            f'device {device!r} is not available ({torch.cuda.device_count()} CUDA devices '
            f'found); use auto or cpu, or install a torch build for your GPU'
        )
    return picked


def _pick_precision(precision: str, device: torch.device) -> str:
    if precision == 'auto':
        if computes_in_bf16(device):
            return 'bf16'
        return 'fp32' if device.type == 'cpu' else 'fp16'
    if precision not in _DTYPES:
        raise SettingError(
            f'precision {precision!r} is not supported by runtime torch; use one of '
            f'{", ".join(_DTYPES)}, or runtime openvino'
        )
    return precision


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether bf16 is faster than fp32 on a device.

    On a CPU this requires matrix units (AMX): with AVX-512's bf16 alone, it is slower.
    """
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Older versions of torch do not report capabilities.
    capabilities: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    return bool(capabilities.get('amx_bf16'))
