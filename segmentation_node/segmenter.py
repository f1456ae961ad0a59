# SPDX-License-Identifier: Apache-2.0
"""The segmenter: what node, bag tools and evaluation all call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from segmentation_node.checkpoint import Checkpoint, load_checkpoint
from segmentation_node.choices import DEFAULT_MODEL, PRECISIONS, RUNTIMES
from segmentation_node.errors import ImageError, SettingError
from segmentation_node.geometry import scale_into
from segmentation_node.image_files import MAX_PIXELS, ImageRgb, check_size
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.models.network import one_line

_DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True)
class Prediction:
    """Label ids as published and confidence (255 = certain), each (B, H, W) uint8."""

    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]


class Segmenter:
    """Runs a checkpoint on batches of images; not for several threads at once.

    Raises:
        CheckpointError, SchemeError: the model cannot be loaded or published as asked.
        SettingError: a runtime, device or precision that is not to be had here, or a value out
            of range.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        runtime: str = 'auto',
        device: str = 'auto',
        precision: str = 'auto',
        input_size: tuple[int, int] | None = None,
        label_scheme: str | None = None,
        min_confidence: float = 0.0,
    ) -> None:
        """Load.

        Args:
            model: bundled name, folder, or hub id.
            runtime: one of RUNTIMES.
            device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
            precision: one of PRECISIONS.
            input_size: (height, width) box the image is fitted into; None is the checkpoint's.
            label_scheme: scheme to publish; None is the checkpoint's.
            min_confidence: in [0, 1]; pixels below it become void.
        """
        if runtime not in RUNTIMES:
            raise SettingError(f'unknown runtime {runtime!r}; there are {", ".join(RUNTIMES)}')
        if input_size is not None and min(input_size) < 1:
            raise SettingError(f'input_size {input_size} must be (height, width), both above 0')
        if not 0 <= min_confidence <= 1:
            raise SettingError(f'min_confidence {min_confidence} must lie in [0, 1]')
        self.runtime = 'torch'
        self.device = _pick_device(device)
        self.precision = _pick_precision(precision, self.device)
        self.checkpoint: Checkpoint = load_checkpoint(model)
        try:
            self._graph = self.checkpoint.graph(input_size).to(self.device)
            self._graph.to(memory_format=torch.channels_last)
        except RuntimeError as error:  # of torch: no memory left, or a driver that fails
            raise SettingError(
                f'device {str(self.device)!r} does not take model {model!r} ({one_line(error)}); '
                f'free its memory, or say another device or a smaller model'
            ) from error
        self.publish_as(label_scheme)
        self.min_confidence = min_confidence

    scheme: LabelScheme
    min_confidence: float

    def publish_as(self, label_scheme: str | None) -> None:
        """Publish another scheme than the checkpoint's own (None); raises SchemeError."""
        own = self.checkpoint.scheme
        scheme = own if label_scheme is None else load_scheme(label_scheme)
        self._published = None if scheme == own else own.mapping_to(scheme)
        self.scheme = scheme

    def segment(self, images_rgb: Sequence[ImageRgb] | ImageRgb) -> Prediction:
        """Segment a batch.

        Args:
            images_rgb: (B, H, W, 3) uint8, or a sequence of (H, W, 3) uint8 of one size.

        Raises:
            ImageError: not such a batch, or an image of no or too many pixels.
        """
        batch = self._batch(images_rgb, None)
        with torch.inference_mode(), self._autocast():
            labels, confidence = self._graph(batch)
        return self._finish(labels.cpu().numpy(), confidence.cpu().numpy())

    def class_scores(
        self, images_rgb: Sequence[ImageRgb] | ImageRgb, scale: float | None = None
    ) -> torch.Tensor:
        """Score classes, before any is decided for; what several views of an image are added as.

        Args:
            images_rgb: as for `segment`.
            scale: pixels of the network per pixel of the image; None is that of `segment`.

        Returns:
            (B, C, H, W) float32 on the device, from 0 up, a channel for each learned class.

        Raises:
            ImageError: as `segment`.
        """
        batch = self._batch(images_rgb, scale)
        with torch.inference_mode(), self._autocast():
            return self._graph.class_scores(batch, scale)

    def decide(self, scores: torch.Tensor) -> Prediction:
        """Labels and confidence of (B, C, H, W) class scores: `segment` is this of its own."""
        with torch.inference_mode():
            labels, confidence = self._graph.decide(scores)
        return self._finish(labels.cpu().numpy(), confidence.cpu().numpy())

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) box that images are fitted into; None keeps their own size."""
        return self._graph.size_hw

    def scale(self, image_hw: tuple[int, int]) -> float:
        """Pixels of the network per pixel of an image that `segment` is given."""
        return scale_into(self._graph.size_hw, image_hw)

    def _batch(
        self, images_rgb: Sequence[ImageRgb] | ImageRgb, scale: float | None
    ) -> torch.Tensor:
        batch = _as_batch(images_rgb)
        padded_h, padded_w = self._graph.geometry(batch.shape[1:3], scale).padded_hw
        if padded_h * padded_w > MAX_PIXELS:
            raise ImageError(
                f'an image of {batch.shape[2]} x {batch.shape[1]} must be padded to {padded_w} x '
                f'{padded_h} for the network, more than {MAX_PIXELS} pixels; expected the shape '
                f'of a camera image'
            )
        return torch.from_numpy(batch).to(self.device)

    def _autocast(self) -> torch.autocast:
        dtype = _DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32)

    def _finish(
        self, labels: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8]
    ) -> Prediction:
        if self._published is not None:
            published = cv2.LUT(labels.reshape(1, -1), self._published)
            labels = np.asarray(published, np.uint8).reshape(labels.shape)
        if self.min_confidence > 0:
            labels[confidence < round(self.min_confidence * 255)] = self.scheme.void_id
        return Prediction(labels, confidence)


def _as_batch(images_rgb: Sequence[ImageRgb] | ImageRgb) -> ImageRgb:
    if isinstance(images_rgb, np.ndarray):
        batch = images_rgb
    else:
        shapes = {image.shape for image in images_rgb}
        if len(shapes) != 1:
            raise ImageError(
                f'a batch needs at least one image and all of one size, got shapes '
                f'{sorted(shapes)}; segment images of different sizes one by one'
            )
        # A single image, the usual case, becomes a batch without a copy.
        batch = images_rgb[0][None] if len(images_rgb) == 1 else np.stack(images_rgb)
    if batch.ndim != 4 or batch.shape[3] != 3 or batch.dtype != np.uint8 or not len(batch):
        raise ImageError(
            f'expected RGB images as (B, H, W, 3) uint8, got {batch.shape} {batch.dtype}'
        )
    check_size(batch.shape[2], batch.shape[1])
    # torch shares the memory, and asks for writable, contiguous arrays even to read them.
    return batch if batch.flags.c_contiguous and batch.flags.writeable else batch.copy()


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
    if precision not in PRECISIONS:
        raise SettingError(f'unknown precision {precision!r}; there are {", ".join(PRECISIONS)}')
    if precision != 'auto':
        return precision
    return 'bf16' if computes_in_bf16(device) else 'fp32'


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 on a device: a CPU without units for it emulates it."""
    if device.type == 'cuda':
        return True
    # An older torch cannot tell.
    found: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    return bool(found.get('amx_bf16') or found.get('avx512_bf16'))
