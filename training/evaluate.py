# SPDX-License-Identifier: Apache-2.0
"""Score a checkpoint on a data set or on a bag with ground truth, with the robot's inference code.

    python -m training.evaluate deeplabv3plus --set camvid --split val
    python -m training.evaluate --run runs/unet_camvid8 --set camvid --split val --flip
    python -m training.evaluate mask2former --bag drive.mcap
    python -m training.evaluate --bag drive.mcap --predicted /segmentation_node/label_mask

Each command writes a folder with all figures as scores.json and, readable, as report.md, and with
pictures of the confusion matrix and of the worst frames.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from segmentation_node import topics
from segmentation_node.bags.score_bag import TRUTH_TOPIC
from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.cli import (
    HelpFormatter,
    add_quiet_option,
    add_runtime_options,
    count,
    share,
    topic_name,
)
from segmentation_node.errors import CheckpointError, SegmentationError, SettingError
from segmentation_node.instances import SEMANTIC
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Segmenter
from training.boundary import TOLERANCE
from training.data_options import add_set_options, number_from_0, open_frames
from training.evaluation import WORST, Evaluation, evaluate, evaluate_recorded, model_name
from training.evaluation_folder import REPORT_FILE, check_free, write_folder
from training.inference_modes import USUAL_OVERLAP, USUAL_SCALES, WHOLE, InferenceMode
from training.labeled_frames import BagFrames, FileFrames

RUNS: Final = Path('runs')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _check(args)
        folder = _folder(args)
        check_free(folder)
        evaluation = _evaluate(args)
        # Printed before anything is written, so that a full disk does not lose the figures.
        overall = {name: value for name, value in evaluation.figures().items() if '/' not in name}
        print(', '.join(f'{name} {value:.4f}' for name, value in overall.items()))
        write_folder(evaluation, folder)
    except (SegmentationError, OSError) as error:
        print(f'evaluate: {error}', file=sys.stderr)
        return 1
    print(f'{evaluation.frames} frames of {evaluation.data}; report in {folder / REPORT_FILE}')
    if args.run is not None:
        print(f'send it to MLflow with: python -m training.tracking {args.run}')
    return 0


def _evaluate(args: argparse.Namespace) -> Evaluation:
    tolerance, worst, scheme = args.boundary_tolerance, args.worst, args.label_scheme
    if args.predicted is not None:
        return evaluate_recorded(
            _bag(args), label_scheme=scheme, tolerance=tolerance, worst=worst, quiet=args.quiet
        )
    # Invalid data is reported before the model loads, which takes seconds.
    mode = _mode(args)
    frames: BagFrames | FileFrames
    if args.bag is not None:
        frames = _bag(args)
    else:
        frames = open_frames(args, instances=_has_instances(_model(args)))
    segmenter = Segmenter(
        _model(args),
        runtime=args.runtime,
        device=args.device,
        precision=args.precision,
        input_size=None if args.input_size is None else tuple(args.input_size),
    )
    return evaluate(
        segmenter, frames, mode,
        label_scheme=scheme, tolerance=tolerance, worst=worst, quiet=args.quiet,
    )  # fmt: skip


def _has_instances(model: str) -> bool:
    try:
        return find_checkpoint(model).task != SEMANTIC
    except CheckpointError:
        return False  # reported after the data, when the segmenter opens the model


def _model(args: argparse.Namespace) -> str:
    return args.model or str(args.run / 'checkpoint')


def _mode(args: argparse.Namespace) -> InferenceMode:
    return InferenceMode(
        None if args.window is None else tuple(args.window),
        USUAL_OVERLAP if args.overlap is None else args.overlap,
        args.scales or WHOLE.scales,
        args.flip,
    )


def _bag(args: argparse.Namespace) -> BagFrames:
    return BagFrames(
        args.bag, args.topic, args.truth or TRUTH_TOPIC, args.predicted, args.truth_bag,
        args.salvage, None if args.label_scheme is None else load_scheme(args.label_scheme),
    )  # fmt: skip


def _folder(args: argparse.Namespace) -> Path:
    if args.output is not None:
        return Path(args.output)
    name = args.name or _name(args)
    return (
        RUNS / 'evaluation' / name
        if args.run is None
        else (args.run / 'artifacts' / 'evaluation' / name)
    )


def _name(args: argparse.Namespace) -> str:
    """Compose a folder name from the model, the data and the inference mode.

    The folder of a run omits the model: evaluations of several runs are compared by name.
    """
    if args.predicted is not None:
        model = args.predicted
    elif args.model is None:
        model = ''
    else:
        model = model_name(args.model)
    data = args.bag.stem if args.bag is not None else f'{args.set}-{args.split}'
    part = args.subset or ''
    part += '' if args.count is None else f'{args.count} of seed {args.seed}'
    scheme = '' if args.label_scheme is None else Path(args.label_scheme).stem
    box = '' if args.input_size is None else 'x'.join(map(str, args.input_size))
    mode = _mode(args).name.replace(WHOLE.name, '')
    words = (model, data, part, scheme, box, mode)
    parts = [re.sub(r'[^A-Za-z0-9.]+', '_', word).strip('_') for word in words]
    return '-'.join(filter(None, parts))


def _check(args: argparse.Namespace) -> None:
    """Raise SettingError for options that exclude or require each other."""
    if (args.set is None) == (args.bag is None):
        raise SettingError(
            'expected exactly one data source: give --set NAME --split NAME, or --bag BAG'
        )
    if args.set is not None and args.split is None:
        raise SettingError(f'--set {args.set} requires --split; for example, add --split val')
    for_sets = ('split', 'subset', 'count', 'experiment', 'data_root')
    for_bags = ('topic', 'truth', 'predicted', 'truth_bag', 'salvage')
    for names, other in ((for_sets, 'set'), (for_bags, 'bag')):
        for name in names:
            if getattr(args, name) and getattr(args, other) is None:
                raise SettingError(
                    f'--{name.replace("_", "-")} requires --{other}; add --{other}, or omit it'
                )
    models = [args.model is not None or args.run is not None, args.predicted is not None]
    if sum(models) != 1:
        raise SettingError(
            'expected exactly one thing to evaluate: give a model (bundled name, folder or hub '
            'id), --run for the checkpoint of a run, or --predicted TOPIC for recorded masks'
        )
    if args.predicted is not None:
        for name in ('window', 'scales', 'flip', 'input_size'):
            if getattr(args, name):
                raise SettingError(
                    f'--{name.replace("_", "-")} requires a model, but --predicted '
                    f'{args.predicted} scores recorded masks; omit one of them'
                )
    if args.overlap is not None and args.window is None:
        raise SettingError(f'--overlap {args.overlap:g} requires windows; add --window H W')
    if args.output is not None and args.name is not None:
        raise SettingError('--name and --output exclude each other; give only one of them')


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a list of scales; expected numbers such as 0.5,1,1.5'
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='evaluate',
        description='Score a checkpoint on a data set or on a bag with ground truth, with the '
        "robot's inference code: IoU by class and category, Dice, pixel accuracy, boundary "
        'F-score, PQ and AP of a model with instances, calibration, and the worst frames as '
        'pictures.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        'model', nargs='?', metavar='MODEL', help='bundled name, checkpoint folder, or hub id'
    )
    parser.add_argument(
        '--run', type=Path, metavar='FOLDER',
        help='training run whose checkpoint is evaluated; the result is added to its artifacts',
    )  # fmt: skip
    parser.add_argument(
        '--input-size', type=count, nargs=2, metavar=('H', 'W'),
        help="box to fit images into (default: the checkpoint's)",
    )  # fmt: skip
    add_runtime_options(parser, 'torch', '; windows and scales require torch')
    parser.add_argument(
        '--label-scheme', metavar='NAME|FILE',
        help='label scheme of the scores, if model and truth share only coarser classes '
        "(default: the model's)",
    )  # fmt: skip
    _add_data(parser)
    _add_modes(parser)
    parser.add_argument(
        '--boundary-tolerance', type=share, default=TOLERANCE, metavar='SHARE',
        help="tolerated distance between boundaries, as a share of the image's diagonal",
    )  # fmt: skip
    out = parser.add_argument_group('output')
    out.add_argument(
        '--output', type=Path, metavar='FOLDER',
        help=f'folder to write (default: {RUNS}/evaluation/NAME, or artifacts/evaluation/NAME in '
        f'the folder of --run)',
    )  # fmt: skip
    out.add_argument(
        '--name', help='name of the default folder (default: made from model, data and mode)'
    )
    out.add_argument(
        '--worst', type=number_from_0, default=WORST, metavar='N',
        help='number of worst frames to draw',
    )  # fmt: skip
    add_quiet_option(parser)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    add_set_options(parser)
    bags = parser.add_argument_group('bag')
    bags.add_argument(
        '--bag', type=Path, metavar='BAG',
        help='folder with metadata.yaml, or .mcap or .db3 file, with camera images and truth',
    )  # fmt: skip
    bags.add_argument(
        '--topic', type=topic_name, metavar='TOPIC',
        help='camera topic; required if the bag has several cameras',
    )  # fmt: skip
    bags.add_argument(
        '--truth', type=topic_name, metavar='TOPIC',
        help=f'ground-truth topic, with {topics.LABEL_INFO_JSON} in the same namespace (default: '
        f'{TRUTH_TOPIC})',
    )  # fmt: skip
    bags.add_argument(
        '--truth-bag', type=Path, metavar='BAG', help='bag with the truth (default: --bag)'
    )
    bags.add_argument(
        '--predicted', type=topic_name, metavar='TOPIC',
        help=f'recorded label masks to score instead of a model, for example '
        f'{topics.resolved(topics.LABEL_MASK)}',
    )  # fmt: skip
    bags.add_argument(
        '--salvage', action='store_true',
        help='read a truncated MCAP file as far as possible',
    )  # fmt: skip


def _add_modes(parser: argparse.ArgumentParser) -> None:
    modes = parser.add_argument_group(
        'inference mode (default: one pass over the whole image, as in the node)'
    )
    modes.add_argument(
        '--window', type=count, nargs=2, metavar=('H', 'W'),
        help='sliding window, in pixels at network resolution, for example the training crop',
    )  # fmt: skip
    modes.add_argument(
        '--overlap', type=share, metavar='SHARE',
        help=f'overlap of neighboring windows (default: {USUAL_OVERLAP:.2f})',
    )  # fmt: skip
    scales = modes.add_mutually_exclusive_group()
    scales.add_argument(
        '--scales', type=_scales, metavar='S,S', help='average the scores over several scales'
    )
    scales.add_argument(
        '--multi-scale', dest='scales', action='store_const', const=USUAL_SCALES,
        help='average over the scales usual in papers: '
        + ','.join(f'{s:g}' for s in USUAL_SCALES),
    )  # fmt: skip
    modes.add_argument(
        '--flip', action='store_true', help='average the scores with those of the flipped image'
    )


if __name__ == '__main__':
    sys.exit(main())
