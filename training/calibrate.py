# SPDX-License-Identifier: Apache-2.0
"""Calibrate the confidence of a checkpoint on labeled frames that it was not trained on.

    python -m training.calibrate runs/unet/checkpoint --set camvid --split val

The command fits a temperature, which leaves the labels unchanged, and writes it into
segmentation.yaml.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from segmentation_node.atomic import replacing
from segmentation_node.checkpoint import SPEC_FILE, Checkpoint, Spec, find_checkpoint
from segmentation_node.cli import HelpFormatter, add_quiet_option
from segmentation_node.errors import CheckpointError, DatasetError, SegmentationError, SettingError
from segmentation_node.metrics import UNCOUNTED, scored_classes, truth_lut_of
from segmentation_node.runtimes import RUNTIMES, Runtime, open_runtime
from segmentation_node.runtimes.choices import PRECISIONS
from training.calibration import Calibration
from training.labeled_frames import Frames
from training.set_options import add_set_options, open_set

#: Fewest frames for a cross-validation.
MIN_FRAMES: Final = 2


@dataclass(frozen=True)
class Fit:
    """Fitted temperature, with the expected calibration error of the old and the new confidence.

    `ece` is in sample, `ece_validated` in cross-validation: each half of the frames is calibrated
    by the temperature of the other one.
    """

    temperature: float
    ece_before: float
    ece: float
    ece_validated: float


def fit(halves: tuple[Calibration, Calibration], before: float = 1.0) -> Fit:
    """Fit a temperature to the counts of two halves of the frames, both at temperature 1.

    `before` is the present temperature.
    """
    first, second = halves
    total = first + second
    temperature = total.temperature()
    validated = first.at(second.temperature()) + second.at(first.temperature())
    return Fit(
        temperature, total.at(before).ece(), total.at(temperature).ece(), validated.ece()
    )  # fmt: skip


def count_frames(
    checkpoint: Checkpoint, engine: Runtime, frames: Frames, *, quiet: bool
) -> tuple[Calibration, Calibration]:
    """Count the pixels of both halves of the frames by confidence.

    The halves are consecutive, because neighboring frames of a video are nearly the same.

    Args:
        checkpoint: checkpoint of `engine`, with temperature 1.
        engine: runtime of the network.
        frames: at least MIN_FRAMES frames.
        quiet: hide the progress bar.

    Raises:
        DatasetError: there are too few frames, or no pixel of a scored class.
        SchemeError: the label schemes of frames and checkpoint cannot be compared.
    """
    if len(frames) < MIN_FRAMES:
        raise DatasetError(
            f'{frames.source} has {len(frames)} frame, expected at least {MIN_FRAMES}: one half '
            f'of the frames tests the calibration by the other half'
        )
    lut = truth_lut_of(frames.scheme, checkpoint.scheme)
    scored = [c.id for c in scored_classes(checkpoint.scheme)]
    lut = np.where(np.isin(lut, scored), lut, UNCOUNTED).astype(np.int16)
    halves = Calibration(), Calibration()
    progress = tqdm(frames, 'calibrating', len(frames), unit='frame', disable=quiet or None)
    for index, frame in enumerate(progress):
        [found] = engine.run(np.ascontiguousarray(frame.image_rgb)[None])
        half = halves[2 * index >= len(frames)]
        half.add(lut[frame.truth], found.labels, found.confidence)
    if not all(half.pixels.any() for half in halves):
        raise DatasetError(
            f'a half of {frames.source} has no pixel of a scored class; give frames with labels'
        )
    return halves


def write(folder: Path, **changes: float) -> None:
    """Replace fields of `segmentation.yaml` in a checkpoint folder atomically."""
    path = folder / SPEC_FILE
    with replacing(path) as aside:
        replace(Spec.read(path), **changes).write(aside)  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except (SegmentationError, OSError) as error:
        print(f'calibrate: {error}', file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.set is None or args.split is None:
        raise SettingError('expected labeled frames: give --set NAME --split NAME')
    frames = open_set(args)  # invalid data is reported before the model loads
    checkpoint = find_checkpoint(args.model)
    if not (checkpoint.folder / SPEC_FILE).is_file():
        raise CheckpointError(
            f'{checkpoint.folder} has no {SPEC_FILE} to write the temperature into; add one with '
            f'the lines "family: {checkpoint.spec.family}" and "label_scheme: '
            f'{checkpoint.spec.label_scheme}"'
        )
    raw = replace(checkpoint, spec=replace(checkpoint.spec, temperature=1.0))
    engine = open_runtime(
        args.runtime, raw,
        device=args.device, precision=args.precision, input_size=None, measure_aside=False,
    )  # fmt: skip
    halves = count_frames(raw, engine, frames, quiet=args.quiet)
    fitted = fit(halves, checkpoint.spec.temperature)
    print(
        f'{len(frames)} frames of {frames.source} on {engine.name}, {engine.device}, '
        f'{engine.precision}'
    )
    print(f'temperature {checkpoint.spec.temperature:g} -> {fitted.temperature:g}')
    print(
        f'ECE {fitted.ece_before:.4f} -> {fitted.ece_validated:.4f} in cross-validation over two '
        f'halves, {fitted.ece:.4f} on the same frames'
    )
    if args.dry_run:
        print('nothing was written (--dry-run)')
        return
    write(checkpoint.folder, temperature=fitted.temperature)
    print(f'written to {checkpoint.folder / SPEC_FILE}')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='calibrate',
        description='Fit the temperature of a checkpoint on labeled frames, so that of the pixels '
        'with a confidence of 0.8, 8 of 10 are correct, and write it into the checkpoint. The '
        'labels stay the same.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('model', metavar='CHECKPOINT', help='bundled name or checkpoint folder')
    parser.add_argument(
        '--dry-run', action='store_true', help='print the figures and write nothing'
    )
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--runtime', choices=RUNTIMES, default='auto', help='runtime of the network'
    )
    parser.add_argument(
        '--precision', choices=PRECISIONS, default='auto', help='precision of the network'
    )
    add_set_options(parser)
    add_quiet_option(parser)
    return parser


if __name__ == '__main__':
    sys.exit(main())
