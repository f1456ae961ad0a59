# SPDX-License-Identifier: Apache-2.0
"""Readable results of the robustness benchmark: report.md, and a section of the model card."""

import math
from collections.abc import Iterator, Sequence

from segmentation_node.markdown import table
from training.corruptions.kinds import COMMON, EIGHT, KINDS, SEVERITIES
from training.robustness_results import (
    CLEAN,
    FIGURES,
    MEANS,
    ModelRobustness,
    RobustnessResults,
    percent,
)

#: Headings of the means in `ModelRobustness.summary`.
TITLES = {'common': '15 corruptions', 'of clean': 'share of clean', 'eight': 'eight kinds'}


def report(results: RobustnessResults, chart: str, sheet: str) -> str:
    """Return the report as Markdown; `chart` and `sheet` are the names of its pictures."""
    return '\n'.join(_report(results, chart, sheet)) + '\n'


def _report(results: RobustnessResults, chart: str, sheet: str) -> Iterator[str]:
    yield f'# Robustness on {results.data}'
    yield ''
    yield (
        f'{results.frames} frames under corruption, seed {results.seed}. All figures are in '
        f'percent; mIoU unless named otherwise. "15 corruptions" is the mean over '
        f'{", ".join(COMMON)} at 5 severities (Hendrycks and Dietterich, ICLR 2019), "share of '
        f'clean" its ratio to the clean figure. A dash marks figures that were not measured.'
    )
    yield ''
    yield from (summary_table(results.models), '', f'![mIoU by model and kind]({chart})', '')
    yield from ('## Eight kinds', '', eight_table(results.models), '')
    for name, model in results.models.items():
        yield from (f'## {name}', '', f'{model.label_scheme}; runs on {model.runs_on}.', '')
        yield from (_kinds_table(model), '')
    yield (
        'ECE is the expected calibration error, AURC the area under the risk-coverage curve. '
        'Both are best at 0.'
    )
    yield from ('', '## Corruptions', '', f'![One frame under every kind]({sheet})')


def summary_table(models: dict[str, ModelRobustness]) -> str:
    """Return the mean mIoU of each model as a Markdown table."""
    rows = [[name, *map(percent, model.summary().values())] for name, model in models.items()]
    return table(['model', *(TITLES.get(name, name) for name in MEANS)], rows)


def eight_table(models: dict[str, ModelRobustness]) -> str:
    """Return the mIoU of the eight kinds of each model as a Markdown table."""
    head = [f'{title} ({severity})' for title, (_, severity) in EIGHT.items()]
    rows = [
        [name, *(percent(m.of(case)) for case in EIGHT.values()),
         percent(m.mean(EIGHT.values()))]
        for name, m in models.items()
    ]  # fmt: skip
    return table(['model', *head, 'mean'], rows)


def _kinds_table(model: ModelRobustness) -> str:
    others = [name for name in FIGURES if name != 'mIoU']
    head = ['kind', 'group', *map(str, SEVERITIES), 'mean', 'share of clean', *others]
    clean = [percent(model.of(CLEAN, name)) for name in FIGURES]
    rows = [['clean', '', *[''] * len(SEVERITIES), clean[0], '', *clean[1:]]]
    for name, kind in KINDS.items():
        measured = [(name, s) for s in SEVERITIES if (name, s) in model.cases]
        if not measured:
            continue
        mean = model.mean(measured)
        rows.append(
            [name, kind.group, *(percent(model.of((name, s))) for s in SEVERITIES), percent(mean),
             percent(mean / model.of(CLEAN) if model.of(CLEAN) else math.nan),
             *(percent(model.mean(measured, figure)) for figure in others)]
        )  # fmt: skip
    return table(head, rows)


def card_section(results: RobustnessResults, model: ModelRobustness) -> Sequence[str]:
    """Return the lines of the model card."""
    summary = model.summary()
    means = [[TITLES.get(name, name), percent(value)] for name, value in summary.items()]
    eight = [
        [title, str(severity), *(percent(model.of((kind, severity), f)) for f in FIGURES)]
        for title, (kind, severity) in EIGHT.items()
    ]
    text = (
        f'mIoU in percent on {results.data} ({results.frames} frames) under corruption, by '
        f'`python -m training.robustness` ({model.runs_on}). "15 corruptions" is the mean over '
        f'{", ".join(COMMON)} at 5 severities.'
    )
    kinds = table(['kind', 'severity', *FIGURES], eight)
    return ['## Robustness', '', text, '', table(['frames', 'mIoU'], means), '', kinds, '']
