# SPDX-License-Identifier: Apache-2.0
"""A model as its library's examples run it: what our segmenter is compared with.

The weights are those of the checkpoint. Everything else follows the habits of the examples and
of the nodes that were made of them: eager PyTorch in fp32, images scaled and normalized by the
library's own means, its own upsampling, labels by argmax, one frame at a time.
"""

from typing import Any, Final, Protocol

import cv2
import numpy as np
import torch

from segmentation_node.checkpoint import Checkpoint, load_checkpoint
from segmentation_node.errors import SettingError
from segmentation_node.geometry import DIVISOR
from segmentation_node.image_files import ImageRgb
from segmentation_node.labels import LabelScheme
from segmentation_node.metrics import LabelImage

#: Where the preprocessing of a hub checkpoint stands.
_PROCESSOR_FILE: Final = 'preprocessor_config.json'


class _Library(Protocol):
    """(H, W, 3) uint8 RGB to channels (H, W), on whatever device."""

    def channels(self, image_rgb: ImageRgb) -> torch.Tensor: ...


class CommonModel:
    """Labels of images, one by one."""

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
                f'no common usage is known of family {checkpoint.spec.family!r}; there are '
                f'{", ".join(_LIBRARIES)}: add one to {__name__}'
            )
        self._library = build(checkpoint, torch.device(device))

    def labels(self, image_rgb: ImageRgb) -> LabelImage:
        """(H, W, 3) uint8 RGB to label ids, (H, W) uint8."""
        with torch.no_grad():
            found = self._library.channels(image_rgb)
            channels: LabelImage = found.cpu().numpy().astype(np.uint8)
        # The examples publish channels as they are; ours have ids, which are often the same.
        if (self._ids == range(len(self._ids))).all():
            return channels
        return self._ids[channels]


class _Smp:
    """segmentation_models_pytorch: `model(x)` upsamples its logits itself."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        network: Any = checkpoint.network
        preprocessing = checkpoint.spec.preprocessing
        self._model = network.model.to(device).eval()
        self._box_hw = preprocessing.size_hw
        self._device = device
        self._mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)

    def channels(self, image_rgb: ImageRgb) -> torch.Tensor:
        height, width = image_rgb.shape[:2]
        # The models ask for multiples of their stride; images are resized to the nearest, and a
        # model that was trained at a size of its own gets that.
        network_h, network_w = self._box_hw or (height, width)
        network_wh = (self._multiple(network_w), self._multiple(network_h))
        if network_wh != (width, height):
            image_rgb = np.asarray(cv2.resize(image_rgb, network_wh), np.uint8)
        # What torchvision's ToTensor and Normalize do.
        pixels = torch.from_numpy(image_rgb).permute(2, 0, 1).to(self._device).float() / 255
        logits = self._model(((pixels - self._mean) / self._std).unsqueeze(0))
        found: torch.Tensor = logits.argmax(1)[0]
        if network_wh != (width, height):
            resized = cv2.resize(
                found.cpu().numpy().astype(np.uint8), (width, height),
                interpolation=cv2.INTER_NEAREST,
            )  # fmt: skip
            found = torch.from_numpy(np.asarray(resized))
        return found

    def _multiple(self, side: int) -> int:
        return max(1, round(side / DIVISOR)) * DIVISOR


class _Mask2Former:
    """transformers: image processor, model, `post_process_semantic_segmentation`.

    The processor of a hub checkpoint is its own. A checkpoint without one was trained on images
    as large as they are, so the processor only normalizes them: squashing them into the
    processor's default square would be cheaper, and other labels.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        from transformers import Mask2FormerImageProcessor

        network: Any = checkpoint.network
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

    def channels(self, image_rgb: ImageRgb) -> torch.Tensor:
        inputs = self._processor(images=image_rgb, return_tensors='pt').to(self._device)
        outputs = self._model(**inputs)
        found: torch.Tensor = self._processor.post_process_semantic_segmentation(
            outputs, target_sizes=[image_rgb.shape[:2]]
        )[0]
        return found


_LIBRARIES: Final[dict[str, Any]] = {
    'deeplabv3plus': _Smp,
    'unet': _Smp,
    'mask2former': _Mask2Former,
}
