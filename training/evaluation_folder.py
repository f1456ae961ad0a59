# SPDX-License-Identifier: Apache-2.0
"""Folder of an evaluation: scores.json, frame_counts.json, report.md, and pictures."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import segmentation_node
from segmentation_node.atomic import replacing_folder
from segmentation_node.errors import SettingError
from training.bootstrap import MIN_FRAMES
from training.evaluation import Evaluation, ScoredFrame
from training.evaluation_pictures import OTHER, confusion_matrix, draw_frame, write_confusion
from training.frame_counts import FRAME_COUNTS_FILE, MAX_FRAMES, write_frame_counts

SCORES_FILE: Final = 'scores.json'
REPORT_FILE: Final = 'report.md'
CONFUSION_FILE: Final = 'confusion.png'
WORST_FOLDER: Final = 'worst'

#: Columns that contain text.
_TEXT_COLUMNS: Final = ('figure', 'meaning', 'class', 'category')

#: Keys of scores.json. All shares are in [0, 1]; null marks undefined figures.
KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        'model': 'evaluated model',
        'data': 'frames it was evaluated on',
        'mode': 'inference mode',
        'runs_on': 'runtime, device and precision',
        'version': 'version of the package',
        'frames': 'number of frames',
        'label_scheme': 'label scheme of the scores',
        'figures': 'all figures by name, for a class as "IoU/road"; undefined figures are absent',
        'mIoU_interval': '95 % confidence interval of mIoU over the choice of frames',
        'classes': 'scored classes, and "other" for predictions of any other class',
        'confusion': 'number of pixels by truth (rows, without "other") and prediction (columns)',
        'boundary': 'tolerance: share of the diagonal; tolerances_px: the same in pixels',
        'reliability': 'pixels, mean confidence and accuracy by confidence, from low to high',
        'worst': 'frames with the lowest mIoU, with their pictures',
    }
)


def check_free(folder: Path) -> None:
    """Raise SettingError unless the folder is free or contains an evaluation to be replaced."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SCORES_FILE).is_file():
        raise SettingError(
            f'{folder} is not empty and not an evaluation ({SCORES_FILE} is missing); choose '
            f'another folder'
        )
    if folder.exists() and not folder.is_dir():
        raise SettingError(f'{folder} is a file; expected a folder: choose another name')


def write_folder(evaluation: Evaluation, folder: Path) -> None:
    """Write an evaluation, replacing an earlier evaluation in the folder as a whole.

    Raises:
        SettingError: the folder contains something else.
        OSError: the folder cannot be written; an earlier evaluation is left in place.
    """
    check_free(folder)
    with replacing_folder(folder) as aside:
        (aside / WORST_FOLDER).mkdir()
        pictures = [_picture_name(rank, frame) for rank, frame in enumerate(evaluation.worst, 1)]
        for frame, name in zip(evaluation.worst, pictures, strict=True):
            (aside / name).write_bytes(draw_frame(frame, evaluation.scores.scheme))
        write_confusion(evaluation.scores, aside / CONFUSION_FILE)
        content = json.dumps(scores_json(evaluation, pictures), indent=1, allow_nan=False)
        (aside / SCORES_FILE).write_text(content + '\n', encoding='utf-8')
        write_frame_counts(aside / FRAME_COUNTS_FILE, {evaluation.data: evaluation.counts})
        report = '\n'.join(_report(evaluation, pictures))
        (aside / REPORT_FILE).write_text(report, encoding='utf-8')


def _picture_name(rank: int, frame: ScoredFrame) -> str:
    return f'{WORST_FOLDER}/{rank:02}_{re.sub(r"[^A-Za-z0-9._-]+", "_", frame.name)}.png'


