# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that knows images of noise, so that a black image is out of its domain."""

import shutil
from pathlib import Path

import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import SPEC_FILE, find_checkpoint
from segmentation_node.runtimes import open_runtime
from training.calibrate import features_of, write
from training.domain import fit_domain

BLACK = np.zeros((48, 64, 3), np.uint8)


def known_image(seed: int) -> UInt8Array:
    """Return an image that the model knows, (48, 64, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def write_known_model(checkpoint: Path, folder: Path) -> Path:
    """Copy a checkpoint and fit the images that it knows."""
    shutil.copytree(checkpoint, folder)
    engine = open_runtime(
        'torch', find_checkpoint(str(folder)), device='cpu', precision='fp32', input_size=None,
        measure_aside=False,
    )  # fmt: skip
    features = [features_of(engine, known_image(seed)) for seed in range(20)]
    write(folder / SPEC_FILE, 1.0, fit_domain({'noise': features[:12]}, features[12:]), {})
    return folder
