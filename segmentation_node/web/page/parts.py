# SPDX-License-Identifier: Apache-2.0
"""What several views show."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import streamlit as st

from segmentation_node.image_files import ImageRgb
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.rendering import LabelImage
from segmentation_node.scenes.render import SCHEME, Renderer
from segmentation_node.scenes.street import Street
from segmentation_node.web.page.texts import Words

#: Seeds and times of the drawn streets to choose from; no training run has seen them.
SAMPLES = ((9, 1.0), (21, 4.0), (33, 2.0), (47, 6.0))
SAMPLE_WH = (960, 480)


class Sample(NamedTuple):
    """A drawn street, (H, W, 3) uint8 RGB, and its true labels in the 8 categories, (H, W)."""

    image_rgb: ImageRgb
    truth: LabelImage


@st.cache_data(max_entries=len(SAMPLES), show_spinner=False)
def sample(index: int) -> Sample:
    """One of SAMPLES, drawn."""
    seed, time_s = SAMPLES[index]
    frame = Renderer(*SAMPLE_WH).render(Street(seed), time_s)
    lut = load_scheme(SCHEME).mapping_to(categories())
    return Sample(frame.image_rgb, lut[frame.label_ids])


@st.cache_resource
def categories() -> LabelScheme:
    """The classes of the bundled models."""
    return load_scheme('cityscapes8')


def choice(
    words: Words,
    label: str,
    name: str,
    options: Sequence[str],
    texts: Sequence[str] = (),
    *,
    horizontal: bool = True,
) -> str:
    """Let one of several be chosen; it stays chosen when the language changes.

    Args:
        words: of the language.
        label: above the choice.
        name: under which it is remembered.
        options: values.
        texts: what is shown for each; the values themselves without it.
        horizontal: beside each other.
    """
    values = list(options)
    remembered = st.session_state.get(f'chosen_{name}', values[0])
    shown = dict(zip(values, texts or values, strict=True))
    chosen = st.radio(
        label,
        values,
        index=values.index(remembered) if remembered in values else 0,
        format_func=lambda value: shown[value],
        horizontal=horizontal,
        # A choice with other texts is another one to Streamlit.
        key=f'{name}_{words.language}',
    )
    st.session_state[f'chosen_{name}'] = chosen
    return chosen or values[0]


def shares(labels: LabelImage) -> dict[int, float]:
    """Share of the pixels by class id."""
    ids, counts = np.unique(labels, return_counts=True)
    return {int(i): float(n / labels.size) for i, n in zip(ids, counts, strict=True)}


def largest(words: Words, named: Sequence[tuple[str, float]], count: int = 3) -> str:
    """The largest classes in words, for whoever cannot see the picture."""
    first = sorted(named, key=lambda pair: -pair[1])[:count]
    return ', '.join(
        f'{words.class_name(name)} {words.percent(share)}' for name, share in first if share > 0
    )
