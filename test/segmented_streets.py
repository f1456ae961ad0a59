# SPDX-License-Identifier: Apache-2.0
"""Small segmented images in the files of Cityscapes, with predictions that are partly right."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.images.files import encode_png
from segmentation_node.instances import Instances
from segmentation_node.labels import load_scheme

LABEL_IDS = load_scheme('cityscapes34')
TRAIN_IDS = load_scheme('cityscapes19')
SIZE_HW = (72, 120)
#: Values of instanceIds.png: void, stuff, groups, a class that is not scored, and instances.
BACKGROUND = (0, 4, 7, 8, 11, 21, 23)
OBJECTS = (1, 24, 26, 29, 33, 24001, 24002, 25001, 26001, 26002, 26003, 28001, 29001, 33001)


class Segmented(NamedTuple):
    """One image: values of its instanceIds.png, and predicted labels and instances.

    Predicted classes are those of cityscapes19.
    """

    name: str
    truth: UInt16Array  # (H, W)
    labels: UInt8Array  # (H, W)
    instances: Instances


def segmented(count: int, seed: int = 0) -> Iterator[Segmented]:
    """Draw images with random objects, each predicted well, badly, as another class or not."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        truth = np.zeros(SIZE_HW, np.uint16)
        labels = np.full(SIZE_HW, TRAIN_IDS.void_id, np.uint8)
        ids = np.zeros(SIZE_HW, np.uint16)
        class_ids: list[int] = []
        for values, sides in ((BACKGROUND, (30, 100)), (OBJECTS, (5, 40))):
            for value in rng.choice(values, len(values) - 2, replace=False).tolist():
                top, left = (int(rng.integers(0, side - 3)) for side in SIZE_HW)
                height, width = rng.integers(*sides, 2).tolist()
                truth[top : top + height, left : left + width] = value
                class_id = _predicted_class(value, rng)
                if class_id is None:
                    continue
                top, left, height, width = (
                    max(1, each + int(rng.integers(-3, 4))) for each in (top, left, height, width)
                )
                there = np.s_[top : top + height, left : left + width]
                labels[there], ids[there] = class_id, 0
                if TRAIN_IDS.countable_of(np.array([class_id], np.uint8))[0]:
                    class_ids.append(class_id)
                    ids[there] = len(class_ids)
        # Some scores are equal.
        scores = (rng.integers(1, 9, len(class_ids)) / 8).astype(np.float32)
        found = Instances(ids, np.array(class_ids, np.uint8), scores)
        yield Segmented(f'streets_{number:06}_000019', truth, labels, found)


def _predicted_class(value: int, rng: np.random.Generator) -> int | None:
    """Return the class to predict for an object: the right one, another one, or None."""
    label_id = value if value < 1000 else value // 1000
    classes = [c for c in TRAIN_IDS.learned if label_id in c.label_ids]
    if not classes or rng.random() < 0.2:
        return int(rng.choice([c.id for c in TRAIN_IDS.learned])) if rng.random() < 0.5 else None
    return classes[0].id


def label_ids_of(truth: UInt16Array) -> UInt8Array:
    """Return the label ids of an instanceIds.png, (H, W)."""
    return np.where(truth < 1000, truth, truth // 1000).astype(np.uint8)


def write_truth(root: Path, image: Segmented, split: str = 'val') -> Path:
    """Write an image's instanceIds.png below a folder; returns the file."""
    folder = root / 'gtFine' / split / image.name.partition('_')[0]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{image.name}_gtFine_instanceIds.png'
    path.write_bytes(encode_png(image.truth))
    return path
