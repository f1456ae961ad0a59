# SPDX-License-Identifier: Apache-2.0
"""Calibrate the confidence of a checkpoint on labeled frames that it was not trained on.

    python -m training.calibrate runs/unet/checkpoint --set camvid --split val

The command fits a temperature, which leaves the labels unchanged, and the images that the model
knows, so that frames unlike them are recognized. It writes both into segmentation.yaml, with the
figures for the model card.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.atomic import replacing
from segmentation_node.bags.camera_frames import evenly_spaced
from segmentation_node.checkpoint import SPEC_FILE, Checkpoint, Spec, find_checkpoint
from segmentation_node.cli import HelpFormatter, add_quiet_option, add_runtime_options
from segmentation_node.errors import CheckpointError, DatasetError, SegmentationError, SettingError
from segmentation_node.networks.domain import Domain
from segmentation_node.runtimes import Runtime, open_runtime
from segmentation_node.scoring import LabelComparison
from training.calibration import Calibration
from training.data_options import add_set_options, open_frames, open_split
from training.domain import detected, false_alarms, fit_domain, strange_frames
from training.evaluation import scored_lut
from training.labeled_frames import FileFrames, LabeledFrames

#: Fewest frames for a cross-validation.
MIN_FRAMES: Final = 2
#: Number of frames of each known set that are used, evenly spaced.
KNOWN_FRAMES: Final = 400
#: Number of validation frames from which frames at night are made.
STRANGE_FRAMES: Final = 20


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


@dataclass(frozen=True)
class Measured:
    """Pixels of a half of the frames by confidence, and the features of each frame."""

    calibration: Calibration = field(default_factory=Calibration)
    features: list[Float32Array] = field(default_factory=list)


def measure(
    checkpoint: Checkpoint, engine: Runtime, frames: LabeledFrames, *, quiet: bool
) -> tuple[Measured, Measured]:
    """Measure both halves of the frames.

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
    lut = scored_lut(LabelComparison(frames.scheme, checkpoint.scheme))
    halves = Measured(), Measured()
    progress = tqdm(frames, 'calibrating', len(frames), unit='frame', disable=quiet or None)
    for index, frame in enumerate(progress):
        [found] = engine.run(np.ascontiguousarray(frame.image_rgb)[None])
        half = halves[2 * index >= len(frames)]
        half.calibration.add(lut[frame.truth], found.labels, found.confidence)
        if found.features is not None:
            half.features.append(found.features)
    if not all(half.calibration.pixels.any() for half in halves):
        raise DatasetError(
            f'a half of {frames.source} has no pixel of a scored class; give frames with labels'
        )
    return halves


def known_features(engine: Runtime, frames: FileFrames, *, quiet: bool) -> list[Float32Array]:
    """Return the features of at most KNOWN_FRAMES frames, evenly spaced."""
    pairs = frames.files.pairs
    chosen = list(evenly_spaced(pairs, len(pairs), KNOWN_FRAMES))
    if len(chosen) < MIN_FRAMES:
        raise DatasetError(
            f'{frames.source} has {len(chosen)} frame, expected at least {MIN_FRAMES} that the '
            f'model knows'
        )
    progress = tqdm(chosen, frames.source, unit='frame', disable=quiet or None)
    return [features_of(engine, frames.files.read(pair)[0]) for pair in progress]


def features_of(engine: Runtime, image_rgb: UInt8Array) -> Float32Array:
    """Return the features of an image, (H, W, 3) uint8 RGB, (D,) float32.

    Raises:
        SettingError: the graph of the runtime has none.
    """
    [found] = engine.run(np.ascontiguousarray(image_rgb)[None])
    if found.features is None:
        raise SettingError(
            f'the graph for {engine.name} {engine.precision} was exported without features, by '
            f'which known images are recognized; export it again with export_model, use --runtime '
            f'torch, or calibrate the confidence only with --no-domain'
        )
    return found.features