def scores_json(evaluation: Evaluation, pictures: Sequence[str]) -> dict[str, Any]:
    """Return the content of scores.json; KEYS describes its keys."""
    names, counts = confusion_matrix(evaluation.scores)
    interval = evaluation.interval
    return {
        'model': evaluation.model,
        'data': evaluation.data,
        'mode': evaluation.mode,
        'runs_on': evaluation.runs_on,
        'version': segmentation_node.__version__,
        'frames': evaluation.frames,
        'label_scheme': evaluation.scores.scheme.name,
        'figures': evaluation.figures(),
        'mIoU_interval': None if interval is None else [interval.low, interval.high],
        'classes': names,
        'confusion': counts.tolist(),
        'boundary': {
            'tolerance': evaluation.boundary.tolerance,
            'tolerances_px': sorted(evaluation.boundary.tolerances_px),
        },
        'reliability': None
        if evaluation.calibration is None
        else [
            {key: _finite(value) for key, value in vars(b).items()}
            for b in evaluation.calibration.table()
        ],
        'worst': [
            {
                'name': frame.name,
                'mIoU': frame.miou,
                'pixel_acc': frame.pixel_accuracy,
                'picture': picture,
            }
            for frame, picture in zip(evaluation.worst, pictures, strict=True)
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _report(evaluation: Evaluation, pictures: Sequence[str]) -> Iterator[str]:
    scores = evaluation.scores
    yield f'# {evaluation.model} on {evaluation.data}'
    yield ''
    yield (
        f'{evaluation.frames} frames with {int(scores.counts.sum()):,} annotated pixels, scored '
        f'in label scheme {scores.scheme.name}. Inference: {evaluation.mode} '
        f'({evaluation.runs_on}). All figures are over the whole set; a dash marks a class that '
        f'occurs neither in the truth nor in the prediction.'
    )
    yield ''
    yield from _headline(evaluation)
    yield from _classes(evaluation)
    yield from _categories(evaluation)
    yield from _segments(evaluation)
    yield from _confusion(evaluation)
    yield from _calibration(evaluation)
    yield from _worst(evaluation, pictures)


def _headline(evaluation: Evaluation) -> Iterator[str]:
    figures = evaluation.figures()
    meaning = {
        'mIoU': 'mean IoU over the scored classes',
        'mIoU_with_void': 'mean IoU over all learned classes, including void if it is learned',
        'category_mIoU': 'mean IoU over the categories, without void (the official figure)',
        'category_mIoU_with_void': 'mean IoU over the categories, including void if it is learned',
        'Dice': 'mean Dice coefficient (F1) over the scored classes',
        'pixel_acc': 'share of the scored pixels that are correct',
        'boundary_F': f'mean boundary F-score, tolerance {_tolerance(evaluation)}',
        'ECE': 'expected calibration error; 0 is best, for all other figures 1 is best',
        'PQ': 'panoptic quality: mean over the scored classes of SQ times RQ',
        'SQ': 'segmentation quality: mean IoU of the matched segments',
        'RQ': 'recognition quality: F1 of the matched segments',
        'PQ_things': 'panoptic quality of the countable classes',
        'PQ_stuff': 'panoptic quality of the other classes',
        'AP': 'average precision of instance masks, mean over IoU thresholds from 0.5 to 0.95',
        'AP50': 'average precision of instance masks at an IoU of 0.5',
    }
    of_segments = ('PQ', 'SQ', 'RQ', 'PQ_things', 'PQ_stuff', 'AP', 'AP50')
    absent = [name for name in of_segments if name not in figures]
    meaning = {name: text for name, text in meaning.items() if name not in absent}
    rows = [(name, _number(figures.get(name, math.nan)), text) for name, text in meaning.items()]
    yield from _table(('figure', 'value', 'meaning'), rows)
    yield _confidence(evaluation)
    yield ''


def _confidence(evaluation: Evaluation) -> str:
    interval = evaluation.interval
    if interval is None:
        return (
            f'mIoU has no confidence interval, which requires {MIN_FRAMES} to {MAX_FRAMES} frames.'
        )
    return (
        f'The 95 % confidence interval of mIoU is {interval}, by bootstrap over the '
        f'frames: it covers the choice of the frames, not chance in training.'
    )


def _tolerance(evaluation: Evaluation) -> str:
    sizes = sorted(evaluation.boundary.tolerances_px)
    if not sizes:
        return f'{evaluation.boundary.tolerance:g} of the diagonal'
    pixels = f'{sizes[0]:g}' if len(sizes) == 1 else f'{sizes[0]:g} to {sizes[-1]:g}'
    return f'{evaluation.boundary.tolerance:g} of the diagonal = {pixels} pixels'


def _classes(evaluation: Evaluation) -> Iterator[str]:
    scores = evaluation.scores
    iou, dice, boundary_f = scores.class_iou(), scores.class_dice(), evaluation.boundary_f()
    total = sum(int(scores.counts[c.id].sum()) for c in scores.scored)
    yield '## By class'
    yield ''
    yield from _table(
        ('class', 'IoU', 'Dice', 'boundary F', 'share of the truth'),
        [
            (c.name, *map(_number, (iou[c.name], dice[c.name], boundary_f[c.name])),
             f'{100 * scores.counts[c.id].sum() / total:.2f} %')
            for c in scores.scored
        ],
    )  # fmt: skip


def _categories(evaluation: Evaluation) -> Iterator[str]:
    without, with_void = (
        evaluation.scores.category_iou(), evaluation.scores.category_iou_with_void(),
    )  # fmt: skip
    yield '## By category'
    yield ''
    yield from _table(
        ('category', 'IoU', 'IoU with void as a class'),
        [
            (name, _number(without.get(name, math.nan)), _number(with_void.get(name, math.nan)))
            for name in dict.fromkeys([*without, *with_void])
        ],
    )


def _segments(evaluation: Evaluation) -> Iterator[str]:
    figures = evaluation.figures()
    kinds = ('PQ', 'SQ', 'RQ', 'AP', 'AP50')
    names = [c.name for c in evaluation.scores.scored]
    known = [n for n in names if any(f'{kind}/{n}' in figures for kind in kinds)]
    if not known:
        return
    yield '## Segments'
    yield ''
    yield from _table(
        ('class', *kinds),
        [(n, *(_number(figures.get(f'{kind}/{n}', math.nan)) for kind in kinds)) for n in known],
    )


def _confusion(evaluation: Evaluation) -> Iterator[str]:
    names, counts = confusion_matrix(evaluation.scores)
    yield '## Confusion'
    yield ''
    rows = counts.sum(axis=1)
    correct = ', '.join(
        f'{name} {100 * counts[i, i] / rows[i]:.1f} %'
        for i, name in enumerate(names)
        if name != OTHER and rows[i]
    )
    yield (
        f'![Confusion matrix in % of the pixels of each true class; correctly classified: '
        f'{_plain(correct)}]({CONFUSION_FILE})'
    )
    yield ''


def _calibration(evaluation: Evaluation) -> Iterator[str]:
    yield '## Calibration'
    yield ''
    if evaluation.calibration is None:
        yield 'No confidence was recorded.'
        yield ''
        return
    yield (
        'Pixels by published confidence. The model is overconfident where the mean confidence is '
        'higher than the accuracy.'
    )
    yield ''
    yield from _table(
        ('confidence', 'pixels', 'mean confidence', 'accuracy'),
        [
            (f'{b.low:.2f} to {b.high:.2f}', f'{b.pixels:,}', _number(b.confidence),
             _number(b.accuracy))
            for b in evaluation.calibration.table()
            if b.pixels
        ],
    )  # fmt: skip


def _worst(evaluation: Evaluation, pictures: Sequence[str]) -> Iterator[str]:
    if not evaluation.worst:
        return
    yield '## Worst frames'
    yield ''
    yield (
        'Image, truth, prediction and errors of the frames with the lowest mIoU over the classes '
        'in each frame. In the errors, orange pixels are wrong and blue pixels are not scored.'
    )
    yield ''
    for frame, picture in zip(evaluation.worst, pictures, strict=True):
        text = f'{frame.name}: mIoU {frame.miou:.3f}, pixel accuracy {frame.pixel_accuracy:.3f}'
        yield f'### {_plain(text)}'
        yield ''
        yield f'![Image, truth, prediction and errors of frame {_plain(text)}]({quote(picture)})'
        yield ''


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Format a Markdown table with right-aligned columns of figures."""
    yield f'| {" | ".join(head)} |'
    yield '|' + '|'.join('---' if name in _TEXT_COLUMNS else '---:' for name in head) + '|'
    for row in rows:
        yield f'| {" | ".join(map(_plain, row))} |'
    yield ''


def _number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.4f}'


def _plain(text: str) -> str:
    """Escape a text for Markdown."""
    return re.sub(r'([|\[\]*`<\\])', r'\\\1', text)
