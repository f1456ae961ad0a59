# SPDX-License-Identifier: Apache-2.0
"""Section of the compare view that shows the results of the models."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final
from uuid import uuid4

import streamlit as st

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import bundled_models
from segmentation_node.errors import SchemeError
from segmentation_node.images.rendering import OUTLINE_RGB, colorize, overlay
from segmentation_node.instances import outlines_of
from segmentation_node.labels import LabelClass, LabelScheme, available_schemes, load_scheme
from segmentation_node.scoring import LabelComparison
from segmentation_node.web.page.choice import choice
from segmentation_node.web.page.class_shares import largest_shares, shares_by_id
from segmentation_node.web.page.markup import ABSENT, figure, large_figure, note, swatch, table
from segmentation_node.web.page.patterns import disagreement, patterned
from segmentation_node.web.page.picture_section import ChosenPicture
from segmentation_node.web.page.sample_pictures import SCHEME, Sample
from segmentation_node.web.page.service_client import DecodedResult
from segmentation_node.web.page.translations import Words

TIMINGS: Final = ('decode_ms', 'wait_ms', 'segment_ms', 'encode_ms')
STYLES: Final = ('overlay', 'patterns')
#: Number of pictures per row.
COLUMNS: Final = 2
#: Id of the heading of the results.
HEADING_ID: Final = 'result'
#: Scrolls to a new result and moves the keyboard focus to it.
_SCROLL_SCRIPT: Final = """<script>
{{ const heading = document.getElementById('{id}')
  if (heading) {{
    heading.tabIndex = -1
    heading.focus({{preventScroll: true}})
    heading.scrollIntoView({{block: 'start'}})
  }} }}
// {nonce}
</script>"""


def show_results(
    words: Words, picture: ChosenPicture, results: Sequence[DecodedResult], *, new: bool
) -> None:
    """Show the results of the models for a picture.

    Args:
        words: texts of the current language.
        picture: picture of all results.
        results: results of at least one model.
        new: scroll to the results.
    """
    st.header(words('result_head'), anchor=HEADING_ID)
    style = choice(words, words('shown_as'), 'style', STYLES, [words(f'as_{s}') for s in STYLES])
    alpha = 1.0
    if style == 'overlay':
        alpha = st.slider(words('alpha'), 0, 100, 50, 5, key='alpha') / 100
    outlines = any(r.instances is not None for r in results) and st.checkbox(
        words('outlines'), value=True, key='outlines'
    )
    _pictures(words, picture, results, style, alpha, outlines=outlines)
    st.html(note(_caution(words, results)))
    _legends(words, picture, results)
    _instances(words, results)
    if picture.sample is not None:
        _ious(words, picture.sample, results)
    if len(results) > 1:
        _disagreements(words, picture.image_rgb, results)
    _timings(words, results)
    _downloads(words, results)
    if new:
        # At the end, because the page must be long enough to scroll this far.
        st.html(_SCROLL_SCRIPT.format(id=HEADING_ID, nonce=uuid4()), unsafe_allow_javascript=True)


def _pictures(
    words: Words,
    picture: ChosenPicture,
    results: Sequence[DecodedResult],
    style: str,
    alpha: float,
    *,
    outlines: bool,
) -> None:
    exact = style == 'patterns'

    def draw(labels: UInt8Array, scheme: LabelScheme) -> UInt8Array:
        if exact:
            return patterned(labels, scheme)
        return overlay(picture.image_rgb, colorize(labels, scheme), alpha)

    pictures = [(picture.image_rgb, words('original_alt'), words('original'), words('original'))]
    if picture.sample is not None and (truth := _truth(picture.sample, results[0])) is not None:
        scheme = _scheme(results[0])
        share_of = shares_by_id(truth)
        named = [(c.name, share_of.get(c.id, 0.0)) for c in scheme.classes]
        alt = words('truth_alt', largest=largest_shares(words, named))
        pictures.append((draw(truth, scheme), alt, words('truth_caption'), words('truth')))
    for result in results:
        model = words.model(result.model)
        named = [(c['name'], c['share']) for c in result.classes]
        alt = words('result_alt', model=model, largest=largest_shares(words, named))
        caption = words('result_caption', model=model, confidence=words.percent(result.confidence))
        if result.out_of_domain:
            caption += words('out_of_domain')
        drawn = draw(result.labels, _scheme(result))
        if outlines and result.instances is not None:
            drawn[outlines_of(result.instances.ids)] = OUTLINE_RGB
        pictures.append((drawn, alt, caption, model))
    for first in range(0, len(pictures), COLUMNS):
        row = pictures[first : first + COLUMNS]
        for column, (image, alt, caption, name) in zip(st.columns(COLUMNS), row, strict=False):
            column.html(figure(image, alt, caption, exact=exact))
            key = f'large_{first}_{name}'
            if column.button(words('enlarge', name=name), key=key):
                _show_enlarged(words, name, large_figure(image, alt, caption, exact=exact))


def _show_enlarged(words: Words, title: str, html: str) -> None:
    @st.dialog(title, width='large')
    def dialog() -> None:
        st.write(words('enlarge_help'))
        st.html(html)

    dialog()


def _caution(words: Words, results: Sequence[DecodedResult]) -> str:
    """Return a warning about the limits of the models."""
    bundled = bundled_models()
    others = [words.model(r.model) for r in results if r.model not in bundled]
    texts = [words('caution')] if len(others) < len(results) else []
    texts += [words('caution_others', models=', '.join(others))] if others else []
    return ' '.join(texts)


def _legends(words: Words, picture: ChosenPicture, results: Sequence[DecodedResult]) -> None:
    """Show a legend for each set of classes, with the shares in the truth and by each model."""
    for classes in _class_sets(results):
        group = [r for r in results if _ids(r) == classes]
        scheme = _scheme(group[0])
        truth = None if picture.sample is None else _truth(picture.sample, group[0])
        share_of = {} if truth is None else shares_by_id(truth)
        rows = [
            (
                words.class_name(c.name),
                *([] if truth is None else [words.percent(share_of.get(c.id, 0.0))]),
                *(words.percent(r.classes[i]['share']) for r in group),
            )
            for i, c in enumerate(scheme.classes)
        ]
        truth_column = [] if truth is None else [words('truth')]
        columns = (words('class'), *truth_column, *(words.model(r.model) for r in group))
        swatches = [swatch(scheme, c.id) for c in scheme.classes]
        st.html(table(words('legend'), columns, rows, swatches))


def _instances(words: Words, results: Sequence[DecodedResult]) -> None:
    """Show a table of the instances for each model that tells them apart."""
    columns = tuple(map(words, ('instance', 'class', 'score', 'box')))
    for result in results:
        if result.instances is None:
            continue
        rows = [
            (
                str(each['id']),
                words.class_name(each['class_name']),
                words.percent(each['score']),
                words('box_value', **each['box']),
            )
            for each in result.instances.rows
        ]
        model = words.model(result.model)
        if rows:
            st.html(table(words('instances_table', model=model), columns, rows))
        else:
            st.write(words('no_instances', model=model))


def _ious(words: Words, sample: Sample, results: Sequence[DecodedResult]) -> None:
    """Show the IoU of each class and model, if the truth can be mapped to the model's classes."""
    for classes in _class_sets(results):
        group = [r for r in results if _ids(r) == classes]
        scheme = _scheme(group[0])
        try:
            comparisons = [LabelComparison(load_scheme(SCHEME), scheme) for _ in group]
        except SchemeError:
            continue
        for comparison, result in zip(comparisons, group, strict=True):
            comparison.add(sample.label_ids, result.labels, result.model)
        scores = [comparison.confusion.scores(scheme) for comparison in comparisons]
        ious = [s.class_iou() for s in scores]
        rows = [
            (words.class_name(name), *(_percent(words, iou[name]) for iou in ious))
            for name in ious[0]
        ]
        rows.insert(0, (words('miou'), *(_percent(words, s.miou()) for s in scores)))
        columns = (words('class'), *(words.model(r.model) for r in group))
        st.html(table(words('sample_iou'), columns, rows))
    st.write(words('sample_iou_note'))