def write(path: Path, temperature: float, domain: Domain | None, figures: dict[str, Any]) -> None:
    """Replace the fitted fields of `segmentation.yaml` and their figures atomically."""
    spec = Spec.read(path)
    known = {**spec.provenance.get('calibration', {}), **figures}
    spec = replace(
        spec, temperature=temperature, out_of_domain=domain,
        provenance={**spec.provenance, 'calibration': known},
    )  # fmt: skip
    with replacing(path) as aside:
        spec.write(aside)


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
    frames = open_frames(args)  # invalid data is reported before the model loads
    known = {} if args.no_domain else {name: open_split(args, *name) for name in _known(args)}
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
    if known:
        features_of(engine, next(iter(frames)).image_rgb)  # before an hour of work
    halves = measure(raw, engine, frames, quiet=args.quiet)
    first, second = (half.calibration for half in halves)
    fitted = fit((first, second), checkpoint.spec.temperature)
    print(
        f'{len(frames)} frames of {frames.source} on {engine.name}, {engine.device}, '
        f'{engine.precision}'
    )
    print(f'temperature {checkpoint.spec.temperature:g} -> {fitted.temperature:g}')
    print(
        f'ECE {fitted.ece_before:.4f} -> {fitted.ece_validated:.4f} in cross-validation over two '
        f'halves, {fitted.ece:.4f} on the same frames'
    )
    figures: dict[str, Any] = {
        'data': frames.source,
        'frames': len(frames),
        'ece_uncalibrated': (first + second).at(1.0).ece(),
        'ece': fitted.ece_validated,
    }
    domain = checkpoint.spec.out_of_domain
    if known:
        of_known = {
            each.source: known_features(engine, each, quiet=args.quiet) for each in known.values()
        }
        domain = fit_domain(of_known, [*halves[0].features, *halves[1].features])
        alarms = false_alarms(of_known, [half.features for half in halves])
        shares = {
            kind: detected(domain, features)
            for kind, features in _strange(engine, frames, quiet=args.quiet).items()
        }
        print(
            f'out of domain above a distance of {domain.threshold:g}: {alarms:.1%} of the frames '
            f'in cross-validation, '
            + ', '.join(f'{share:.0%} of {kind}' for kind, share in shares.items())
        )
        figures |= {'false_alarms': alarms, 'detected': shares}
    if args.dry_run:
        print('nothing was written (--dry-run)')
        return
    write(checkpoint.folder / SPEC_FILE, fitted.temperature, domain, figures)
    print(f'written to {checkpoint.folder / SPEC_FILE}')


def _known(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return set and split of each known set, the training split by default."""
    return args.known or [(args.set, 'train')]


def _strange(engine: Runtime, frames: FileFrames, *, quiet: bool) -> dict[str, list[Float32Array]]:
    """Return the features of frames that the model should not know, by kind."""
    pairs = frames.files.pairs
    found: dict[str, list[Float32Array]] = {}
    step = max(1, len(pairs) // STRANGE_FRAMES)
    for seed, pair in enumerate(tqdm(pairs[::step], 'strange', disable=quiet or None)):
        image_rgb, _ = frames.files.read(pair)
        for kind, strange in strange_frames(image_rgb, seed).items():
            found.setdefault(kind, []).append(features_of(engine, strange))
    return found


def _set_and_split(text: str) -> tuple[str, str]:
    name, colon, split = text.partition(':')
    if not (name and colon and split):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no split of a data set; expected SET:SPLIT, for example camvid:train'
        )
    return name, split


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='calibrate',
        description='Fit the temperature of a checkpoint on labeled frames, so that of the pixels '
        'with a confidence of 0.8, 8 of 10 are correct, and the images that the model knows, so '
        'that frames out of domain are recognized. Write both into the checkpoint. The labels '
        'stay the same.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('model', metavar='CHECKPOINT', help='bundled name or checkpoint folder')
    parser.add_argument(
        '--dry-run', action='store_true', help='print the figures and write nothing'
    )
    add_runtime_options(parser)
    parser.add_argument(
        '--known', type=_set_and_split, action='append', metavar='SET:SPLIT',
        help='images that the model was trained on, may be repeated (default: the split train of '
        '--set)',
    )  # fmt: skip
    parser.add_argument('--no-domain', action='store_true', help='fit the temperature only')
    add_set_options(parser)
    add_quiet_option(parser)
    return parser


if __name__ == '__main__':
    sys.exit(main())
