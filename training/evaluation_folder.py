# SPDX-License-Identifier: Apache-2.0
"""An evaluation as a folder: scores.json, report.md, confusion.png, worst/*.png."""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import segmentation_node
from segmentation_node.errors import SettingError
from training.evaluation import Evaluation, JudgedFrame
from training.evaluation_pictures import OTHER, confusion_table, draw_frame, write_confusion

SCORES_FILE: Final = 'scores.json'
REPORT_FILE: Final = 'report.md'
CONFUSION_FILE: Final = 'confusion.png'
WORST_FOLDER: Final = 'worst'

#: Columns that hold words.
_TEXTS: Final = ('figure', 'meaning', 'class', 'category')

#: The keys of scores.json. All shares lie in [0, 1]; null stands where there is no figure.
KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        'model': 'what was evaluated',
        'data': 'on what',
        'mode': 'how it looked at an image',
        'runs_on': 'runtime, device and precision',
        'version': 'of the package',
        'frames': 'number of frames',
        'label_scheme': 'scheme that was scored in',
        'figures': 'all figures by name, "IoU/road" those of a class; absent where nothing occurs',
        'classes': 'the scored classes, and "other" for predictions that are none of them',
        'confusion': 'pixels by truth (rows, without "other") and prediction (columns)',
        'boundary': 'tolerance: share of the diagonal; tolerances_px: what that came to',
        'reliability': 'pixels, mean confidence and accuracy by confidence from low to high',
        'worst': 'the frames of least mIoU, with their picture',
    }
)


