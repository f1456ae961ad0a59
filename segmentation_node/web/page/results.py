# SPDX-License-Identifier: Apache-2.0
"""The part of the view that shows what the models made of the chosen picture."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final
from uuid import uuid4

import streamlit as st

from segmentation_node.checkpoint import bundled_models
from segmentation_node.errors import SchemeError
from segmentation_node.images.files import ImageRgb
from segmentation_node.images.rendering import LabelImage, colorize, overlay
from segmentation_node.labels import LabelClass, LabelScheme, available_schemes, load_scheme
from segmentation_node.metrics import Confusion, truth_lut_of
from segmentation_node.web.page.markup import ABSENT, figure, large_figure, note, swatch, table
from segmentation_node.web.page.parts import choice, largest, shares
from segmentation_node.web.page.patterns import disagreement, patterned
from segmentation_node.web.page.picture import Picture
from segmentation_node.web.page.sample_pictures import SCHEME, Sample
from segmentation_node.web.page.service_client import Answer
from segmentation_node.web.page.texts import Words

TIMINGS: Final = ('decode_ms', 'wait_ms', 'segment_ms', 'encode_ms')
WAYS: Final = ('overlay', 'patterns')
#: Results beside each other.
COLUMNS: Final = 2
#: Id of the heading of the results.
RESULT: Final = 'result'
#: Brings a new result into sight, and the keyboard to it.
_SHOW: Final = """<script>
{{ const head = document.getElementById('{id}')
  if (head) {{
    head.tabIndex = -1
    head.focus({{preventScroll: true}})
    head.scrollIntoView({{block: 'start'}})
  }} }}
// {nonce}
</script>"""


def show_results(words: Words, picture: Picture, answers: Sequence[Answer], *, new: bool) -> None:
    """Show the answers of the models beside their picture.

    Args:
        words: of the language.
        picture: that all answers belong to.
        answers: one at least.
        new: whether they have just arrived and are to be brought into sight.
    """
    st.header(words('result_head'), anchor=RESULT)
    way = choice(words, words('shown_as'), 'way', WAYS, [words(f'as_{w}') for w in WAYS])
    alpha = 1.0
    if way == 'overlay':
        alpha = st.slider(words('alpha'), 0, 100, 50, 5, key='alpha') / 100
    _pictures(words, picture, answers, way, alpha)
    st.html(note(_caution(words, answers)))
    _legends(words, picture, answers)
    if picture.sample is not None:
        _ious(words, picture.sample, answers)
    if len(answers) > 1:
        _disagreements(words, picture.image_rgb, answers)
    _timings(words, answers)
    _downloads(words, answers)
    if new:
        # At the end: before, the page is not high enough to be scrolled so far.
        st.html(_SHOW.format(id=RESULT, nonce=uuid4()), unsafe_allow_javascript=True)


def _pictures(
    words: Words, picture: Picture, answers: Sequence[Answer], way: str, alpha: float
) -> None:
    exact = way == 'patterns'

    def painted(labels: LabelImage, scheme: LabelScheme) -> ImageRgb:
        if exact:
            return patterned(labels, scheme)
        return overlay(picture.image_rgb, colorize(labels, scheme), alpha)

    shown = [(picture.image_rgb, words('original_alt'), words('original'), words('original'))]
    if picture.sample is not None and (truth := _truth(picture.sample, answers[0])) is not None:
        scheme = _scheme(answers[0])
        share_of = shares(truth)
        named = [(c.name, share_of.get(c.id, 0.0)) for c in scheme.classes]
        alt = words('truth_alt', largest=largest(words, named))
        shown.append((painted(truth, scheme), alt, words('truth_caption'), words('truth')))
    for answer in answers:
        model = words.model(answer.model)
        named = [(c['name'], c['share']) for c in answer.classes]
        alt = words('result_alt', model=model, largest=largest(words, named))
        caption = words('result_caption', model=model, confidence=words.percent(answer.confidence))
        shown.append((painted(answer.labels, _scheme(answer)), alt, caption, model))
    for first in range(0, len(shown), COLUMNS):
        row = shown[first : first + COLUMNS]
        for column, (image, alt, caption, name) in zip(st.columns(COLUMNS), row, strict=False):
            column.html(figure(image, alt, caption, exact=exact))
            key = f'large_{first}_{name}'
            if column.button(words('enlarge', name=name), key=key):
                _enlarged(words, name, large_figure(image, alt, caption, exact=exact))


def _enlarged(words: Words, title: str, html: str) -> None:
    @st.dialog(title, width='large')
    def shown() -> None:
        st.write(words('enlarge_help'))
        st.html(html)

    shown()


def _caution(words: Words, answers: Sequence[Answer]) -> str:
    """What can be expected of the models."""
    bundled = bundled_models()
    others = [words.model(a.model) for a in answers if a.model not in bundled]
    said = [words('caution')] if len(others) < len(answers) else []
    said += [words('caution_others', models=', '.join(others))] if others else []
    return ' '.join(said)


def _legends(words: Words, picture: Picture, answers: Sequence[Answer]) -> None:
    """A legend for each set of classes, with the shares in the truth and by each model."""
    for classes in _class_sets(answers):
        mine = [a for a in answers if _ids(a) == classes]
        scheme = _scheme(mine[0])
        truth = None if picture.sample is None else _truth(picture.sample, mine[0])
        share_of = {} if truth is None else shares(truth)
        rows = [
            (
                words.class_name(c.name),
                *([] if truth is None else [words.percent(share_of.get(c.id, 0.0))]),
                *(words.percent(a.classes[i]['share']) for a in mine),
            )
            for i, c in enumerate(scheme.classes)
        ]
        truth_column = [] if truth is None else [words('truth')]
        columns = (words('class'), *truth_column, *(words.model(a.model) for a in mine))
        swatches = [swatch(scheme, c.id) for c in scheme.classes]
        st.html(table(words('legend'), columns, rows, swatches))


def _ious(words: Words, sample: Sample, answers: Sequence[Answer]) -> None:
    """IoU of every class by each model, where the truth is known in the model's classes."""
    for classes in _class_sets(answers):
        mine = [a for a in answers if _ids(a) == classes]
        scheme = _scheme(mine[0])
        try:
            lut = truth_lut_of(load_scheme(SCHEME), scheme)
        except SchemeError:
            continue
        scores = []
        for answer in mine:
            confusion = Confusion()
            confusion.add_target(lut[sample.label_ids], answer.labels)
            scores.append(confusion.scores(scheme))
        ious = [s.class_iou() for s in scores]
        rows = [
            (words.class_name(name), *(_percent(words, iou[name]) for iou in ious))
            for name in ious[0]
        ]
        rows.insert(0, (words('miou'), *(_percent(words, s.miou()) for s in scores)))
        columns = (words('class'), *(words.model(a.model) for a in mine))
        st.html(table(words('sample_iou'), columns, rows))
    st.write(words('sample_iou_note'))


