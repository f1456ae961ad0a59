# SPDX-License-Identifier: Apache-2.0
"""Which image goes into which batch; decided by the seed and the step alone.

So a run that was interrupted sees what it would have seen, and several processes share the
batches that one process would have had.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segmentation_node.errors import DatasetError
from segmentation_node.labels import load_scheme
from training.augment import Augment, Cover
from training.config import Experiment, TrainUse
from training.prepare import PreparedImages, prepared

#: One image of a batch: its data set, its place there, and the seed of its augmentation.
Pick = tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """The picks of all batches; each data set is gone through in passes, shuffled anew each."""

    sizes: tuple[int, ...]
    shares: tuple[int, ...]
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the first data set, one at least."""
        return max(1, self.sizes[0] // self.shares[0])

    def batch(self, step: int) -> list[Pick]:
        """All images of one step."""
        return [
            pick
            for index, share in enumerate(self.shares)
            for pick in self._of_set(index, range(step * share, (step + 1) * share))
        ]

    def _of_set(self, index: int, positions: range) -> Iterator[Pick]:
        size = self.sizes[index]
        for position in positions:
            turn, place = divmod(position, size)
            order = np.random.default_rng((self.seed, index, turn)).permutation(size)
            drawn = np.random.SeedSequence((self.seed, index, position)).generate_state(1)
            yield index, int(order[place]), int(drawn[0])


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crops by pick; each data set has an augmentation of its own."""

    def __init__(
        self, sets: Sequence[PreparedImages], augments: Sequence[Augment | Cover]
    ) -> None:
        self.sets, self.augments = sets, augments

    def __getitem__(self, pick: Pick) -> tuple[Tensor, Tensor]:
        """(3, h, w) uint8 RGB and (h, w) int64 channels."""
        index, place, seed = pick
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.augments[index](*self.sets[index][place])


class WholeImages(Dataset[tuple[Tensor, Tensor]]):
    """Every `world`-th image of a validation set, from `rank` on, at its own size."""

    def __init__(self, images: PreparedImages, rank: int, world: int) -> None:
        self.images, self.places = images, range(rank, len(images), world)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 RGB and (H, W) int64 channels."""
        image, channels = self.images[self.places[index]]
        return image, channels.long()


class Data(pl.LightningDataModule):
    """The data sets of an experiment as batches, each process its part of every one."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self.experiment = experiment
        scheme = load_scheme(experiment.label_scheme)
        self.train = [prepared(experiment, use, scheme) for use in experiment.train]
        self.val = {
            name: prepared(experiment, use, scheme) for name, use in experiment.val.items()
        }
        for name, images in self.val.items():
            if len(images) < experiment.devices:
                raise DatasetError(
                    f'validation set {name} has {len(images)} images for {experiment.devices} '
                    f'processes; give it more, or fewer devices'
                )
        shares = tuple(use.share for use in experiment.train)
        self.plan = Plan(tuple(map(len, self.train)), shares, experiment.seed)
        self.augments = [_augment(experiment, use) for use in experiment.train]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        rank, world = self._place
        first = self._trainer.current_epoch * self.plan.steps_per_epoch
        steps = range(first, first + self.plan.steps_per_epoch)
        # As a list: the loader takes it for its batches, and knows their number.
        batches: Any = [self.plan.batch(step)[rank::world] for step in steps]
        workers = self.experiment.workers
        return DataLoader(
            Crops(self.train, self.augments),
            batch_sampler=batches,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, Tensor]]]:
        sets = (WholeImages(images, *self._place) for images in self.val.values())
        return [DataLoader(images, batch_size=1) for images in sets]

    @property
    def _place(self) -> tuple[int, int]:
        """This process among all: its rank and their number."""
        return self._trainer.global_rank, self._trainer.world_size

    @property
    def _trainer(self) -> pl.Trainer:
        return cast('pl.Trainer', self.trainer)


def _augment(experiment: Experiment, use: TrainUse) -> Augment | Cover:
    if not experiment.augment:
        return Cover(experiment.crop_hw)
    return Augment(experiment.crop_hw, use.scale or experiment.scale, experiment.class_share)