def check_free(folder: Path) -> None:
    """Raise SettingError unless a folder is free, or holds an evaluation to be replaced."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SCORES_FILE).is_file():
        raise SettingError(
            f'{folder} holds something else than an evaluation ({SCORES_FILE} is not in it); '
            f'name another folder'
        )
    if folder.exists() and not folder.is_dir():
        raise SettingError(f'{folder} is a file; name a folder')


def write_folder(found: Evaluation, folder: Path) -> None:
    """Write all there is; an earlier evaluation in the folder is replaced as a whole.

    Raises:
        SettingError: the folder holds something else.
        OSError: it cannot be written; an earlier evaluation is still there.
    """
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}.', dir=folder.parent) as parent:
        aside = Path(parent, folder.name)
        (aside / WORST_FOLDER).mkdir(parents=True)
        pictures = [_picture_name(rank, frame) for rank, frame in enumerate(found.worst, 1)]
        for frame, name in zip(found.worst, pictures, strict=True):
            (aside / name).write_bytes(draw_frame(frame, found.scores.scheme))
        write_confusion(found.scores, aside / CONFUSION_FILE)
        content = json.dumps(scores_json(found, pictures), indent=1, allow_nan=False)
        (aside / SCORES_FILE).write_text(content + '\n', encoding='utf-8')
        report = '\n'.join(_report(found, pictures))
        (aside / REPORT_FILE).write_text(report, encoding='utf-8')
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)


def _picture_name(rank: int, frame: JudgedFrame) -> str:
    return f'{WORST_FOLDER}/{rank:02}_{re.sub(r"[^A-Za-z0-9._-]+", "_", frame.name)}.png'


def scores_json(found: Evaluation, pictures: Sequence[str]) -> dict[str, Any]:
    """What goes into scores.json; KEYS says what the keys mean."""
    names, counts = confusion_table(found.scores)
    return {
        'model': found.model,
        'data': found.data,
        'mode': found.mode,
        'runs_on': found.runs_on,
        'version': segmentation_node.__version__,
        'frames': found.frames,
        'label_scheme': found.scores.scheme.name,
        'figures': found.figures(),
        'classes': names,
        'confusion': counts.tolist(),
        'boundary': {
            'tolerance': found.boundary.tolerance,
            'tolerances_px': sorted(found.boundary.tolerances_px),
        },
        'reliability': None
        if found.calibration is None
        else [
            {key: _finite(value) for key, value in vars(b).items()}
            for b in found.calibration.table()
        ],
        'worst': [
            {
                'name': frame.name,
                'mIoU': frame.miou,
                'pixel_acc': frame.pixel_accuracy,
                'picture': picture,
            }
            for frame, picture in zip(found.worst, pictures, strict=True)
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _report(found: Evaluation, pictures: Sequence[str]) -> Iterator[str]:
    scores = found.scores
    yield f'# {found.model} on {found.data}'
    yield ''
    yield (
        f'{found.frames} frames, {int(scores.counts.sum()):,} annotated pixels, scored in label '
        f'scheme {scores.scheme.name}. Inference: {found.mode} ({found.runs_on}). All figures are '
        f'over the whole set; a dash stands where neither truth nor prediction has a class.'
    )
    yield ''
    yield from _headline(found)
    yield from _classes(found)
    yield from _categories(found)
    yield from _confusion(found)
    yield from _calibration(found)
    yield from _worst(found, pictures)


def _headline(found: Evaluation) -> Iterator[str]:
    figures = found.figures()
    meaning = {
        'mIoU': 'mean IoU over the scored classes',
        'mIoU_with_void': 'mean IoU over all learned classes, void among them if it is learned',
        'category_mIoU': 'mean IoU over the categories, without void (the official figure)',
        'category_mIoU_with_void': 'the same with void, if it is learned',
        'Dice': 'mean Dice coefficient (F1) over the scored classes',
        'pixel_acc': 'share of the scored pixels that are right',
        'boundary_F': f'mean boundary F-score, tolerance {_tolerance(found)}',
        'ECE': 'expected calibration error, 0 is best; every other figure is best at 1',
    }
    rows = [(name, _number(figures.get(name, math.nan)), text) for name, text in meaning.items()]
    yield from _table(('figure', 'value', 'meaning'), rows)


def _tolerance(found: Evaluation) -> str:
    sizes = sorted(found.boundary.tolerances_px)
    if not sizes:
        return f'{found.boundary.tolerance:g} of the diagonal'
    pixels = f'{sizes[0]:g}' if len(sizes) == 1 else f'{sizes[0]:g} to {sizes[-1]:g}'
    return f'{found.boundary.tolerance:g} of the diagonal = {pixels} pixels'


def _classes(found: Evaluation) -> Iterator[str]:
    scores = found.scores
    iou, dice, boundary_f = scores.class_iou(), scores.class_dice(), found.boundary_f()
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


def _categories(found: Evaluation) -> Iterator[str]:
    without, with_void = (
        found.scores.category_iou(), found.scores.category_iou_with_void(),
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


def _confusion(found: Evaluation) -> Iterator[str]:
    names, counts = confusion_table(found.scores)
    yield '## Confusion'
    yield ''
    rows = counts.sum(axis=1)
    kept = ', '.join(
        f'{name} {100 * counts[i, i] / rows[i]:.1f} %'
        for i, name in enumerate(names)
        if name != OTHER and rows[i]
    )
    yield (
        f'![Confusion table in % of the pixels of each true class; found as what they are: '
        f'{_plain(kept)}]({CONFUSION_FILE})'
    )
    yield ''


def _calibration(found: Evaluation) -> Iterator[str]:
    yield '## Calibration'
    yield ''
    if found.calibration is None:
        yield 'No confidence was recorded.'
        yield ''
        return
    yield (
        'Pixels by confidence as published. Where confidence is above accuracy, the model is '
        'surer than it should be.'
    )
    yield ''
    yield from _table(
        ('confidence', 'pixels', 'mean confidence', 'accuracy'),
        [
            (f'{b.low:.2f} to {b.high:.2f}', f'{b.pixels:,}', _number(b.confidence),
             _number(b.accuracy))
            for b in found.calibration.table()
            if b.pixels
        ],
    )  # fmt: skip


def _worst(found: Evaluation, pictures: Sequence[str]) -> Iterator[str]:
    if not found.worst:
        return
    yield '## Worst frames'
    yield ''
    yield (
        'Image, truth, prediction and errors of the frames of least mIoU over their own classes. '
        'Among the errors, orange is wrong and blue is not scored.'
    )
    yield ''
    for frame, picture in zip(found.worst, pictures, strict=True):
        text = f'{frame.name}: mIoU {frame.miou:.3f}, pixel accuracy {frame.pixel_accuracy:.3f}'
        yield f'### {_plain(text)}'
        yield ''
        yield f'![Image, truth, prediction and errors of frame {_plain(text)}]({quote(picture)})'
        yield ''


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose columns of figures stand to the right."""
    yield f'| {" | ".join(head)} |'
    yield '|' + '|'.join('---' if name in _TEXTS else '---:' for name in head) + '|'
    for row in rows:
        yield f'| {" | ".join(map(_plain, row))} |'
    yield ''


def _number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.4f}'


def _plain(text: str) -> str:
    """Text that Markdown reads as such."""
    return re.sub(r'([|\[\]*`<\\])', r'\\\1', text)
