# SPDX-License-Identifier: Apache-2.0
"""Tests of batches: they depend on the seed and the step alone, in every process."""

from collections import Counter
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from training_data import MASK2FORMER, fields, write_cityscapes, write_folders, write_instances

from segmentation_node.labels import load_scheme
from training.batches import RARE, Crops, Data, Plan, rare_channels
from training.config import Experiment

Batch = tuple[Tensor, Tensor]


class Place(pl.Trainer):
    """Stand-in for a trainer with a given rank, number of processes and epoch."""

    def __init__(self, epoch: int = 0, rank: int = 0, world: int = 1) -> None:
        self.place = epoch, rank, world

    @property
    def current_epoch(self) -> int:
        return self.place[0]

    @property
    def global_rank(self) -> int:
        return self.place[1]

    @property
    def world_size(self) -> int:
        return self.place[2]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data')
    write_folders(root / 'streets', 'train', 5)
    write_folders(root / 'streets', 'val', 3, first=90)
    write_cityscapes(root / 'towns', 'train', 2)
    return root


def data_of(root: Path, **changes: Any) -> Data:
    train = [
        {'set': 'streets', 'split': 'train', 'share': 3},
        {'set': 'towns', 'split': 'train', 'share': 1},
    ]
    return Data(Experiment.model_validate(fields(root, train=train, **changes)))


def batches(data: Data, epoch: int, rank: int = 0, world: int = 1) -> list[Batch]:
    data.trainer = Place(epoch, rank, world)
    return cast('list[Batch]', list(data.train_dataloader()))


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_depends_on_its_step_alone(root: Path) -> None:
    first, again = data_of(root), data_of(root)
    later = batches(again, 3)  # without running earlier epochs
    torch.rand(7)
    found = [batches(first, epoch) for epoch in range(4)]
    assert same(found[3][0], later[0])
    for epoch in range(3):
        assert not torch.equal(found[epoch][0][0], found[epoch + 1][0][0])
    images, channels = later[0]
    assert (images.shape, channels.shape) == ((4, 3, 32, 64), (4, 32, 64))
    assert (images.dtype, channels.dtype) == (torch.uint8, torch.int64)


def test_another_seed_is_another_order(root: Path) -> None:
    assert not same(batches(data_of(root), 0)[0], batches(data_of(root, seed=1), 0)[0])


@pytest.mark.parametrize('augment', [True, False])
def test_workers_give_what_one_process_gives(root: Path, augment: bool) -> None:
    plain = batches(data_of(root, augment=augment), 1)
    parallel = batches(data_of(root, augment=augment, workers=2), 1)
    assert len(plain) == len(parallel) == 1
    assert same(plain[0], parallel[0])


def test_drawing_crops_leaves_the_random_state_alone(root: Path) -> None:
    data = data_of(root)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Crops(data.train, data.augments)[0, 1, 99]
    assert torch.equal(torch.rand(3), expected)


def test_without_augmentation_an_image_is_always_the_same(root: Path) -> None:
    data = data_of(root, augment=False)
    crops = Crops(data.train, data.augments)
    assert same(crops[0, 2, 1], crops[0, 2, 2])
    varied = Crops(data.train, data_of(root).augments)
    assert not same(varied[0, 2, 1], varied[0, 2, 2])


def test_rare_classes_of_another_image_are_pasted(root: Path) -> None:
    data = data_of(root)
    plain = Crops(data.train, data.augments)
    pasted = Crops(data.train, data.augments, paste=1.0, rare=torch.tensor([2]))
    more = [
        ((pasted[0, 1, seed][1] == 2).sum() - (plain[0, 1, seed][1] == 2).sum()).item()
        for seed in range(20)
    ]
    assert min(more) >= 0
    assert max(more) > 0
    for seed in range(20):  # nothing but the pasted class changes
        before, after = plain[0, 1, seed][1], pasted[0, 1, seed][1]
        assert torch.equal(before[after != 2], after[after != 2])


