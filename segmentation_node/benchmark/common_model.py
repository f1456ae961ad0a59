# SPDX-License-Identifier: Apache-2.0
"""Baseline for the segmenter: the model run as in the examples of its library.

The weights are those of the checkpoint. Everything else follows the library's examples and the
nodes derived from them: eager PyTorch in fp32, scaling, normalization and upsampling by the
library, labels by argmax, one frame at a time.
"""

from typing import Any, Final, Protocol

import cv2
import numpy as np
import torch

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import Checkpoint, load_checkpoint
from segmentation_node.errors import SettingError
from segmentation_node.labels import LabelScheme
from segmentation_node.networks.preprocessing import DIVISOR

#: File with the preprocessing settings of a hub checkpoint.
_PROCESSOR_FILE: Final = 'preprocessor_config.json'


class _Library(Protocol):
    """Model of a library that returns channels (H, W), on any device, for (H, W, 3) uint8 RGB."""

    def channels(self, image_rgb: UInt8Array) -> torch.Tensor: ...


class CommonModel:
    """Model run in the common way, image by image."""

    def __init__(self, model: str, device: str = 'auto') -> None:
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.device = device
        checkpoint = load_checkpoint(model)
        self.scheme: LabelScheme = checkpoint.scheme
        self._ids = checkpoint.channel_ids
        build = _LIBRARIES.get(checkpoint.spec.family)
        if build is None:
            raise SettingError(
                f'there is no baseline for family {checkpoint.spec.family!r}, only for '
                f'{", ".join(_LIBRARIES)}; add one to {__name__}'
            )
        self._library = build(checkpoint, torch.device(device))

    def labels(self, image_rgb: UInt8Array) -> UInt8Array:
        """Return label ids, (H, W) uint8, of an image, (H, W, 3) uint8 RGB."""
        with torch.no_grad():
            tensor = self._library.channels(image_rgb)
            channels: UInt8Array = tensor.cpu().numpy().astype(np.uint8)
        # The examples publish channels directly. Our labels are ids, which are often the same.
        if (self._ids == range(len(self._ids))).all():
            return channels
        return self._ids[channels]


class _Smp:
    """Model of segmentation_models_pytorch, where `model(x)` upsamples its own logits."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        network: Any = checkpoint.load_network()
        preprocessing = checkpoint.spec.preprocessing
        self._model = network.model.to(device).eval()
        self._box_hw = preprocessing.size_hw
        self._device = device
        self._mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)

    def channels(self, image_rgb: UInt8Array) -> torch.Tensor:
        height, width = image_rgb.shape[:2]
        # The models require multiples of their stride, so images are resized to the nearest one.
        # A model that was trained at a fixed size gets that size.
        network_h, network_w = self._box_hw or (height, width)
        network_wh = (self._multiple(network_w), self._multiple(network_h))
        if network_wh != (width, height):
            image_rgb = np.asarray(cv2.resize(image_rgb, network_wh), np.uint8)
        # Equivalent to ToTensor and Normalize of torchvision.
        pixels = torch.from_numpy(image_rgb).permute(2, 0, 1).to(self._device).float() / 255
        logits = self._model(((pixels - self._mean) / self._std).unsqueeze(0))
        channels: torch.Tensor = logits.argmax(1)[0]
        if network_wh != (width, height):
            resized = cv2.resize(
                channels.cpu().numpy().astype(np.uint8), (width, height),
                interpolation=cv2.INTER_NEAREST,
            )  # fmt: skip
            channels = torch.from_numpy(np.asarray(resized))
        return channels

    def _multiple(self, side: int) -> int:
        return max(1, round(side / DIVISOR)) * DIVISOR


class _Mask2Former:
    """Model of transformers: image processor, model, `post_process_semantic_segmentation`.

    Hub checkpoints come with a processor. A checkpoint without one was trained on images at their
    original size, so the processor only normalizes them: resizing them to the processor's default
    square would be cheaper but change the labels.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        from transformers import Mask2FormerImageProcessor

        network: Any = checkpoint.load_network()
        self._model = network.model.to(device).eval()
        self._device = device
        if (checkpoint.folder / _PROCESSOR_FILE).is_file():
            self._processor: Any = Mask2FormerImageProcessor.from_pretrained(checkpoint.folder)
            return
        preprocessing = checkpoint.spec.preprocessing
        height, width = preprocessing.size_hw or (0, 0)
        self._processor = Mask2FormerImageProcessor(
            do_resize=preprocessing.size_hw is not None,
            size={'height': height, 'width': width} if preprocessing.size_hw else None,
            image_mean=list(preprocessing.mean),
            image_std=list(preprocessing.std),
        )

    def channels(self, image_rgb: UInt8Array) -> torch.Tensor:
        inputs = self._processor(images=image_rgb, return_tensors='pt').to(self._device)
        outputs = self._model(**inputs)
        channels: torch.Tensor = self._processor.post_process_semantic_segmentation(
            outputs, target_sizes=[image_rgb.shape[:2]]
        )[0]
        return channels


_LIBRARIES: Final[dict[str, Any]] = {
    'deeplabv3plus': _Smp,
    'unet': _Smp,
    'deeplabv3': _Smp,
    'mask2former': _Mask2Former,
}
