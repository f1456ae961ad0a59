# SPDX-License-Identifier: Apache-2.0
"""View of the training: curves and scores as charts, text and tables."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import streamlit as st

from segmentation_node.plotting import Curve
from segmentation_node.web.page import training_runs
from segmentation_node.web.page.choice import choice
from segmentation_node.web.page.epoch_chart import curve_chart
from segmentation_node.web.page.markup import ABSENT, table
from segmentation_node.web.page.service_client import ServiceError, known_models
from segmentation_node.web.page.training_runs import RunsError, TrainingRun
from segmentation_node.web.page.translations import Words

#: Metrics to choose from, curves first.
METRICS: Final = (*training_runs.CURVES, 'scores', 'class_iou')
SCORES: Final = tuple(training_runs.SCORES.values())
#: Number of decimals of a metric, if not 3.
DIGITS: Final[Mapping[str, int]] = MappingProxyType({'imgs_per_sec': 1, 'train_time_sec': 0})


def show(words: Words) -> None:
    """Show the view."""
    st.header(words('scores_head'))
    runs = _runs(words)
    if not runs:
        st.info(words('no_runs'))
        return
    names = [words(f'metric_{m}') for m in METRICS]
    metric = choice(words, words('metric'), 'metric', METRICS, names, horizontal=False)
    st.subheader(words(f'metric_{metric}'))
    if metric in training_runs.CURVES:
        _curves(words, metric, [run for run in runs if run.curves.get(metric)])
    elif metric == 'scores':
        rows = [
            (_title(words, run), *(_score(words, run.scores.get(name)) for name in SCORES))
            for run in runs
        ]
        columns = (words('model'), *map(words, SCORES))
        st.html(table(words('scores_table'), columns, rows))
    else:
        names = list(dict.fromkeys(name for run in runs for name in run.class_iou))
        rows = [
            (words.class_name(n), *(_score(words, run.class_iou.get(n)) for run in runs))
            for n in names
        ]
        columns = (words('class'), *(_title(words, run) for run in runs))
        st.html(table(words('iou_table'), columns, rows))
    st.markdown(f'**{words("says")}.** {words(f"{metric}_says")}')
    st.markdown(f'**{words("says_not")}.** {words(f"{metric}_says_not")}')


def _runs(words: Words) -> list[TrainingRun]:
    """Return the runs to show, all with the same label scheme and validation data."""
    uri = training_runs.mlflow_uri()
    sources = ['models', *(['mlflow'] if uri else [])]
    source = 'models'
    if len(sources) > 1:
        names = [words(f'source_{s}') for s in sources]
        source = choice(words, words('source'), 'source', sources, names)
    if source == 'mlflow' and uri:
        try:
            with st.spinner('MLflow'):
                runs = training_runs.runs_of_mlflow(uri)
            chosen = _newest(words, _of_a_group(words, runs))
            with st.spinner('MLflow'):
                return training_runs.with_metrics(uri, chosen)
        except RunsError as error:
            st.warning(words(error.kind))
    try:
        return _of_a_group(words, training_runs.runs_of_models(known_models()))
    except ServiceError as error:
        st.error(words.problem(error.kind, str(error)))
        return []


def _of_a_group(words: Words, runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Return the runs of the chosen group: either trials of searches or other runs."""
    groups = list(dict.fromkeys(run.group for run in runs))
    if not groups:
        return []
    group = groups[0]
    if len(groups) > 1:
        texts = [_group_name(words, g, sum(run.group == g for run in runs)) for g in groups]
        keys = [' | '.join(g) for g in groups]
        group = groups[keys.index(choice(words, words('group'), 'group', keys, texts,
                                         horizontal=False))]  # fmt: skip
    in_group = [run for run in runs if run.group == group]
    kinds = sorted({run.trial for run in in_group})
    trial = kinds[0]
    if len(kinds) > 1:
        names = ('runs', 'trials')
        texts = [words(f'kind_{name}') for name in names]
        trial = choice(words, words('kind'), 'kind', names, texts) == 'trials'
    return [run for run in in_group if run.trial == trial]


def _group_name(words: Words, group: tuple[str, str], count: int) -> str:
    scheme, data = (part or words('not_known') for part in group)
    return words('group_name', scheme=scheme, data=data, count=words.number(count, 0))


def _newest(words: Words, runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Return the newest of the runs whose names match the filter."""
    if len(runs) > 1:
        text = st.text_input(words('filter'), key='filter')
        matches = training_runs.filter_by_name(runs, text)
    else:
        matches = list(runs)
    shown = matches[: training_runs.MAX_SHOWN]
    if len(shown) < len(matches):
        count = words.number(len(matches), 0)
        st.write(words('newest', shown=words.number(len(shown), 0), count=count))
    return shown


def _curves(words: Words, metric: str, runs: Sequence[TrainingRun]) -> None:
    """Show one chart of all runs; for a loss, one chart per loss function."""
    if not runs:
        st.info(words('no_runs'))
        return
    if metric not in training_runs.LOSSES:
        _chart(words, metric, words(f'metric_{metric}'), runs)
        return
    for group in training_runs.by_loss(runs):
        kind = group[0].loss or words('not_known')
        title = words('loss_title', metric=words(f'metric_{metric}'), kind=kind)
        st.markdown(f'#### {title}')
        _chart(words, metric, title, group)


def _chart(words: Words, metric: str, title: str, runs: Sequence[TrainingRun]) -> None:
    digits = DIGITS.get(metric, 3)
    curves = {_title(words, run): run.curves[metric] for run in runs}
    sentences = ' '.join(
        words(
            'curve_words', name=name, first_epoch=min(curve), last_epoch=max(curve),
            first=words.number(curve[min(curve)], digits),
            last=words.number(curve[max(curve)], digits),
        )
        for name, curve in curves.items()
    )  # fmt: skip
    st.html(_curve_chart(title, sentences, curves, words.language))
    st.write(sentences)
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    rows = [
        (str(e), *(words.number(c[e], digits) if e in c else ABSENT for c in curves.values()))
        for e in epochs
    ]
    st.html(table(words('as_table', metric=title), (words('epoch_column'), *curves), rows))


@st.cache_data(max_entries=64, show_spinner=False)
def _curve_chart(title: str, description: str, curves: Mapping[str, Curve], language: str) -> str:
    """Draw a chart once, not at every interaction with the page."""
    words = Words(language)
    return curve_chart(title, description, words('epoch'), curves, words.short_number)


def _title(words: Words, run: TrainingRun) -> str:
    """Return the display name of a model, or the name of an MLflow run."""
    return run.name if run.id else words.model(run.name)


def _score(words: Words, value: float | None) -> str:
    return ABSENT if value is None else words.number(100 * value)
