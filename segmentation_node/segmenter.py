# SPDX-License-Identifier: Apache-2.0
"""Segmenter: the class that the node, the bag tools and the evaluation all call."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.errors import ImageError, SettingError
from segmentation_node.images.files import MAX_SIDE, check_size
from segmentation_node.images.rendering import Rendered
from segmentation_node.instances import DEFAULT_THRESHOLDS, SEMANTIC, Instances, Thresholds
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.networks.postprocessing import Segmentation
from segmentation_node.networks.preprocessing import scale_into
from segmentation_node.runtimes import MeasuredRuntime, Runtime, open_runtime
from segmentation_node.runtimes.choices import DEFAULT_MODEL, DEFAULT_OVERLAY_ALPHA
from segmentation_node.runtimes.short_thread import in_short_thread

_log = logging.getLogger(__name__)


class Prediction:
    """Labels of a batch of images, and their confidence, which is computed on first access."""

    def __init__(
        self,
        labels: UInt8Array,
        measure: Callable[[int], UInt8Array],
        distances: tuple[float, ...] | None = None,
        max_distance: float | None = None,
        find_instances: Callable[[int], Instances | None] = lambda _: None,
    ) -> None:
        self.labels, self._measure, self._find_instances = labels, measure, find_instances
        self.distances, self.max_distance = distances, max_distance

    #: Published label ids, (B, H, W) uint8.
    labels: UInt8Array
    #: Distance of each image from those that the model knows; None if it is not available.
    distances: tuple[float, ...] | None
    #: Distance above which an image is out of domain; None if there are no distances.
    max_distance: float | None

    @property
    def out_of_domain(self) -> tuple[bool, ...] | None:
        """True for each image that is unlike those that the model knows; None if unknown."""
        if self.distances is None or self.max_distance is None:
            return None
        return tuple(distance > self.max_distance for distance in self.distances)

    @cached_property
    def confidence(self) -> UInt8Array:
        """Confidence, (B, H, W) uint8; 255 is certain."""
        return _stacked([self.confidence_of(index) for index in range(len(self.labels))])

    def confidence_of(self, index: int) -> UInt8Array:
        """Return the confidence of one image, (H, W); threads may ask for different images."""
        return self._measure(index)

    def instances_of(self, index: int) -> Instances | None:
        """Return the instances of one image, computed now; None if the model has none.

        Where a pixel has an instance, its label is the class of this instance. Threads may ask for
        different images.
        """
        return self._find_instances(index)


class Segmenter:
    """Runs a checkpoint on batches of images; not thread-safe.

    Raises:
        CheckpointError, SchemeError: the model cannot be loaded, or its labels cannot be published
            in the requested scheme.
        SettingError: the runtime, device or precision is not available on this machine, or a value
            is out of range.
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
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        measure_aside: bool = False,
        threads: int = 0,
    ) -> None:
        """Load a model.

        Args:
            model: bundled name, folder, or hub id.
            runtime: one of RUNTIMES.
            device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
            precision: one of PRECISIONS.
            input_size: (height, width) box to fit images into; None uses the checkpoint's.
            label_scheme: scheme to publish; None uses the checkpoint's.
            min_confidence: in [0, 1]; pixels below it become void.
            thresholds: of the segments of a panoptic model or of one of instances.
            measure_aside: while `auto` is being measured, run images with the first runtime that
                is ready, as a camera stream needs it. Otherwise the first image of a size waits
                for the measurement, and the same runtime runs all images.
            threads: number of threads that OpenVINO and ONNX Runtime use for the network; with 0,
                they choose.
        """
        if input_size is not None and not all(1 <= side <= MAX_SIDE for side in input_size):
            raise SettingError(
                f'input_size {input_size} must be (height, width), each from 1 to {MAX_SIDE}'
            )
        if not 0 <= min_confidence <= 1:
            raise SettingError(f'min_confidence {min_confidence} must lie in [0, 1]')
        self.checkpoint = find_checkpoint(model)
        #: What runs the network.
        self.engine: Runtime = open_runtime(
            runtime,
            self.checkpoint,
            device=device,
            precision=precision,
            input_size=input_size,
            measure_aside=measure_aside,
            threads=threads,
        )
        #: (height, width) box that images are fitted into; None keeps their size.
        self.input_size = self.checkpoint.preprocessing(input_size).size_hw
        self._warned_of = ''
        self.publish_as(label_scheme)
        self.min_confidence = min_confidence
        self.thresholds = thresholds

    scheme: LabelScheme
    min_confidence: float
    thresholds: Thresholds

    def publish_as(self, label_scheme: str | None) -> None:
        """Set the scheme to publish; None is the checkpoint's own. Raises SchemeError."""
        own = self.checkpoint.scheme
        scheme = own if label_scheme is None else load_scheme(label_scheme)
        self._published = None if scheme == own else own.mapping_to(scheme)
        self.scheme = scheme

    def segment(self, images_rgb: Sequence[UInt8Array] | UInt8Array) -> Prediction:
        """Segment a batch.

        Args:
            images_rgb: (B, H, W, 3) uint8, or a sequence of (H, W, 3) uint8 of one size.

        Raises:
            ImageError: the batch has another shape or dtype, or its images are empty or too large.
        """
        return self.publish(self.engine.run(_as_batch(images_rgb), self.thresholds))

    def render(
        self,
        image_rgb: UInt8Array,
        overlay_alpha: float = DEFAULT_OVERLAY_ALPHA,
        *,
        outlines: bool = False,
    ) -> Rendered:
        """Segment one image, (H, W, 3) uint8, and return its pictures, painted when asked for.

        Args:
            image_rgb: as for `segment`.
            overlay_alpha: share of the colors in the overlay, in [0, 1].
            outlines: paint the outlines of instances in the overlay.

        Raises:
            ImageError: as `segment`.
        """
        found = self.segment([image_rgb])
        outside, distances = found.out_of_domain, found.distances
        return Rendered(
            image_rgb, found.labels[0], partial(found.confidence_of, 0), self.scheme,
            overlay_alpha, out_of_domain=None if outside is None else outside[0],
            distance=None if distances is None else distances[0],
            find_instances=partial(found.instances_of, 0), outlines=outlines,
        )  # fmt: skip

    def prepare(self, image_hw: tuple[int, int]) -> None:
        """Prepare for images of one size, so that the first one takes no longer than the others.

        This converts and compiles the graph, and measures `auto`, unless the results are cached.

        Raises:
            CheckpointError, ImageError, SettingError: images of this size cannot be segmented.
        """
        check_size(image_hw[1], image_hw[0])
        in_short_thread(lambda: self.segment(np.zeros((1, *image_hw, 3), np.uint8)))
        if isinstance(self.engine, MeasuredRuntime):
            self.engine.wait()

    def forward(self, images_rgb: Sequence[UInt8Array] | UInt8Array) -> None:
        """Run the network as `segment` does, without postprocessing, to measure its latency."""
        self.engine.forward(_as_batch(images_rgb))

    @property
    def runtime(self) -> str:
        """Name of the runtime."""
        return self.engine.name

    @property
    def device(self) -> str:
        """Device that the network runs on: 'cpu', 'cuda:0', ..."""
        return self.engine.device

    @property
    def has_instances(self) -> bool:
        """True if the model tells instances apart."""
        return self.checkpoint.task != SEMANTIC

    @property
    def offloads(self) -> bool:
        """True if the network runs on a device other than the CPU.

        The CPU is then free to read the next images, and a batch takes less time than its images
        one by one. On a CPU a batch takes as long, and needs the memory of all its images.
        """
        return not self.device.startswith('cpu')

    @property
    def precision(self) -> str:
        """Numerical precision of the network."""
        return self.engine.precision

    def scale(self, image_hw: tuple[int, int]) -> float:
        """Return the scale at which `segment` runs an image, in network pixels per image pixel."""
        return scale_into(self.input_size, image_hw)

    def publish(self, segmentations: Sequence[Segmentation]) -> Prediction:
        """Convert segmentations of the engine to the published scheme; applies min_confidence."""
        labels = _stacked([each.labels for each in segmentations])
        lut, unsure = self._published, None

        def find_instances(index: int) -> Instances | None:
            found = segmentations[index].instances
            hidden = None if unsure is None else unsure[index]
            return None if found is None else found.published(lut, hidden)

        prediction = Prediction(
            labels,
            lambda index: segmentations[index].confidence,
            *self._distances(segmentations),
            find_instances,
        )
        if self._published is not None:
            published = cv2.LUT(labels.reshape(1, -1), self._published)
            prediction.labels = np.asarray(published, np.uint8).reshape(labels.shape)
        if self.min_confidence > 0:
            unsure = prediction.confidence < round(self.min_confidence * 255)
            prediction.labels[unsure] = self.scheme.void_id
        return prediction

    def _distances(
        self, segmentations: Sequence[Segmentation]
    ) -> tuple[tuple[float, ...] | None, float | None]:
        """Return the distance of each image and the maximum; None without fit or features."""
        domain = self.checkpoint.spec.out_of_domain
        features = [each.features for each in segmentations]
        if domain is None:
            return None, None
        if any(each is None for each in features):
            self._warn_without_features()
            return None, None
        distances = tuple(domain.distance(each) for each in features if each is not None)
        return distances, domain.threshold

    def _warn_without_features(self) -> None:
        if self.runtime != self._warned_of:
            self._warned_of = self.runtime
            _log.warning(
                '%s: the graph for %s %s has no features, so frames out of domain are not '
                'recognized; export it again with export_model',
                self.checkpoint.name, self.runtime, self.precision,
            )  # fmt: skip


