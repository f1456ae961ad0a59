# SPDX-License-Identifier: Apache-2.0
"""Deterministic batches: the seed and the step alone decide which images a batch contains.

An interrupted run therefore continues with the same batches, and several processes split the
batches that a single process would see.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segmentation_node.errors import DatasetError, SettingError
from segmentation_node.labels import IGNORE, LabelScheme, load_scheme
from training.augment import Augment, Cover
from training.config import Experiment, TrainUse
from training.datasets import has_instance_images
from training.draws import happens
from training.prepare import PreparedImages, prepared
from training.segments import classes_of, of_another_image

#: One image of a batch: index of its data set, index within the set, and augmentation seed.
Pick = tuple[int, int, int]
#: Share of the annotated pixels below which a class is rare.
RARE: Final = 0.04
NO_CHANNELS: Final = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Plan:
    """Picks of all batches; each data set is traversed in passes and reshuffled before each."""

    sizes: tuple[int, ...]
    shares: tuple[int, ...]
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in one pass over the first data set, at least 1."""
        return max(1, self.sizes[0] // self.shares[0])

    def batch(self, step: int) -> list[Pick]:
        """Return the picks of one step, over all processes."""
        return [
            pick
            for index, share in enumerate(self.shares)
            for pick in self._picks(index, range(step * share, (step + 1) * share))
        ]

    def _picks(self, index: int, positions: range) -> Iterator[Pick]:
        size = self.sizes[index]
        for position in positions:
            pass_number, place = divmod(position, size)
            order = np.random.default_rng((self.seed, index, pass_number)).permutation(size)
            image_seed = np.random.SeedSequence((self.seed, index, position)).generate_state(1)
            yield index, int(order[place]), int(image_seed[0])


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops, indexed by pick; each data set has its own augmentation.

    Labels are channels, or segments of channels. With probability `paste`, the pixels of `rare`
    channels in another crop of the same set are pasted in (Olsson et al., "ClassMix", WACV 2021,
    with the truth instead of a prediction).
    """

    def __init__(
        self,
        sets: Sequence[PreparedImages],
        augments: Sequence[Augment | Cover],
        paste: float = 0.0,
        rare: Tensor = NO_CHANNELS,
    ) -> None:
        self.sets, self.augments, self.paste, self.rare = sets, augments, paste, rare

    def __getitem__(self, pick: Pick) -> tuple[Tensor, Tensor]:
        """Return the crop, (3, h, w) uint8 RGB, and its labels, (h, w) int64."""
        index, place, seed = pick
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._crop(self.sets[index], place, self.augments[index])

    def _crop(
        self, images: PreparedImages, place: int, augment: Augment | Cover
    ) -> tuple[Tensor, Tensor]:
        if isinstance(augment, Cover):
            return augment(*images[place])
        image, labels = augment.place(*images[place])
        if happens(self.paste):
            other, theirs = augment.place(*images[int(torch.randint(len(images), ()))])
            pasted = torch.isin(classes_of(theirs), self.rare)
            image = other.where(pasted, image)
            labels = of_another_image(theirs).where(pasted, labels)
        return augment.recolor(image), labels


class WholeImages(Dataset[tuple[Tensor, Tensor]]):
    """Every `world`-th image of a validation set, starting at `rank`, at its own size."""

    def __init__(self, images: PreparedImages, rank: int, world: int) -> None:
        self.images, self.places = images, range(rank, len(images), world)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the image, (3, H, W) uint8 RGB, and its labels, (H, W) int64."""
        image, labels = self.images[self.places[index]]
        return image, labels.long()


class Data(pl.LightningDataModule):
    """Data sets of an experiment as batches; every process loads its part of each batch."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self.experiment = experiment
        _check_instances(experiment)
        scheme = load_scheme(experiment.label_scheme)
        self.train = [prepared(experiment, use, scheme) for use in experiment.train]
        self.val = {
            name: prepared(experiment, use, scheme) for name, use in experiment.val.items()
        }
        for name, images in self.val.items():
            if len(images) < experiment.processes:
                raise DatasetError(
                    f'validation set {name} has {len(images)} images for {experiment.processes} '
                    f'processes; expected at least one image per process: add images or use '
                    f'fewer devices'
                )
        shares = tuple(use.share for use in experiment.train)
        self.plan = Plan(tuple(map(len, self.train)), shares, experiment.seed)
        self.augments = [_augment(experiment, use) for use in experiment.train]
        self.rare = rare_channels(self.train, scheme) if experiment.paste else NO_CHANNELS

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        rank, world = self._rank_and_world
        first = self._trainer.current_epoch * self.plan.steps_per_epoch
        steps = range(first, first + self.plan.steps_per_epoch)
        # A list instead of a sampler, so that the loader knows the number of batches.
        batches: Any = [self.plan.batch(step)[rank::world] for step in steps]
        workers = self.experiment.workers
        return DataLoader(
            Crops(self.train, self.augments, self.experiment.paste, self.rare),
            batch_sampler=batches,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, Tensor]]]:
        sets = (WholeImages(images, *self._rank_and_world) for images in self.val.values())
        return [DataLoader(images, batch_size=1) for images in sets]

    @property
    def _rank_and_world(self) -> tuple[int, int]:
        """Rank of this process and the number of processes."""
        return self._trainer.global_rank, self._trainer.world_size

    @property
    def _trainer(self) -> pl.Trainer:
        return cast('pl.Trainer', self.trainer)


def _check_instances(experiment: Experiment) -> None:
    """Raise SettingError if the score of the best epoch cannot be measured."""
    name, use = next(iter(experiment.val.items()))
    if experiment.has_instances and not has_instance_images(experiment, use):
        raise SettingError(
            f'validation set {name!r} determines the best epoch of task {experiment.task}, but '
            f'data set {use.set} has no instance images; put a set with instances first in "val"'
        )


def rare_channels(sets: Sequence[PreparedImages], scheme: LabelScheme) -> Tensor:
    """Return the channels with less than RARE of the pixels, without void, (N,) int64."""
    counts = np.sum([images.channel_counts() for images in sets], axis=0)[:IGNORE]
    rare = np.flatnonzero((counts > 0) & (counts < RARE * counts.sum()))
    return torch.from_numpy(np.array([c for c in rare if not scheme.learned[c].void], np.int64))


def _augment(experiment: Experiment, use: TrainUse) -> Augment | Cover:
    if not experiment.augment:
        return Cover(experiment.crop_hw)
    return Augment(
        experiment.crop_hw,
        use.scale or experiment.scale,
        experiment.class_share,
        warp=experiment.warp,
        strong=experiment.strong,
    )
