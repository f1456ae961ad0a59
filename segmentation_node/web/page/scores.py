# SPDX-License-Identifier: Apache-2.0
"""The view of training: curves and scores, each in a picture, in words and in numbers."""

from collections.abc import Sequence
from typing import Final

import streamlit as st

from segmentation_node.web.page import runs
from segmentation_node.web.page.charts import curve_chart
from segmentation_node.web.page.client import ServiceError, known_models
from segmentation_node.web.page.markup import ABSENT, table
from segmentation_node.web.page.parts import choice
from segmentation_node.web.page.runs import Run, RunsError
from segmentation_node.web.page.texts import Words

#: What can be chosen; the first are curves.
METRICS: Final = (*runs.CURVES, 'scores', 'class_iou')
SCORES: Final = tuple(runs.SCORES.values())


def show(words: Words) -> None:
    """Show the view."""
    st.header(words('scores_head'))
    found = _runs(words)
    if not found:
        st.info(words('no_runs'))
        return
    names = [words(f'metric_{m}') for m in METRICS]
    metric = choice(words, words('metric'), 'metric', METRICS, names, horizontal=False)
    st.subheader(words(f'metric_{metric}'))
    if metric in runs.CURVES:
        _curves(words, metric, [run for run in found if run.curves.get(metric)])
    elif metric == 'scores':
        rows = [
            (words.model(run.name), *(_score(words, run.scores.get(name)) for name in SCORES))
            for run in found
        ]
        columns = (words('model'), *map(words, SCORES))
        st.html(table(words('scores_table'), columns, rows))
    else:
        names = list(dict.fromkeys(name for run in found for name in run.class_iou))
        rows = [
            (words.class_name(n), *(_score(words, run.class_iou.get(n)) for run in found))
            for n in names
        ]
        columns = (words('class'), *(words.model(run.name) for run in found))
        st.html(table(words('iou_table'), columns, rows))
    st.markdown(f'**{words("says")}.** {words(f"{metric}_says")}')
    st.markdown(f'**{words("says_not")}.** {words(f"{metric}_says_not")}')


def _runs(words: Words) -> list[Run]:
    uri = runs.mlflow_uri()
    sources = ['models', *(['mlflow'] if uri else [])]
    source = 'models'
    if len(sources) > 1:
        names = [words(f'source_{s}') for s in sources]
        source = choice(words, words('source'), 'source', sources, names)
    if source == 'mlflow' and uri:
        try:
            with st.spinner('MLflow'):
                return runs.runs_of_mlflow(uri)
        except RunsError as error:
            st.warning(words(error.kind))
    try:
        return runs.runs_of_models(known_models())
    except ServiceError as error:
        st.error(words.problem(error.kind, str(error)))
        return []


def _curves(words: Words, metric: str, found: Sequence[Run]) -> None:
    if not found:
        st.info(words('no_runs'))
        return
    curves = {words.model(run.name): run.curves[metric] for run in found}
    title = words(f'metric_{metric}')
    sentences = ' '.join(
        words(
            'curve_words', name=name, first_epoch=min(curve), last_epoch=max(curve),
            first=words.number(curve[min(curve)], 3), last=words.number(curve[max(curve)], 3),
        )
        for name, curve in curves.items()
    )  # fmt: skip
    st.html(curve_chart(title, sentences, words('epoch'), curves))
    st.write(sentences)
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    rows = [
        (str(e), *(words.number(c[e], 3) if e in c else ABSENT for c in curves.values()))
        for e in epochs
    ]
    st.html(table(words('as_table', metric=title), (words('epoch_column'), *curves), rows))


def _score(words: Words, value: float | None) -> str:
    return ABSENT if value is None else words.number(100 * value)
