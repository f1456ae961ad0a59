# SPDX-License-Identifier: Apache-2.0
"""Lightning module of a network in training: steps, optimizer, validation."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.checkpoint import Spec
from segmentation_node.errors import SegmentationError
from segmentation_node.instances import DEFAULT_THRESHOLDS, Instances
from segmentation_node.labels import IGNORE, LabelScheme
from segmentation_node.metrics import UNCOUNTED, Confusion, Scores, scored_classes
from segmentation_node.networks.confidence import confidence_table
from segmentation_node.networks.graph import SegmentationGraph
from segmentation_node.networks.network import Network
from segmentation_node.networks.postprocessing import Segmentation
from segmentation_node.networks.preprocessing import Preprocessing
from segmentation_node.networks.queries import QueriesDecoder
from training.build import parameter_groups
from training.calibration import Calibration
from training.config import Experiment
from training.datasets import has_instance_images
from training.frame_counts import FrameCounts, PixelCounts
from training.losses import Objective
from training.panoptic_quality import PanopticCounts
from training.segments import classes_of, instances_of

#: Images of a validation that are not timed, unless there are no others.
WARM_UP = 3
#: Validation does not measure the distance from known images.
_NO_FEATURES: Final = np.empty(0, np.float32)


@dataclass
class Validation:
    """Sums over one pass over one validation set."""

    segments: PanopticCounts
    confusion: Confusion = field(default_factory=Confusion)
    frames: list[PixelCounts] = field(default_factory=list)  # of each image, (3, K)
    calibration: Calibration = field(default_factory=Calibration)
    loss: float = 0.0
    images: int = 0
    seconds: list[float] = field(default_factory=list)


class Task(pl.LightningModule):
    """Training of a network on an objective.

    Validation uses the graph's pre- and postprocessing, like the exported network. Labels are
    channels, or for a task with instances, segments of channels.
    """

    def __init__(
        self, experiment: Experiment, scheme: LabelScheme, network: Network, objective: Objective
    ) -> None:
        super().__init__()
        self.experiment, self.scheme, self.objective = experiment, scheme, objective
        preprocessing = Preprocessing(experiment.mean, experiment.std)
        label_scheme = Path(experiment.label_scheme).name  # a custom scheme file is copied along
        self.spec = Spec(experiment.family, label_scheme, preprocessing, task=experiment.task)
        # Channels instead of published ids: truth and prediction are compared as channels.
        channels = torch.arange(len(scheme.learned), dtype=torch.uint8)
        self.graph = SegmentationGraph(network, preprocessing, channels)
        #: Published id of each channel, (256,) uint8; void for all others.
        self._ids = np.full(256, scheme.void_id, np.uint8)
        self._ids[: len(scheme.learned)] = scheme.channel_ids
        self._decoder = _decoder(experiment, scheme) if experiment.has_instances else None
        scored = [c in scored_classes(scheme) for c in scheme.learned]
        #: Scored channel of each training target, (256,) int16; UNCOUNTED for void and IGNORE.
        self._scored_lut = np.full(256, UNCOUNTED, np.int16)
        self._scored_lut[: len(scored)] = np.where(scored, np.arange(len(scored)), UNCOUNTED)
        self.losses: list[Tensor] = []
        self.rate = 0.0  # of the newest step
        self.validations: list[Validation] = []

    @property
    def network(self) -> Network:
        """Network in training."""
        return self.graph.network

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Compute the loss of (B, 3, h, w) uint8 RGB and (B, h, w) int64 labels."""
        images, labels = batch
        # Dropout and sampled points depend on the step alone, like the batches, so that an
        # interrupted run ends with the same weights.
        step = self.global_step * self.trainer.world_size + self.global_rank
        torch.manual_seed(self.experiment.seed * 1_000_003 + step)
        pixels = self.graph.normalize(images)
        loss = self.objective.loss(self.objective.outputs(pixels), labels)
        if not torch.isfinite(loss):
            raise SegmentationError(
                f'loss is {loss.item()} at step {self.global_step}; lower learning_rate or '
                f'gradient_clip'
            )
        self.losses.append(loss.detach())
        self.rate = max(group['lr'] for group in self.trainer.optimizers[0].param_groups)
        return loss

    def on_train_epoch_start(self) -> None:
        self.losses.clear()

    def on_validation_epoch_start(self) -> None:
        self.validations = [
            Validation(PanopticCounts(self.scheme, has_instance_images(self.experiment, use)))
            for use in self.experiment.val.values()
        ]

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add (1, 3, H, W) uint8 RGB and (1, H, W) int64 labels, at the image's own size."""
        images, labels = batch
        sums = self.validations[dataloader_idx]
        # The points of the set loss depend on the image alone, not on the process.
        torch.manual_seed(batch_idx * self.trainer.world_size + self.global_rank)
        synchronize(self.device)
        began = time.perf_counter()
        outputs, segmentation = self._infer(images)
        synchronize(self.device)
        sums.seconds.append(time.perf_counter() - began)
        padded_h, padded_w = self.graph.geometry((images.shape[2], images.shape[3])).padded_hw
        border = (0, padded_w - images.shape[3], 0, padded_h - images.shape[2])
        padded = F.pad(labels, border, value=IGNORE)
        sums.loss += float(self.objective.loss(outputs, padded))
        sums.images += 1
        true = labels[0].cpu().numpy()
        truth, predicted = np.asarray(classes_of(true), np.uint8), segmentation.labels
        own = Confusion()
        own.add(truth, predicted)
        sums.confusion.counts += own.counts
        sums.frames.append(self._scores(own.counts).class_counts())
        target = self._scored_lut[truth]
        sums.calibration.add(target, predicted, segmentation.confidence)
        if segmentation.instances is not None:
            target_ids = np.where(target == UNCOUNTED, target, self._ids[truth])
            instances = instances_of(true).astype(np.uint16)
            ids = segmentation.instances.ids
            sums.segments.add(target_ids, instances, self._ids[predicted], ids)

    def predict(self, image: Tensor) -> UInt8Array:
        """Segment (3, H, W) uint8 RGB; returns (H, W) uint8 channels."""
        with torch.inference_mode():
            return self._infer(image[None].to(self.device))[1].labels

    def _infer(self, images: Tensor) -> tuple[Any, Segmentation]:
        """Return the outputs for the objective, and the channels of (1, 3, H, W) uint8 RGB."""
        images_rgb = images.permute(0, 2, 3, 1)
        geometry = self.graph.geometry((images_rgb.shape[1], images_rgb.shape[2]))
        outputs = self.objective.outputs(self.graph.preprocess(images_rgb, geometry))
        if self._decoder is None:
            segmented = self.graph.postprocess(self.objective.scores(outputs), geometry)
            channels, confidence = (part[0].cpu().numpy() for part in segmented)
            return outputs, _Channels(channels, confidence)
        queries = [logits[0].float().cpu().numpy() for logits in outputs[-1]]
        return outputs, self._decoder([*queries, _NO_FEATURES], geometry, DEFAULT_THRESHOLDS)

    def scores(self, index: int) -> tuple[Scores, float, float]:
        """Return scores, mean loss and median seconds per image of one validation set.

        Scores and loss are over all processes, the time is that of this process.
        """
        own = self.validations[index]
        sums = torch.tensor([own.loss, own.images], dtype=torch.float64, device=self.device)
        counts = torch.from_numpy(own.confusion.counts).to(self.device)
        counts, sums = (self.trainer.strategy.reduce(t, reduce_op='sum') for t in (counts, sums))
        warm = own.seconds[min(WARM_UP, len(own.seconds) - 1) :]
        return (
            self._scores(counts.cpu().numpy()),
            float(sums[0] / sums[1]),
            float(np.median(warm)),
        )

    def _scores(self, by_channel: PixelCounts) -> Scores:
        """Return the scores of pixel counts by channel, (256, 256)."""
        by_id = np.zeros((256, 256), np.int64)
        ids = self.scheme.channel_ids
        by_id[np.ix_(ids, ids)] = by_channel[: len(ids), : len(ids)]  # drops unannotated pixels
        # Pixels of no segment are predicted as void, also where it is not learned.
        by_id[ids, self.scheme.void_id] += by_channel[: len(ids), IGNORE]
        return Confusion(by_id).scores(self.scheme)

    def segments(self, index: int) -> PanopticCounts | None:
        """Return the segments of one validation set, over all processes.

        None for a task without instances.
        """
        if self._decoder is None:
            return None
        own = self.validations[index].segments
        sums = torch.from_numpy(own.sums).to(self.device)
        total = self.trainer.strategy.reduce(sums, reduce_op='sum')
        return PanopticCounts(self.scheme, own.things, total.cpu().numpy())

    def frame_counts(self, index: int, names: Sequence[str]) -> FrameCounts:
        """Return the counts of every image of one validation set, over all processes."""
        own = np.stack(self.validations[index].frames)  # (N / processes, 3, K)
        counts = np.zeros((len(names), *own.shape[1:]), np.int64)
        counts[self.global_rank :: self.trainer.world_size] = own  # as in `WholeImages`
        total = self.trainer.strategy.reduce(
            torch.from_numpy(counts).to(self.device), reduce_op='sum'
        )
        classes = [c.name for c in scored_classes(self.scheme)]
        return FrameCounts.of(classes, names, total.cpu().numpy())

    def temperature(self, index: int) -> float:
        """Return the temperature that calibrates the confidence on one validation set."""
        own = self.validations[index].calibration
        counts = torch.from_numpy(np.stack([own.pixels, own.right])).to(self.device)
        total = self.trainer.strategy.reduce(counts, reduce_op='sum').cpu().numpy()
        return Calibration(*total).temperature()

    def train_loss(self) -> float:
        """Return the mean loss of this epoch's steps, over all processes."""
        own = torch.stack(self.losses).mean()
        return float(self.trainer.strategy.reduce(own, reduce_op='mean'))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        experiment = self.experiment
        groups = parameter_groups(self.network, experiment)
        decay = experiment.weight_decay
        optimizer: torch.optim.Optimizer
        if experiment.optimizer == 'sgd':
            optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=decay)
        else:
            optimizer = torch.optim.AdamW(groups, weight_decay=decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(step, steps, experiment)
        )
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }


