# SPDX-License-Identifier: Apache-2.0
"""Label quality of each variant, so that every speed is reported with its accuracy."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from segmentation_node.benchmark.calls import WorkerPool
from segmentation_node.benchmark.input_frames import InputFrames
from segmentation_node.benchmark.measurements import Quality
from segmentation_node.benchmark.variants import reference_of
from segmentation_node.images.label_files import read_labels
from segmentation_node.labels import LabelScheme
from segmentation_node.metrics import Confusion, truth_lut_of


def judge(
    pool: WorkerPool,
    scheme: LabelScheme,
    frames: InputFrames,
    work: Path,
    progress: Callable[[], object],
) -> list[Quality]:
    """Compare every variant's labels with those of the reference and with the ground truth.

    Args:
        pool: variants of one model, including its reference.
        scheme: label scheme of the model.
        frames: frames to label.
        work: folder for the label images; existing content is replaced.
        progress: called after each variant.

    Raises:
        SchemeError: the ground truth cannot be compared with the model's classes.
    """
    shutil.rmtree(work, ignore_errors=True)
    variants = pool.variants
    # The reference comes first.
    variants.sort(key=lambda variant: variant != reference_of(variant.model))
    reference: list[Path] | None = None
    qualities = []
    for variant in variants:
        files = pool.labels(variant, frames, work / '_'.join(variant.key[1:]))
        progress()
        if files is None:
            continue
        if variant == reference_of(variant.model):
            reference = files
        if reference is not None:
            qualities.append(
                Quality(
                    *variant.key,
                    frames.title,
                    frames.size,
                    agreement(reference, files),
                    _miou(scheme, frames, files),
                )
            )
    return qualities


def agreement(some: Sequence[Path], others: Sequence[Path]) -> float:
    """Return the share of pixels with equal labels in two lists of label files of equal sizes."""
    same = [read_labels(a) == read_labels(b) for a, b in zip(some, others, strict=True)]
    return sum(int(np.count_nonzero(of)) for of in same) / sum(int(of.size) for of in same)


def _miou(scheme: LabelScheme, frames: InputFrames, files: Sequence[Path]) -> float | None:
    if frames.scheme is None:
        return None
    lut, confusion = truth_lut_of(frames.scheme, scheme), Confusion()
    for truth, labels in zip(frames.labels, files, strict=True):
        confusion.add_target(lut[read_labels(truth, frames.scheme)], read_labels(labels))
    miou: float = confusion.scores(scheme).miou()
    return None if np.isnan(miou) else miou
