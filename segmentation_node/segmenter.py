# SPDX-License-Identifier: Apache-2.0
"""The segmenter: what node, bag tools and evaluation all call."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.choices import DEFAULT_MODEL, DEFAULT_OVERLAY_ALPHA
from segmentation_node.decision import Decision
from segmentation_node.errors import ImageError, SettingError
from segmentation_node.geometry import scale_into
from segmentation_node.image_files import MAX_SIDE, ImageRgb, check_size
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.passing_thread import in_passing_thread
from segmentation_node.rendering import Rendered
from segmentation_node.runtimes import MeasuredRuntime, open_runtime

if TYPE_CHECKING:
    import torch

    from segmentation_node.runtimes.torch_runtime import TorchRuntime

LabelImages = npt.NDArray[np.uint8]


class Prediction:
    """What a batch of images shows; how sure the network is costs nothing unless asked for."""

    def __init__(self, labels: LabelImages, measure: Callable[[int], LabelImages]) -> None:
        self.labels, self._measure = labels, measure

    #: (B, H, W) uint8 ids as published.
    labels: LabelImages

    @cached_property
    def confidence(self) -> LabelImages:
        """(B, H, W) uint8, 255 is certain."""
        return _stacked([self.confidence_of(index) for index in range(len(self.labels))])

    def confidence_of(self, index: int) -> LabelImages:
        """That of one image, (H, W); threads may ask for different ones at a time."""
        return self._measure(index)


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
        measure_aside: bool = False,
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
            measure_aside: where `auto` has to be measured, run images meanwhile by what is ready
                first, as a camera needs it. Without it the first image of a size waits, and all
                are run alike.
        """
        if input_size is not None and not all(1 <= side <= MAX_SIDE for side in input_size):
            raise SettingError(
                f'input_size {input_size} must be (height, width), each from 1 to {MAX_SIDE}'
            )
        if not 0 <= min_confidence <= 1:
            raise SettingError(f'min_confidence {min_confidence} must lie in [0, 1]')
        self.checkpoint = find_checkpoint(model)
        self._runtime = open_runtime(
            runtime,
            self.checkpoint,
            device=device,
            precision=precision,
            input_size=input_size,
            measure_aside=measure_aside,
        )
        #: (height, width) box that images are fitted into; None keeps their own size.
        self.input_size = self.checkpoint.preprocessing(input_size).size_hw
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
        return self._prediction(self._runtime.decide(_as_batch(images_rgb)))

    def render(
        self, image_rgb: ImageRgb, overlay_alpha: float = DEFAULT_OVERLAY_ALPHA
    ) -> Rendered:
        """Segment one image, (H, W, 3) uint8, and return its pictures, painted when asked for.

        Args:
            image_rgb: as for `segment`.
            overlay_alpha: share of the colors in the overlay, in [0, 1].

        Raises:
            ImageError: as `segment`.
        """
        found = self.segment([image_rgb])
        return Rendered(
            image_rgb, found.labels[0], partial(found.confidence_of, 0), self.scheme, overlay_alpha
        )

    def prepare(self, image_hw: tuple[int, int]) -> None:
        """Get ready for images of one size, so that the first takes no longer than the others.

        Here a graph is converted and compiled, and `auto` measured, where that was not done
        before.

        Raises:
            CheckpointError, ImageError, SettingError: images of that size cannot be segmented.
        """
        check_size(image_hw[1], image_hw[0])
        in_passing_thread(lambda: self.segment(np.zeros((1, *image_hw, 3), np.uint8)))
        if isinstance(self._runtime, MeasuredRuntime):
            self._runtime.wait()

    def forward(self, images_rgb: Sequence[ImageRgb] | ImageRgb) -> None:
        """Run the network as `segment` does and decide nothing, to measure what that costs."""
        self._runtime.forward(_as_batch(images_rgb))

    def class_scores(
        self, images_rgb: Sequence[ImageRgb] | ImageRgb, scale: float | None = None
    ) -> 'torch.Tensor':
        """Score classes, before any is decided for; what several views of an image are added as.

        Args:
            images_rgb: as for `segment`.
            scale: pixels of the network per pixel of the image; None is that of `segment`.

        Returns:
            (B, C, H, W) float32 on the device, from 0 up, a channel for each learned class.

        Raises:
            ImageError: as `segment`.
            SettingError: the runtime is another one than torch.
        """
        return self._torch().class_scores(_as_batch(images_rgb), scale)

    def decide(self, scores: 'torch.Tensor') -> Prediction:
        """Labels and confidence of (B, C, H, W) class scores, as `class_scores` gives them."""
        return self._prediction(self._torch().decide_scores(scores))

    @property
    def runtime(self) -> str:
        """Name of what runs the network."""
        return self._runtime.name

    @property
    def device(self) -> str:
        """Where the network runs, such as 'cpu' or 'cuda:0'."""
        return self._runtime.device

    @property
    def offloads(self) -> bool:
        """Whether the network runs beside the CPU, on a device of its own.

        Then the CPU may read the next images meanwhile, and images in a batch take less time than
        one by one. On a CPU a batch takes as long as its images, and the memory of all of them.
        """
        return not self.device.startswith('cpu')

    @property
    def precision(self) -> str:
        """Arithmetic of the network."""
        return self._runtime.precision

    def scale(self, image_hw: tuple[int, int]) -> float:
        """Pixels of the network per pixel of an image that `segment` is given."""
        return scale_into(self.input_size, image_hw)

    def _torch(self) -> 'TorchRuntime':
        if self.runtime != 'torch':
            raise SettingError(
                f'runtime {self.runtime!r} gives labels, and class scores of any scale are asked '
                f'for; say runtime torch'
            )
        return cast('TorchRuntime', self._runtime)

    def _prediction(self, decisions: list[Decision]) -> Prediction:
        labels = _stacked([d.labels for d in decisions])
        found = Prediction(labels, lambda index: decisions[index].confidence)
        if self._published is not None:
            published = cv2.LUT(labels.reshape(1, -1), self._published)
            found.labels = np.asarray(published, np.uint8).reshape(labels.shape)
        if self.min_confidence > 0:
            unsure = found.confidence < round(self.min_confidence * 255)
            found.labels[unsure] = self.scheme.void_id
        return found


def _stacked(images: list[LabelImages]) -> LabelImages:
    """(B, H, W) of (H, W) each; of one image, the usual case, without a copy."""
    return images[0][None] if len(images) == 1 else np.stack(images)


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