def _percent(words: Words, share: float) -> str:
    return ABSENT if math.isnan(share) else words.percent(share)


def _truth(sample: Sample, answer: Answer) -> LabelImage | None:
    """The truth in a model's classes, (H, W) uint8; None where it cannot be said in these."""
    try:
        return sample.truth_in(_scheme(answer))
    except SchemeError:
        return None


def _disagreements(words: Words, image_rgb: ImageRgb, answers: Sequence[Answer]) -> None:
    st.subheader(words('disagree_head'))
    if len(_class_sets(answers)) > 1:
        st.write(words('other_schemes'))
        return
    picture, share = disagreement(image_rgb, [answer.labels for answer in answers])
    said = words.percent(share)
    alt, caption = words('disagree_alt', share=said), words('disagree_caption', share=said)
    left, right = st.columns((3, 2))
    left.html(figure(picture, alt, caption, exact=True))
    rows = [
        (
            f'{words.model(a.model)}, {words.model(b.model)}',
            words.percent(float((a.labels == b.labels).mean())),
        )
        for a, b in combinations(answers, 2)
    ]
    right.html(table(words('agree_table'), (words('pair'), words('agreement')), rows))


def _timings(words: Words, answers: Sequence[Answer]) -> None:
    rows = [
        (words.model(a.model), *(words.number(a.timings[key], 0) for key in TIMINGS))
        for a in answers
    ]
    st.html(table(words('timings'), (words('model'), *map(words, TIMINGS)), rows))
    st.write(words('timings_note'))


def _downloads(words: Words, answers: Sequence[Answer]) -> None:
    st.subheader(words('download_head'))
    for answer in answers:
        left, right = st.columns(2)
        for column, kind, data in (
            (left, 'label', answer.label_png),
            (right, 'color', answer.color_png),
        ):
            column.download_button(
                words(f'download_{kind}', model=words.model(answer.model)), data,
                f'{answer.model}_{kind}.png', 'image/png', on_click='ignore',
                key=f'{kind}_{answer.model}',
            )  # fmt: skip
    st.write(words('download_note'))


def _ids(answer: Answer) -> tuple[tuple[int, str], ...]:
    return tuple((c['id'], c['name']) for c in answer.classes)


def _class_sets(answers: Sequence[Answer]) -> list[tuple[tuple[int, str], ...]]:
    return list(dict.fromkeys(map(_ids, answers)))


def _scheme(answer: Answer) -> LabelScheme:
    """The scheme of an answer: one of the package's, or else the classes of its legend."""
    if answer.label_scheme in available_schemes():
        known = load_scheme(answer.label_scheme)
        if tuple((c.id, c.name) for c in known.classes) == _ids(answer):
            return known
    classes: list[dict[str, Any]] = answer.classes
    return LabelScheme(
        answer.model,
        tuple(
            LabelClass(c['id'], c['name'], tuple(c['color']), c['category'], void=c['void'])
            for c in classes
        ),
    )
