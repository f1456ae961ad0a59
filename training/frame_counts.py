# SPDX-License-Identifier: Apache-2.0
"""Pixel counts of every image of a validation, the basis of confidence intervals.

A file contains the counts of one or more validation sets, the one that determines the best epoch
first.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from segmentation_node.atomic import replacing
from segmentation_node.errors import ForeignError
from segmentation_node.metrics import iou_of
from segmentation_node.untrusted import parse_json

FRAME_COUNTS_FILE: Final = 'frame_counts.json'
#: Maximum number of images in a file, over all sets; with 19 classes the file has 8 MB.
MAX_FRAMES: Final = 20_000
MAX_BYTES: Final = 2**24
#: Rows of the counts of an image, as in `Scores.class_counts`.
KINDS: Final = ('correct', 'truth', 'predicted')

PixelCounts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FrameCounts:
    """Pixels of K scored classes in N images: correct, true and predicted ones, (N, 3, K) int64.

    Sorted by name, so that no result depends on the order of the images.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    counts: PixelCounts

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        names: Sequence[str],
        counts: Sequence[PixelCounts] | PixelCounts,
    ) -> 'FrameCounts':
        """Sort the counts of the images, each (3, K), by name.

        Raises:
            ValueError: shapes or values are impossible.
        """
        table = np.asarray(counts)
        if table.shape != (len(names), len(KINDS), len(classes)):
            raise ValueError(
                f'counts have shape {table.shape}; expected {len(KINDS)} rows of {len(classes)} '
                f'classes for each of {len(names)} images'
            )
        correct = table[:, :1]
        # A sum over 20,000 images of the largest size stays below 2^53, so it is exact as float.
        if ((table < 0) | (table > 2**38) | (table < correct)).any():
            raise ValueError('counts are negative, too large, or lower than the correct pixels')
        order = sorted(range(len(names)), key=lambda index: names[index])
        return cls(tuple(classes), tuple(names[i] for i in order), table[order].astype(np.int64))

    def __len__(self) -> int:
        return len(self.names)

    def miou(self) -> float:
        """Return the mIoU over all images."""
        return float(mean_iou(self.counts.sum(axis=0)))

    @cached_property
    def images(self) -> str:
        """Fingerprint of the images: classes, names and true pixels."""
        known = json.dumps([self.classes, self.names]).encode()
        return hashlib.sha256(known + self.counts[:, 1].tobytes()).hexdigest()


def mean_iou(counts: npt.NDArray[np.number[Any]]) -> npt.NDArray[np.float64]:
    """Return the mean IoU of the classes that occur, from (..., 3, K) counts; NaN without any."""
    iou = iou_of(counts)
    occurs = np.isfinite(iou)
    with np.errstate(invalid='ignore'):
        return np.asarray(np.where(occurs, iou, 0).sum(-1) / occurs.sum(-1), np.float64)


def write_frame_counts(path: Path, sets: Mapping[str, FrameCounts]) -> bool:
    """Write the counts by validation set; returns False for more images than MAX_FRAMES."""
    if sum(map(len, sets.values())) > MAX_FRAMES:
        path.unlink(missing_ok=True)
        return False
    content = {'sets': {name: _plain(counts) for name, counts in sets.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        aside.write_text(json.dumps(content, separators=(',', ':')) + '\n', encoding='utf-8')
    return True


def _plain(frames: FrameCounts) -> dict[str, Any]:
    kinds = {kind: frames.counts[:, row].tolist() for row, kind in enumerate(KINDS)}
    return {'classes': frames.classes, 'names': frames.names, **kinds}


def parse_frame_counts(content: bytes) -> dict[str, FrameCounts]:
    """Read the counts by validation set.

    Raises:
        ForeignError: the content is too long, is not JSON, or has impossible counts.
    """
    sets = parse_json(content, max_bytes=MAX_BYTES)
    try:
        found = {str(name): _parsed(given) for name, given in sets['sets'].items()}
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ForeignError(f'it does not contain counts of images ({error})') from error
    if sum(map(len, found.values())) > MAX_FRAMES:
        raise ForeignError(f'it has more than {MAX_FRAMES} images, the maximum')
    return found


def _parsed(given: Mapping[str, Any]) -> FrameCounts:
    classes, names = ([str(name) for name in given[key]] for key in ('classes', 'names'))
    rows = [np.array(given[kind]) for kind in KINDS]
    if any(row.dtype != np.int64 or row.ndim != 2 for row in rows):  # it would round fractions
        raise ValueError('counts are not rows of whole numbers')
    return FrameCounts.of(classes, names, np.stack(rows, axis=1))