def _stacked(images: list[UInt8Array]) -> UInt8Array:
    """Stack (H, W) images to (B, H, W); a single image, the usual case, is not copied."""
    return images[0][None] if len(images) == 1 else np.stack(images)


def _as_batch(images_rgb: Sequence[UInt8Array] | UInt8Array) -> UInt8Array:
    """Return images as one C-contiguous batch, (B, H, W, 3) uint8; raises as `segment`."""
    if isinstance(images_rgb, np.ndarray):
        batch = images_rgb
    else:
        shapes = {image.shape for image in images_rgb}
        if len(shapes) != 1:
            raise ImageError(
                f'a batch needs at least one image, and all images must have one size; got shapes '
                f'{sorted(shapes)}; segment images of different sizes one by one'
            )
        # A single image, the usual case, becomes a batch without a copy.
        batch = images_rgb[0][None] if len(images_rgb) == 1 else np.stack(images_rgb)
    if batch.ndim != 4 or batch.shape[3] != 3 or batch.dtype != np.uint8 or not len(batch):
        raise ImageError(
            f'expected RGB images as (B, H, W, 3) uint8, got {batch.shape} {batch.dtype}'
        )
    check_size(batch.shape[2], batch.shape[1])
    # torch shares the memory, and requires writable, contiguous arrays even for reading.
    return batch if batch.flags.c_contiguous and batch.flags.writeable else batch.copy()
