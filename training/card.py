# SPDX-License-Identifier: Apache-2.0
"""Model cards, generated from the provenance in a checkpoint.

The command rewrites the card of a checkpoint, with the results of training.robustness if the
artifacts of its run, or a published record, have them:

    python -m training.card runs/deeplabv3plus/checkpoint
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segmentation_node.checkpoint import SPEC_FILE, Spec, find_checkpoint
from segmentation_node.errors import CheckpointError, SegmentationError
from segmentation_node.instances import SEMANTIC
from training.robustness_report import card_section
from training.robustness_results import IN_RUN, find_result, published_folders


def model_card(spec: Spec, robustness: Sequence[str] = ()) -> str:
    """Return a model card as Markdown: data, recipe and measured figures.

    `robustness` are the lines of the section on robustness, none if it was not measured.
    """
    return '\n'.join(_lines(spec, spec.provenance, robustness)) + '\n'


def robustness_lines(folder: Path) -> Sequence[str]:
    """Return the section on robustness of a checkpoint; empty if it was not measured.

    Raises:
        CheckpointError: the checkpoint is incomplete.
        SettingError: the results are invalid.
    """
    folders = [folder.absolute().parent / IN_RUN, *published_folders()]
    found = find_result(find_checkpoint(str(folder)).digest, folders)
    return () if found is None else card_section(*found)


def _lines(spec: Spec, known: dict[str, Any], robustness: Sequence[str]) -> Iterator[str]:
    recipe = known['recipe']
    yield f'# {spec.family} on {spec.label_scheme}'
    yield ''
    yield (
        f'{known["parameters"] / 1e6:.1f} M parameters, stored as fp16 safetensors. These are the '
        f'averaged weights after epoch {known["epoch"]} ({known["steps"]} steps), the epoch with '
        f'the best {"mIoU" if spec.task == SEMANTIC else "PQ"} on the first validation set below.'
    )
    yield from ('', '## Data', '')
    for row in known['data']:
        yield f'- {row["name"]}, {row["images"]} images: {row["source"]}'
    yield from ('', '## Figures', '')
    for name, metrics in known['metrics'].items():
        yield from _figures(name, metrics)
    if 'calibration' in known:
        yield from _calibration(**known['calibration'])
    yield from robustness
    yield from ('## Recipe', '')
    if recipe['notes']:
        yield recipe['notes'].strip()
        yield ''
    hidden = ('val', 'notes', 'datasets', 'data_root', 'cache')
    for key, value in recipe.items():
        if key not in hidden:
            yield f'- {key}: {json.dumps(value) if isinstance(value, dict | list) else value}'
    versions = ', '.join(f'{name} {number}' for name, number in known['versions'].items())
    yield f'- trained on: {known["machine"]}; {versions}; revision {known["revision"]}'


def _figures(name: str, metrics: dict[str, Any]) -> Iterator[str]:
    yield f'### {name}'
    yield ''
    yield (
        f'mIoU {metrics["miou"]:.4f} without void, {metrics["miou_with_void"]:.4f} with void as a '
        f'class; mean Dice {metrics["dice"]:.4f}; pixel accuracy {metrics["pixel_accuracy"]:.4f}.'
    )
    yield ''
    if 'panoptic' in metrics:
        yield '| segments | PQ | SQ | RQ |'
        yield '|---|---|---|---|'
        panoptic = metrics['panoptic']
        for title, part in (('all', ''), ('things', '_things'), ('stuff', '_stuff')):
            if f'PQ{part}' in panoptic:
                row = (f'{panoptic[kind + part]:.4f}' for kind in ('PQ', 'SQ', 'RQ'))
                yield f'| {title} | {" | ".join(row)} |'
        yield ''
    class_pq = metrics.get('class_pq', {})
    yield '| class | IoU | PQ |' if class_pq else '| class | IoU |'
    yield '|---|---|---|' if class_pq else '|---|---|'
    for class_name, iou in metrics['class_iou'].items():
        pq = f' {class_pq.get(class_name, math.nan):.4f} |' if class_pq else ''
        yield f'| {class_name} | {iou:.4f} |{pq}'
    yield ''


def _calibration(
    data: str,
    frames: int,
    ece_uncalibrated: float,
    ece: float,
    false_alarms: float | None = None,
    detected: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[str]:
    """Write the figures of training.calibrate."""
    yield from ('## Confidence', '')
    yield (
        f'Expected calibration error {ece:.4f} on {data} ({frames} frames), where each half of '
        f'the frames is calibrated by the other half; {ece_uncalibrated:.4f} without calibration.'
    )
    yield ''
    if false_alarms is not None:
        shares = ', '.join(f'{share:.0%} of {kind}' for kind, share in detected.items())
        yield f'Frames out of domain: {false_alarms:.1%} of {data}, {shares}.'
        yield ''


def main(argv: list[str] | None = None) -> int:
    """Run the command line: rewrite the model card of a checkpoint."""
    parser = argparse.ArgumentParser(description='Rewrite the model card of a checkpoint.')
    parser.add_argument('checkpoint', type=Path, help='checkpoint folder')
    folder = parser.parse_args(argv).checkpoint
    try:
        spec = Spec.read(folder / SPEC_FILE)
        if 'recipe' not in spec.provenance:
            raise CheckpointError(
                f'{folder / SPEC_FILE} has no training recipe under "provenance"; expected a '
                f'checkpoint written by training.train'
            )
        card = model_card(spec, robustness_lines(folder))
        (folder / 'README.md').write_text(card, encoding='utf-8')
    except (SegmentationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
