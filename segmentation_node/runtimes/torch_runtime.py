# SPDX-License-Identifier: Apache-2.0
"""PyTorch, on a CPU or an NVIDIA GPU."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.decision import Decided, Decision, decide
from segmentation_node.errors import SettingError, one_line
from segmentation_node.geometry import Geometry
from segmentation_node.graph import SegmentationGraph
from segmentation_node.passing_thread import in_passing_thread

_DTYPES: Final = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}

Bytes = npt.NDArray[np.uint8]


class TorchRuntime:
    """The graph in PyTorch, weights channels-last, under autocast where not in fp32."""

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
        self._ids = checkpoint.channel_ids
        try:
            self._graph = in_passing_thread(lambda: self._loaded(checkpoint, input_size))
        except RuntimeError as error:  # of torch: no memory left, or a driver that fails
            raise SettingError(
                f'device {self.device!r} does not take model {checkpoint.name!r} '
                f'({one_line(error)}); free its memory, or say another device or a smaller model'
            ) from error
        self._whole: Callable[[torch.Tensor], Any] = self._graph.forward
        self._coarse_scores: Callable[[torch.Tensor, Geometry], Any] = self._graph.coarse_scores

    def _loaded(
        self, checkpoint: Checkpoint, input_size: tuple[int, int] | None
    ) -> SegmentationGraph:
        graph = checkpoint.graph(input_size).to(self._device)
        graph.to(memory_format=torch.channels_last)
        return graph

    def decide(self, images_rgb: Bytes) -> list[Decision]:
        geometry = self._geometry(images_rgb, None)
        found = self._run(images_rgb, geometry)
        if self._device.type != 'cpu':
            return _decided(found)
        return [decide(scores, geometry, self._ids) for scores in found.numpy()]

    def forward(self, images_rgb: Bytes) -> None:
        self._run(images_rgb, self._geometry(images_rgb, None))
        if self._device.type != 'cpu':
            torch.cuda.synchronize(self._device)

    def _run(self, images_rgb: Bytes, geometry: Geometry) -> Any:
        """Scores of a batch at the network's stride on a CPU; on a GPU labels and confidence."""
        with torch.inference_mode(), self._autocast():
            batch = torch.from_numpy(images_rgb).to(self._device)
            if self._device.type != 'cpu':
                return self._whole(batch)
            return self._coarse_scores(batch, geometry).float().contiguous()

    def class_scores(self, images_rgb: Bytes, scale: float | None = None) -> torch.Tensor:
        """(B, H, W, 3) uint8 RGB to (B, C, H, W) float32 scores from 0 up, on the device.

        `scale` is in pixels of the network per pixel of the image; None is that of `decide`.
        """
        self._geometry(images_rgb, scale)
        with torch.inference_mode(), self._autocast():
            batch = torch.from_numpy(images_rgb).to(self._device)
            return self._graph.class_scores(batch, scale)

    def decide_scores(self, scores: torch.Tensor) -> list[Decision]:
        """What (B, C, H, W) scores say, such as are the sum of several."""
        with torch.inference_mode():
            return _decided(self._graph.decide(scores))

    def _geometry(self, images_rgb: Bytes, scale: float | None) -> Geometry:
        geometry = self._graph.geometry((images_rgb.shape[1], images_rgb.shape[2]), scale)
        geometry.check()
        return geometry

    def _autocast(self) -> torch.autocast:
        dtype = _DTYPES[self.precision]
        return torch.autocast(self._device.type, dtype, enabled=dtype is not torch.float32)


class CompiledTorchRuntime(TorchRuntime):
    """The graph compiled by torch.compile, with CUDA graphs on a GPU.

    Each size of batch is compiled when it first comes, which takes a minute or more; torch keeps
    what it compiled (TORCHINDUCTOR_CACHE_DIR).
    """

    name = 'torch_compiled'

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        precision: str,
        input_size: tuple[int, int] | None,
    ) -> None:
        super().__init__(checkpoint, device, precision, input_size)
        mode = 'default' if self._device.type == 'cpu' else 'max-autotune'
        try:
            # Told now rather than with the first frame: a compiler is missing.
            torch.compile(torch.neg)(torch.ones(1, device=self._device))
        except RuntimeError as error:
            raise SettingError(
                f'torch cannot compile on {self.device} ({one_line(error)}); install a C++ '
                f'compiler (Debian, Ubuntu: sudo apt install g++) and the headers of Python, or '
                f'say runtime torch'
            ) from error
        self._whole = torch.compile(self._graph.forward, mode=mode, dynamic=False)
        self._coarse_scores = torch.compile(self._graph.coarse_scores, mode=mode, dynamic=False)


def _decided(parts: Iterable[torch.Tensor]) -> list[Decision]:
    """Labels and confidence of a batch, (B, H, W) uint8 each on the device, by image."""
    labels, confidence = (part.cpu().numpy() for part in parts)
    return [Decided(*pair) for pair in zip(labels, confidence, strict=True)]


def _pick_device(device: str) -> torch.device:
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise SettingError(f'unknown device {device!r}; say auto, cpu, cuda or cuda:N') from error
    if picked.type not in ('cpu', 'cuda'):
        raise SettingError(f'device {device!r} is not supported; say auto, cpu, cuda or cuda:N')
    if picked.type == 'cuda' and (picked.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            f'device {device!r} is not there ({torch.cuda.device_count()} CUDA devices found); '
            f'say auto or cpu, or install a torch build for your GPU'
        )
    return picked


def _pick_precision(precision: str, device: torch.device) -> str:
    if precision == 'auto':
        return 'bf16' if computes_in_bf16(device) else 'fp32'
    if precision not in _DTYPES:
        raise SettingError(
            f'precision {precision!r} is none of the runtime torch, which has '
            f'{", ".join(_DTYPES)}; say one of these, or runtime openvino'
        )
    return precision


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 on a device: a CPU without units for it emulates it."""
    if device.type == 'cuda':
        return True
    # An older torch cannot tell.
    found: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    return bool(found.get('amx_bf16') or found.get('avx512_bf16'))
