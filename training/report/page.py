# SPDX-License-Identifier: Apache-2.0
"""Report as one self-contained HTML page, without scripts, fonts or external files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from segmentation_node.plotting import Series
from training.bootstrap import RESAMPLES
from training.report import (
    augmentation,
    comparability,
    confidence,
    pictures,
    published,
    settings,
)
from training.report.charts import (
    Chart,
    bar_chart,
    curve_chart,
    pareto_optimal,
    scatter_chart,
)
from training.report.comparability import Aspect, Caveat, loss_kind, of_aspects
from training.report.conclusion import conclusion
from training.report.confusion import ConfusionMatrix, read_confusion
from training.report.drawing import sample
from training.report.evaluations import evaluations
from training.report.records import Record, class_names
from training.report.repeats import repeats
from training.report.searches import chapters as search_chapters
from training.report.summary import ABSENT, COLUMNS, outcome, rate, restricted, score, summarize


@dataclass(frozen=True)
class Metric:
    """Title, number format and axis of the curve of a metric."""

    title: str
    text: Callable[[float], str]
    from_zero: bool = True


@dataclass(frozen=True)
class Part:
    """Group of charts with their caveats."""

    title: str
    caveats: Sequence[Caveat]
    charts: Sequence[Chart]


def _four_digits(value: float) -> str:
    return f'{value:.4g}'


def _integer(value: float) -> str:
    return f'{value:.0f}'


#: Metrics by their names in `training.tracking`, in the order of the page.
SCORES: Final = {
    'mIoU': Metric('mIoU', score, from_zero=False),
    'Dice': Metric('Dice', score, from_zero=False),
    'pixel_acc': Metric('Pixel accuracy', score, from_zero=False),
}
LOSSES: Final = {
    'train_loss': Metric('Training loss', score),
    'val_loss': Metric('Validation loss', score),
}
SPEEDS: Final = {
    'imgs_per_sec': Metric('Inference, images per second', rate),
    'train_imgs_per_sec': Metric('Training, images per second', rate),
    'train_time_sec': Metric('Training time per epoch, s', _four_digits),
    'data_wait_share': Metric('Share of time waiting for data', score),
    'peak_memory_mb': Metric('Peak memory, MB', _integer),
    'learning_rate': Metric('Learning rate', _four_digits),
}
BY_CLASS: Final = ('IoU', 'Dice')


def render(
    records: Sequence[Record],
    left_out: Sequence[str],
    store: str,
    *,
    searches: Sequence[Record] = (),
    remark: str = '',
) -> str:
    """Render the page.

    Args:
        records: runs to compare, at least one; the page refers to them by their letters.
        left_out: sentences about omitted runs.
        store: address of the MLflow store, without passwords.
        searches: searches with a chapter of their own.
        remark: sentence on top of the page.
    """
    folder = Path(__file__).parent
    # Names and tags of runs are untrusted text, so everything is escaped.
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['score'] = score
    content = _content(records, left_out, store) | _confidence(records) | _searches(searches)
    return environment.get_template('page.html.jinja').render(content | {'remark': remark})


def _confidence(records: Sequence[Record]) -> dict[str, Any]:
    return {
        'conclusion': conclusion(records),
        'differences': confidence.difference_table(list(map(confidence.scored, records))),
        'repeats': confidence.repeats_table(repeats(records)),
        'footnotes': confidence.footnotes(records),
        'resamples': RESAMPLES,
    }


def _searches(searches: Sequence[Record]) -> dict[str, Any]:
    chapters, missing = search_chapters(searches)
    return {'searches': chapters, 'no_searches': missing}


def _content(records: Sequence[Record], left_out: Sequence[str], store: str) -> dict[str, Any]:
    caveats = comparability.caveats(records)
    progress, no_progress = pictures.progress(records)
    evaluated, not_evaluated = evaluations(records)
    tables = [(record, read_confusion(record)) for record in records]
    return {
        'records': records,
        'left_out': left_out,
        'store': store,
        'written': datetime.now(timezone.utc),
        'key': [
            (record, sample(Series(i), Series(i).description)) for i, record in enumerate(records)
        ],
        'caveats': caveats,
        'caveats_on': _by_part(caveats),
        'outcome': outcome(records),
        'columns': COLUMNS,
        'summary': summarize(records),
        'restricted': restricted(records),
        'val_sets': _by_val_set(records),
        'pairs': augmentation.pairs(records),
        'published': published.comparisons(records),
        'speed_chart': scatter_chart('Inference speed against mIoU', records),
        'pareto_optimal': pareto_optimal(records),
        'curves': _curves(records, caveats),
        'class_bars': [chart for metric in BY_CLASS for chart in _class_bars(records, metric)],
        'class_curves': [chart for metric in BY_CLASS for chart in _class_curves(records, metric)],
        'gallery': pictures.gallery(records),
        'legend': _legend(records),
        'progress': progress,
        'no_progress': no_progress,
        'confusions': [(r, t) for r, t in tables if isinstance(t, ConfusionMatrix)],
        'no_confusions': [t for _, t in tables if isinstance(t, str)],
        'evaluations': evaluated,
        'no_evaluations': not_evaluated,
        'settings': settings.sheet([record.params for record in records]),
        'origins': settings.sheet([settings.origins(record) for record in records]),
        'absent': ABSENT,
    }


def _by_part(caveats: Sequence[Caveat]) -> dict[str, list[Caveat]]:
    """Return the caveats of each part of the page."""
    return {
        'scores': of_aspects(caveats, Aspect.QUALITY),
        'speed': of_aspects(caveats, Aspect.QUALITY, Aspect.INFERENCE),
        'epochs': of_aspects(caveats, Aspect.EPOCHS),
        'origin': of_aspects(caveats, Aspect.ORIGIN),
    }


def _curves(records: Sequence[Record], caveats: Sequence[Caveat]) -> list[Part]:
    numbered = list(enumerate(records))
    parts = [
        Part('Scores', of_aspects(caveats, Aspect.QUALITY), _charts(numbered, SCORES)),
        Part('Losses', of_aspects(caveats, Aspect.LOSS), list(_loss_charts(records))),
        Part(
            'Speed, time and memory',
            of_aspects(caveats, Aspect.INFERENCE, Aspect.COST),
            _charts(numbered, SPEEDS),
        ),
    ]
    return [part for part in parts if part.charts]


def _charts(
    records: Sequence[tuple[int, Record]], metrics: Mapping[str, Metric], suffix: str = ''
) -> list[Chart]:
    charts = [
        curve_chart(m.title + suffix, records, name, m.text, from_zero=m.from_zero)
        for name, m in metrics.items()
    ]
    return [chart for chart in charts if chart is not None]


def _loss_charts(records: Sequence[Record]) -> Iterator[Chart]:
    """Yield a chart for each kind of loss; different kinds do not share a scale."""
    kinds = list(dict.fromkeys(map(loss_kind, records)))
    for kind in kinds:
        alike = [(i, record) for i, record in enumerate(records) if loss_kind(record) == kind]
        yield from _charts(alike, LOSSES, f': {kind}' if len(kinds) > 1 else '')


def _class_bars(records: Sequence[Record], metric: str) -> Iterator[Chart]:
    names = class_names(records, metric)
    if names:
        groups = {name: [r.at_best(f'{metric}/{name}') for r in records] for name in names}
        yield bar_chart(f'{metric} by class, at the best epoch', records, groups)


def _class_curves(records: Sequence[Record], metric: str) -> Iterator[Chart]:
    for name in class_names(records, metric):
        title = f'{metric} of {name}'
        chart = curve_chart(
            title, list(enumerate(records)), f'{metric}/{name}', score, from_zero=False
        )
        if chart is not None:
            yield chart


def _by_val_set(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Return the mIoU at the best epoch by validation set; empty for a single set."""
    names = class_names(records, 'mIoU')
    if len(names) < 2:
        return []
    return [(name, [_on_set(record, name) for record in records]) for name in names]


def _on_set(record: Record, name: str) -> str:
    value, sample = record.at_best(f'mIoU/{name}'), record.samples.by_set.get(name)
    if value is None:
        return ABSENT
    return score(value) + (f' ({sample.interval})' if sample else '')


def _legend(records: Sequence[Record]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the class names and CSS colors of each label scheme of the runs."""
    schemes = {r.scheme.name: r.scheme for r in records if r.scheme is not None}
    return [
        (name, [(c.name, f'rgb{c.color}') for c in scheme.classes])
        for name, scheme in schemes.items()
    ]