@dataclass(frozen=True)
class _Channels:
    """Channels of one image, and their confidence, without instances."""

    labels: UInt8Array
    confidence: UInt8Array
    features: Float32Array | None = None
    instances: Instances | None = None


def _decoder(experiment: Experiment, scheme: LabelScheme) -> QueriesDecoder:
    """Return a decoder of queries to channels; pixels of no segment are void, or IGNORE."""
    ids = scheme.channel_ids
    (void,) = np.flatnonzero(ids == scheme.void_id) if scheme.void_id in ids else (IGNORE,)
    return QueriesDecoder(
        experiment.task, np.arange(len(ids), dtype=np.uint8), scheme.countable_of(ids), int(void),
        confidence_table(1.0),
    )  # fmt: skip


def rate_at(step: int, steps: int, experiment: Experiment) -> float:
    """Return the learning rate at a step, as a share of the peak: linear warm-up, then decay.

    `cosine` decays along half a cosine; `poly` is the share of remaining steps to the power of
    0.9 (Chen et al., "DeepLab"). Both end at 0.
    """
    warm = max(1, round(experiment.warm_up * steps))
    if step < warm:
        return (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, steps - warm))
    if experiment.schedule == 'poly':
        return float((1 - done) ** 0.9)
    return 0.5 * (1 + math.cos(math.pi * done))


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work, so that timings are valid."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


class Average(WeightAveraging):
    """Exponential moving average of weights and buffers, used for validation and checkpoints.

    The decay starts small, so that the random initial weights fade quickly.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, newest: Tensor, updates: Tensor | int) -> Tensor:
            share = min(decay, (1 + float(updates)) / (10 + float(updates)))
            return averaged * share + newest * (1 - share)

        super().__init__(avg_fn=average)
