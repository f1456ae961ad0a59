# SPDX-License-Identifier: Apache-2.0
"""The view that compares the models on one picture."""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import combinations
from typing import Any, Final

import cv2
import numpy as np
import streamlit as st

from segmentation_node.errors import ImageError
from segmentation_node.image_files import ImageRgb, decode_file, encode_png
from segmentation_node.labels import LabelClass, LabelScheme
from segmentation_node.rendering import colorize, overlay
from segmentation_node.web.page.client import Answer, ServiceError, known_models, predict
from segmentation_node.web.page.markup import figure, note, swatch, table
from segmentation_node.web.page.parts import SAMPLES, choice, largest, sample
from segmentation_node.web.page.patterns import disagreement, patterned
from segmentation_node.web.page.texts import Words

#: A larger picture is scaled down: it takes long, and the networks have learned from smaller ones.
MAX_PIXELS: Final = 2**21
POLL_S: Final = 0.5
TIMINGS: Final = ('decode_ms', 'wait_ms', 'segment_ms', 'encode_ms')


def show(words: Words) -> None:
    """Show the view."""
    try:
        models = [model['name'] for model in known_models()]
    except ServiceError as error:
        st.error(words.problem(error.kind, str(error)))
        return
    left, right = st.columns((2, 1))
    with left:
        st.header(words('picture_head'))
        image_rgb = _picture(words)
    with right:
        st.header(words('models_head'))
        chosen = [m for m in models if st.checkbox(words.model(m), value=True, key=f'model_{m}')]
        pressed = st.button(words('run'), type='primary', disabled=image_rgb is None)
    if pressed and not chosen:
        st.warning(words('choose_model'))
    if pressed and chosen and image_rgb is not None:
        st.session_state['answers'] = None
        answers = _answers(words, chosen, encode_png(image_rgb))
        st.session_state['answers'] = (image_rgb, answers) if answers else None
    if st.session_state.get('answers'):
        _compare(words, *st.session_state['answers'])


def _picture(words: Words) -> ImageRgb | None:
    """The picture that was chosen, (H, W, 3) uint8 RGB."""
    texts = [words('from_sample'), words('from_upload')]
    source = choice(words, words('picture_from'), 'from', ('sample', 'upload'), texts)
    if source == 'sample':
        numbers = [str(n + 1) for n in range(len(SAMPLES))]
        texts = [words('sample_name', number=number) for number in numbers]
        number = choice(words, words('sample'), 'sample', numbers, texts)
        image_rgb = sample(int(number) - 1).image_rgb
    else:
        file = st.file_uploader(words('upload'), key='upload')
        if file is None:
            st.write(words('upload_wait'))
            return None
        try:
            image_rgb = decode_file(file.getvalue(), upright=True)
        except ImageError:
            st.error(words('problem_unsupported-format'))
            return None
    image_rgb = _scaled(words, image_rgb)
    st.html(figure(image_rgb, words('original_alt'), words('original')))
    return image_rgb


def _scaled(words: Words, image_rgb: ImageRgb) -> ImageRgb:
    height, width = image_rgb.shape[:2]
    if height * width <= MAX_PIXELS:
        return image_rgb
    scale = (MAX_PIXELS / (height * width)) ** 0.5
    size_wh = (max(1, int(width * scale)), max(1, int(height * scale)))
    st.html(note(words('scaled', width=size_wh[0], height=size_wh[1])))
    return np.asarray(cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _answers(words: Words, models: Sequence[str], png: bytes) -> list[Answer]:
    """Ask all models, and tell meanwhile how far they are."""
    place = st.empty()
    with ThreadPoolExecutor(len(models)) as pool:
        jobs = {model: pool.submit(predict, model, png) for model in models}
        waiting = set(jobs.values())
        while waiting:
            text = _progress(words, jobs)
            place.html(f'<p role="status" class="sn-note">{text}</p>')
            _, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
    place.empty()
    return [job.result() for model, job in jobs.items() if not _failed(words, model, job)]


def _failed(words: Words, model: str, job: 'Future[Answer]') -> bool:
    """Whether the service refused; if so, it is told why."""
    error = job.exception()
    if isinstance(error, ServiceError):
        st.error(f'{words.model(model)}: {words.problem(error.kind, str(error))}')
    return isinstance(error, ServiceError)


def _progress(words: Words, jobs: dict[str, 'Future[Answer]']) -> str:
    try:
        states = {model['name']: model['state'] for model in known_models()}
    except ServiceError:
        states = {}  # the requests under way tell what is wrong
    said = [
        words(
            f'state_{"done" if job.done() else states.get(name, "idle")}', model=words.model(name)
        )
        for name, job in jobs.items()
    ]
    done = sum(job.done() for job in jobs.values())
    return words('progress', done=done, all=len(jobs), states='; '.join(said))


def _compare(words: Words, image_rgb: ImageRgb, answers: list[Answer]) -> None:
    st.header(words('result_head'))
    ways = ('overlay', 'patterns')
    way = choice(words, words('shown_as'), 'way', ways, [words(f'as_{w}') for w in ways])
    alpha = 1.0
    if way == 'overlay':
        alpha = st.slider(words('alpha'), 0, 100, 50, 5, key='alpha') / 100
    for column, answer in zip(st.columns(len(answers)), answers, strict=True):
        scheme = _scheme(answer)
        if way == 'patterns':
            picture = patterned(answer.labels, scheme)
        else:
            picture = overlay(image_rgb, colorize(answer.labels, scheme), alpha)
        named = [(c['name'], c['share']) for c in answer.classes]
        alt = words('result_alt', model=words.model(answer.model), largest=largest(words, named))
        sure = words.percent(answer.confidence)
        caption = words('result_caption', model=words.model(answer.model), confidence=sure)
        column.html(figure(picture, alt, caption, exact=way == 'patterns'))
    _legends(words, answers)
    if len(answers) > 1:
        _disagreements(words, image_rgb, answers)
    _timings(words, answers)
    _downloads(words, answers)


def _legends(words: Words, answers: list[Answer]) -> None:
    """A legend for each set of classes, with the shares of the models that have it."""
    for classes in _class_sets(answers):
        mine = [a for a in answers if _ids(a) == classes]
        scheme = _scheme(mine[0])
        rows = [
            (words.class_name(c.name), *(words.percent(a.classes[i]['share']) for a in mine))
            for i, c in enumerate(scheme.classes)
        ]
        columns = (words('class'), *(words.model(a.model) for a in mine))
        swatches = [swatch(scheme, c.id) for c in scheme.classes]
        st.html(table(words('legend'), columns, rows, swatches))


def _disagreements(words: Words, image_rgb: ImageRgb, answers: list[Answer]) -> None:
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


def _timings(words: Words, answers: list[Answer]) -> None:
    rows = [
        (words.model(a.model), *(words.number(a.timings[key], 0) for key in TIMINGS))
        for a in answers
    ]
    st.html(table(words('timings'), (words('model'), *map(words, TIMINGS)), rows))
    st.write(words('timings_note'))


def _downloads(words: Words, answers: list[Answer]) -> None:
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


def _class_sets(answers: list[Answer]) -> list[tuple[tuple[int, str], ...]]:
    return list(dict.fromkeys(map(_ids, answers)))


def _scheme(answer: Answer) -> LabelScheme:
    """The classes that an answer's legend tells of."""
    classes: list[dict[str, Any]] = answer.classes
    return LabelScheme(
        answer.model,
        tuple(
            LabelClass(c['id'], c['name'], tuple(c['color']), c['category'], void=c['void'])
            for c in classes
        ),
    )
