# SPDX-License-Identifier: Apache-2.0
"""The view that compares the models on one picture."""

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

import streamlit as st

from segmentation_node.images.files import encode_png
from segmentation_node.web.page.picture import Picture, choose_picture
from segmentation_node.web.page.results import show_results
from segmentation_node.web.page.service_client import Answer, ServiceError, known_models, predict
from segmentation_node.web.page.texts import Words

POLL_S: Final = 0.5
#: Where the session keeps the Outcome that is shown.
OUTCOME: Final = 'outcome'


@dataclass(frozen=True)
class Outcome:
    """What came of one request; it belongs to one picture and one choice of models."""

    digest: str
    models: tuple[str, ...]
    answers: tuple[Answer, ...]
    problems: Mapping[str, ServiceError]

    def fits(self, picture: Picture, models: Sequence[str]) -> bool:
        """Return whether this is the outcome for a picture and models."""
        return (self.digest, self.models) == (picture.digest, tuple(models))


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
        picture = choose_picture(words)
    with right:
        st.header(words('models_head'))
        chosen = [m for m in models if st.checkbox(words.model(m), value=True, key=f'model_{m}')]
        pressed = st.button(words('run'), type='primary', disabled=picture is None)
    # One place, so that what is shown of another picture goes before something new is awaited.
    place = st.empty()
    if pressed and not chosen:
        place.warning(words('choose_model'))
    if picture is None or not chosen:
        return
    if pressed:
        with place.container():
            st.session_state[OUTCOME] = _outcome(words, picture, chosen)
        place.empty()
    outcome: Outcome | None = st.session_state.get(OUTCOME)
    if outcome is not None and outcome.fits(picture, chosen):
        with place.container():
            for model, problem in outcome.problems.items():
                st.error(f'{words.model(model)}: {words.problem(problem.kind, str(problem))}')
            if outcome.answers:
                show_results(words, picture, outcome.answers, new=pressed)


def _outcome(words: Words, picture: Picture, models: Sequence[str]) -> Outcome:
    """Ask all models, and tell meanwhile how far they are."""
    png = encode_png(picture.image_rgb)
    place = st.empty()
    with ThreadPoolExecutor(len(models)) as pool:
        jobs = {model: pool.submit(predict, model, png) for model in models}
        waiting = set(jobs.values())
        while waiting:
            text = _progress(words, jobs)
            place.html(f'<p role="status" class="sn-note">{text}</p>')
            _, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
    failed = {model: job.exception() for model, job in jobs.items()}
    problems = {m: error for m, error in failed.items() if isinstance(error, ServiceError)}
    answers = [job.result() for model, job in jobs.items() if model not in problems]
    return Outcome(picture.digest, tuple(models), tuple(answers), problems)


def _progress(words: Words, jobs: Mapping[str, 'Future[Answer]']) -> str:
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