def test_pasted_instances_stay_instances_of_their_own(tmp_path: Path) -> None:
    write_instances(tmp_path / 'towns', 'train', 2)
    experiment = Experiment.model_validate(
        fields(
            tmp_path, task='panoptic', family='mask2former', network=MASK2FORMER,
            train=[{'set': 'towns', 'split': 'train', 'share': 2}],
            val={'towns': {'set': 'towns', 'split': 'train'}},
        )
    )  # fmt: skip
    data = Data(experiment)
    vehicle = load_scheme('cityscapes8').id_of('vehicle')
    plain = Crops(data.train, data.augments)
    pasted = Crops(data.train, data.augments, paste=1.0, rare=torch.tensor([vehicle]))
    counts = []
    for seed in range(20):
        before, after = plain[0, 0, seed][1], pasted[0, 0, seed][1]
        is_new = before != after
        # The cars of both images have the same numbers in their files.
        assert not set(after[is_new].tolist()) & set(before[before > 255].tolist())
        assert (after[is_new] % 256 == vehicle).all()
        counts.append(int((after[is_new].unique() > 255).sum()))
    assert max(counts) == 2


def test_rare_channels_have_few_pixels(root: Path) -> None:
    data = data_of(root)
    scheme = load_scheme(data.experiment.label_scheme)
    counts = np.sum([images.channel_counts() for images in data.train], axis=0)[:255]
    shares = counts / counts.sum()
    assert rare_channels(data.train, scheme).tolist() == [
        c for c, share in enumerate(shares) if 0 < share < RARE and not scheme.learned[c].void
    ]


def test_a_set_may_have_a_scale_of_its_own(root: Path) -> None:
    train = [
        {'set': 'streets', 'split': 'train', 'share': 3},
        {'set': 'towns', 'split': 'train', 'share': 1, 'scale': [4, 4]},
    ]
    plain, own = data_of(root), Data(Experiment.model_validate(fields(root, train=train)))
    before, now = Crops(plain.train, plain.augments), Crops(own.train, own.augments)
    assert same(before[0, 1, 7], now[0, 1, 7])
    assert not same(before[1, 1, 7], now[1, 1, 7])


@pytest.mark.parametrize('world', [2, 4])
def test_processes_share_the_batches_of_one(root: Path, world: int) -> None:
    whole = batches(data_of(root), 2)
    parts = [batches(data_of(root), 2, rank, world) for rank in range(world)]
    for step, batch in enumerate(whole):
        for of_batch, (images, channels) in enumerate(zip(*batch, strict=True)):
            part = parts[of_batch % world][step]
            assert torch.equal(part[0][of_batch // world], images)
            assert torch.equal(part[1][of_batch // world], channels)
        assert sum(len(part[step][0]) for part in parts) == len(batch[0])


@pytest.mark.parametrize('world', [1, 2, 3])
def test_processes_part_the_validation_images(root: Path, world: int) -> None:
    data = data_of(root)
    found: list[float] = []
    for rank in range(world):
        data.trainer = Place(0, rank, world)
        (loader,) = data.val_dataloader()
        for images, channels in loader:
            assert images.shape == (1, 3, 64, 96)
            assert channels.dtype == torch.int64
            found.append(float(images.double().sum()))
    (images,) = data.val.values()
    expected = [float(images[i][0].double().sum()) for i in range(3)]
    assert sorted(found) == sorted(expected)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32), st.integers(1, 4))
def test_each_pass_goes_through_every_image_once(
    size: int, share: int, seed: int, passes: int
) -> None:
    plan = Plan((size,), (share,), seed)
    steps = -(-size * passes // share)
    picks = [pick for step in range(steps) for pick in plan.batch(step)]
    for turn in range(passes):
        counted = Counter(place for _, place, _ in picks[turn * size : (turn + 1) * size])
        assert counted == dict.fromkeys(range(size), 1)
    assert plan.batch(steps - 1) == picks[-share:]


def test_every_pick_is_augmented_in_another_way() -> None:
    plan = Plan((10, 10), (5, 3), 0)
    seeds = [seed for step in range(200) for _, _, seed in plan.batch(step)]
    assert len(set(seeds)) > 0.99 * len(seeds)


def test_passes_are_shuffled_anew_and_each_set_by_itself() -> None:
    plan = Plan((50, 50), (50, 50), 0)
    orders = [
        [place for index, place, _ in plan.batch(step) if index == of]
        for step in (0, 1)
        for of in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize(('size', 'share', 'steps'), [(10, 3, 3), (9, 3, 3), (2, 3, 1)])
def test_an_epoch_is_one_pass_over_the_first_set(size: int, share: int, steps: int) -> None:
    assert Plan((size, 99), (share, 1), 0).steps_per_epoch == steps
