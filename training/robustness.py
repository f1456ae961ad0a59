# SPDX-License-Identifier: Apache-2.0
"""Score checkpoints on corrupted frames, with the robot's inference code.

    python -m training.robustness deeplabv3plus unet --set camvid --split val --output DIR
    python -m training.robustness unet --set camvid --split val --kinds eight --output DIR
    python -m training.robustness --run runs/unet --set camvid --split val

The folder has all figures as robustness.json and, readable, as report.md, a chart of the figures,
and a frame under every kind. A seed determines the corruptions, so all models see the same
images. The figures are written after each severity of a kind; repeating the command continues.
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import Final, TypeVar

from tqdm import tqdm

from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.cli import HelpFormatter, add_quiet_option, add_runtime_options
from segmentation_node.errors import SegmentationError, SettingError
from segmentation_node.scoring import LabelComparison
from segmentation_node.segmenter import Segmenter
from training.calibration import Calibration
from training.corruptions.kinds import GROUPS, KINDS, SEVERITIES, Case, cases_of, corrupt
from training.data_options import add_set_options, open_frames
from training.datasets import FilePair
from training.evaluation import model_name, scored_lut
from training.labeled_frames import FileFrames, LabeledFrame
from training.robustness_charts import draw_contact_sheet, write_chart
from training.robustness_report import report, summary_table
from training.robustness_results import (
    CLEAN,
    IN_RUN,
    RESULTS_FILE,
    Figures,
    ModelRobustness,
    RobustnessResults,
    percent,
)

REPORT_FILE: Final = 'report.md'
CHART_FILE: Final = 'robustness.png'
SHEET_FILE: Final = 'corruptions.png'

ItemT = TypeVar('ItemT')
ResultT = TypeVar('ResultT')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        models, folder = _models(args), _folder(args)
        cases = [CLEAN, *cases_of(args.kinds, args.severities)]
        frames = open_frames(args)
        results = _results(folder, frames, args.seed)
        segmenters = {
            name: _open(name, model, results, frames, args) for name, model in models.items()
        }
        measure(results, segmenters, frames, cases, folder, quiet=args.quiet)
        _write_pages(results, frames, cases, folder)
    except (SegmentationError, OSError) as error:
        print(f'robustness: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted; repeat the command to continue', file=sys.stderr)
        return 130
    print(summary_table(results.models))
    print(f'{results.frames} frames of {results.data}; report in {folder / REPORT_FILE}')
    return 0


def measure(
    results: RobustnessResults,
    segmenters: dict[str, Segmenter],
    frames: FileFrames,
    cases: Sequence[Case],
    folder: Path,
    *,
    quiet: bool = True,
) -> None:
    """Measure the cases that each model lacks, and write the results after each case.

    Raises:
        DatasetError: a file is invalid, or there is nothing to score.
        SchemeError: a model and the truth cannot be compared.
        OSError: the results cannot be written.
    """
    missing = {
        case: [name for name in segmenters if case not in results.models[name].cases]
        for case in cases
    }
    todo = {case: names for case, names in missing.items() if names}
    total = len(todo) * len(frames)
    with tqdm(desc='corrupting', total=total, unit='frame', disable=quiet or None) as progress:
        for case, names in todo.items():
            progress.set_postfix_str(f'{case[0]} {case[1]}')
            tallies = {name: Tally(frames, segmenters[name]) for name in names}
            for frame in corrupted(frames, case, results.seed):
                for tally in tallies.values():
                    tally.add(frame)
                progress.update()
            for name, tally in tallies.items():
                results.models[name].cases[case] = tally.figures()
            results.write(folder)
            if not quiet:
                scores = (f'{name} {percent(results.models[name].of(case))}' for name in names)
                tqdm.write(f'{case[0]} {case[1]}: mIoU {", ".join(scores)}')
                sys.stdout.flush()  # a file or a pipe would buffer it


class Tally:
    """Counts of one model under one kind and severity."""

    def __init__(self, frames: FileFrames, segmenter: Segmenter) -> None:
        self._segmenter, self._source = segmenter, frames.source
        self._comparison = LabelComparison(frames.scheme, segmenter.scheme)
        self._scored_lut = scored_lut(self._comparison)
        self._calibration = Calibration()

    def add(self, frame: LabeledFrame) -> None:
        """Segment and count one frame."""
        prediction = self._segmenter.segment([frame.image_rgb])
        name = f'frame {frame.name} of {self._source}'
        compared = self._comparison.add(frame.truth, prediction.labels[0], name)
        target = self._scored_lut[frame.truth]
        self._calibration.add(target, compared.labels, prediction.confidence[0])

    def figures(self) -> Figures:
        """Return the figures by name; raises DatasetError if no pixel was counted."""
        scores = self._comparison.scores(self._source)
        return {
            'mIoU': scores.miou(),
            'pixel_acc': scores.pixel_accuracy(),
            'ECE': self._calibration.ece(),
            'confidence': self._calibration.mean_confidence(),
            'AURC': self._calibration.aurc(),
        }


def corrupted(frames: FileFrames, case: Case, seed: int) -> Iterator[LabeledFrame]:
    """Yield the frames of a case in order; threads corrupt the next frames in the meantime."""

    def make(pair: FilePair) -> LabeledFrame:
        image_rgb, truth = frames.files.read(pair)
        if case != CLEAN:
            image_rgb, truth = corrupt(image_rgb, truth, frames.scheme, case, seed, pair.name)
        return LabeledFrame(pair.name, image_rgb, truth)

    yield from _ahead(make, frames.files.pairs)


def _ahead(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
    """Yield the results of a function in order, computed by threads a few items ahead."""
    threads = min(4, cpu_count() or 1)
    pending: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(threads, 'corrupt') as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _models(args: argparse.Namespace) -> dict[str, str]:
    """Return the models by name; the checkpoint of a run has the name of the run."""
    if args.set is None or args.split is None:
        raise SettingError('expected frames to corrupt; give --set NAME --split NAME')
    if (args.run is None) == (not args.models):
        raise SettingError(
            'expected models or a run; give bundled names, checkpoint folders or hub ids, or '
            '--run FOLDER'
        )
    models = [str(args.run / 'checkpoint')] if args.run is not None else args.models
    by_name: dict[str, str] = {}
    for model in models:
        name = model_name(model)
        if name in by_name:
            raise SettingError(
                f'{by_name[name]} and {model} have the same name {name}; rename one of them'
            )
        by_name[name] = model
    return by_name


def _folder(args: argparse.Namespace) -> Path:
    if args.output is None and args.run is None:
        raise SettingError('expected a folder for the results; add --output FOLDER')
    folder = Path(args.output or args.run / IN_RUN)
    has_others = folder.is_dir() and any(folder.iterdir())
    if folder.exists() and not folder.is_dir():
        raise SettingError(f'{folder} is a file; expected a folder: choose another name')
    if has_others and not (folder / RESULTS_FILE).is_file():
        raise SettingError(
            f'{folder} is not empty and has no {RESULTS_FILE} to continue; choose another folder'
        )
    return folder


def _results(folder: Path, frames: FileFrames, seed: int) -> RobustnessResults:
    """Return the results in a folder, to be continued, or empty ones."""
    new = RobustnessResults(frames.source, len(frames), seed)
    if not (folder / RESULTS_FILE).is_file():
        return new
    found = RobustnessResults.read(folder)
    if (found.data, found.frames, found.seed) != (new.data, new.frames, new.seed):
        raise SettingError(
            f'{folder / RESULTS_FILE} has figures of {found.data} ({found.frames} frames, seed '
            f'{found.seed}), not of {new.data} ({new.frames} frames, seed {new.seed}); choose '
            f'another folder'
        )
    return found


def _open(
    name: str, model: str, results: RobustnessResults, frames: FileFrames, args: argparse.Namespace
) -> Segmenter:
    """Open a model and its entry in the results; one runtime and precision runs all cases.

    What `auto` chooses depends on the size of the image, and some kinds change the size.
    """
    known = results.models.get(name)
    if known is not None and known.digest != find_checkpoint(model).digest:
        known = None  # other weights than those measured before
    wanted = args.runtime, args.device, args.precision
    if known is None:
        first = Segmenter(model, runtime=wanted[0], device=wanted[1], precision=wanted[2])
        image_rgb, _ = frames.files.read(frames.files.pairs[0])
        first.prepare((image_rgb.shape[0], image_rgb.shape[1]))
        known = ModelRobustness(
            first.checkpoint.digest, first.scheme.name, first.runtime, first.device,
            first.precision,
        )  # fmt: skip
    chosen = known.runtime, known.device, known.precision
    if any(w not in {'auto', c} for w, c in zip(wanted, chosen, strict=True)):
        raise SettingError(
            f'the results have figures of {name} by {known.runs_on}, not by '
            f'{", ".join(wanted)}; choose another folder'
        )
    results.models[name] = known
    return Segmenter(model, runtime=chosen[0], device=chosen[1], precision=chosen[2])


def _write_pages(
    results: RobustnessResults, frames: FileFrames, cases: Sequence[Case], folder: Path
) -> None:
    pair = frames.files.pairs[0]
    frame = LabeledFrame(pair.name, *frames.files.read(pair))
    kinds = [kind for kind in KINDS if any(kind == name for name, _ in cases)]
    sheet = draw_contact_sheet(frame, frames.scheme, kinds, results.seed)
    (folder / SHEET_FILE).write_bytes(sheet)
    write_chart(results, folder / CHART_FILE)
    (folder / REPORT_FILE).write_text(report(results, CHART_FILE, SHEET_FILE), encoding='utf-8')


def _severities(text: str) -> list[int]:
    try:
        chosen = sorted({int(part) for part in text.split(',')})
    except ValueError:
        chosen = []
    if not chosen or not set(chosen) <= set(SEVERITIES):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a list of severities; expected numbers from 1 to 5, e.g. 1,3,5'
        )
    return chosen


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(',')]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='robustness',
        description='Score checkpoints on corrupted frames: the 15 common corruptions at 5 '
        'severities, other cameras, and poor light.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        'models', nargs='*', metavar='MODEL', help='bundled name, checkpoint folder, or hub id'
    )
    parser.add_argument(
        '--run', type=Path, metavar='FOLDER',
        help='training run whose checkpoint is scored; the result is added to its artifacts',
    )  # fmt: skip
    add_runtime_options(parser)
    parser.add_argument(
        '--kinds', type=_names, metavar='NAME,...', default=[*GROUPS],
        help=f'kinds of corruption (default: all): eight (at their own severities), common (the '
        f'15), {", ".join(GROUPS)}, {", ".join(KINDS)}',
    )  # fmt: skip
    parser.add_argument(
        '--severities', type=_severities, metavar='N,...', default=[*SEVERITIES],
        help='severities from 1 to 5 (default: all)',
    )  # fmt: skip
    add_set_options(parser, '--count and for the corruptions')
    parser.add_argument(
        '--output', type=Path, metavar='FOLDER',
        help=f'folder to write or to continue (default: {IN_RUN} in the folder of --run)',
    )  # fmt: skip
    add_quiet_option(parser)
    return parser


if __name__ == '__main__':
    sys.exit(main())
