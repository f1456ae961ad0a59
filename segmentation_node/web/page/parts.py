# SPDX-License-Identifier: Apache-2.0
"""What several views show."""

from collections.abc import Sequence

import numpy as np
import streamlit as st

from segmentation_node.images.rendering import LabelImage
from segmentation_node.web.page.texts import Words


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