def _percent(words: Words, share: float) -> str:
    return ABSENT if math.isnan(share) else words.percent(share)


def _truth(sample: Sample, result: DecodedResult) -> UInt8Array | None:
    """Return the truth in a model's classes, (H, W) uint8; None if it cannot be mapped to them."""
    try:
        return sample.truth_in(_scheme(result))
    except SchemeError:
        return None


def _disagreements(words: Words, image_rgb: UInt8Array, results: Sequence[DecodedResult]) -> None:
    st.subheader(words('disagree_head'))
    if len(_class_sets(results)) > 1:
        st.write(words('other_schemes'))
        return
    picture, share = disagreement(image_rgb, [result.labels for result in results])
    text = words.percent(share)
    alt, caption = words('disagree_alt', share=text), words('disagree_caption', share=text)
    left, right = st.columns((3, 2))
    left.html(figure(picture, alt, caption, exact=True))
    rows = [
        (
            f'{words.model(one.model)}, {words.model(other.model)}',
            words.percent(float((one.labels == other.labels).mean())),
        )
        for one, other in combinations(results, 2)
    ]
    right.html(table(words('agree_table'), (words('pair'), words('agreement')), rows))


def _timings(words: Words, results: Sequence[DecodedResult]) -> None:
    rows = [
        (words.model(r.model), *(words.number(r.timings[key], 0) for key in TIMINGS))
        for r in results
    ]
    st.html(table(words('timings'), (words('model'), *map(words, TIMINGS)), rows))
    st.write(words('timings_note'))


def _downloads(words: Words, results: Sequence[DecodedResult]) -> None:
    st.subheader(words('download_head'))
    for result in results:
        files = {'label': result.label_png, 'color': result.color_png}
        if result.instances is not None:
            files['instance'] = result.instances.png
        for column, (kind, data) in zip(st.columns(len(files)), files.items(), strict=True):
            column.download_button(
                words(f'download_{kind}', model=words.model(result.model)), data,
                f'{result.model}_{kind}.png', 'image/png', on_click='ignore',
                key=f'{kind}_{result.model}',
            )  # fmt: skip
    st.write(words('download_note'))
    if any(r.instances is not None for r in results):
        st.write(words('download_instance_note'))


def _ids(result: DecodedResult) -> tuple[tuple[int, str], ...]:
    return tuple((c['id'], c['name']) for c in result.classes)


def _class_sets(results: Sequence[DecodedResult]) -> list[tuple[tuple[int, str], ...]]:
    return list(dict.fromkeys(map(_ids, results)))


def _scheme(result: DecodedResult) -> LabelScheme:
    """Return the scheme of a result: one of the package, or one built from its legend."""
    if result.label_scheme in available_schemes():
        known = load_scheme(result.label_scheme)
        if tuple((c.id, c.name) for c in known.classes) == _ids(result):
            return known
    classes: list[dict[str, Any]] = result.classes
    return LabelScheme(
        result.model,
        tuple(
            LabelClass(c['id'], c['name'], tuple(c['color']), c['category'], void=c['void'])
            for c in classes
        ),
    )
