# SPDX-License-Identifier: Apache-2.0
"""View that compares the models on one picture."""

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

import streamlit as st

from segmentation_node.images.files import encode_png
from segmentation_node.web.page.picture_section import ChosenPicture, choose_picture
from segmentation_node.web.page.results_section import show_results
from segmentation_node.web.page.service_client import (
    DecodedResult,
    ServiceError,
    known_models,
    predict,
)
from segmentation_node.web.page.translations import Words

POLL_S: Final = 0.5
#: Key of the current RequestOutcome in the session state.
OUTCOME: Final = 'outcome'


@dataclass(frozen=True)
class RequestOutcome:
    """Results and problems of one request, for one picture and one selection of models."""

    digest: str
    models: tuple[str, ...]
    results: tuple[DecodedResult, ...]
    problems: Mapping[str, ServiceError]

    def matches(self, picture: ChosenPicture, models: Sequence[str]) -> bool:
        """Return whether this is the outcome for a picture and these models."""
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
    # One placeholder, so that old results disappear before new ones are requested.
    results_place = st.empty()
    if pressed and not chosen:
        results_place.warning(words('choose_model'))
    if picture is None or not chosen:
        return
    if pressed:
        with results_place.container():
            st.session_state[OUTCOME] = _request(words, picture, chosen)
        results_place.empty()
    outcome: RequestOutcome | None = st.session_state.get(OUTCOME)
    if outcome is not None and outcome.matches(picture, chosen):
        with results_place.container():
            for model, problem in outcome.problems.items():
                st.error(f'{words.model(model)}: {words.problem(problem.kind, str(problem))}')
            if outcome.results:
                show_results(words, picture, outcome.results, new=pressed)


def _request(words: Words, picture: ChosenPicture, models: Sequence[str]) -> RequestOutcome:
    """Request results from all models, and show the progress."""
    png = encode_png(picture.image_rgb)
    progress = st.empty()
    with ThreadPoolExecutor(len(models)) as pool:
        jobs = {model: pool.submit(predict, model, png) for model in models}
        waiting = set(jobs.values())
        while waiting:
            text = _progress(words, jobs)
            progress.html(f'<p role="status" class="sn-note">{text}</p>')
            _, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
    failed = {model: job.exception() for model, job in jobs.items()}
    problems = {m: error for m, error in failed.items() if isinstance(error, ServiceError)}
    results = [job.result() for model, job in jobs.items() if model not in problems]
    return RequestOutcome(picture.digest, tuple(models), tuple(results), problems)


def _progress(words: Words, jobs: Mapping[str, 'Future[DecodedResult]']) -> str:
    try:
        states = {model['name']: model['state'] for model in known_models()}
    except ServiceError:
        states = {}  # the pending requests report the problem
    texts = [
        words(
            f'state_{"done" if job.done() else states.get(name, "idle")}', model=words.model(name)
        )
        for name, job in jobs.items()
    ]
    done = sum(job.done() for job in jobs.values())
    return words('progress', done=done, all=len(jobs), states='; '.join(texts))
