# SPDX-License-Identifier: Apache-2.0
"""Radio buttons that keep their selection when the language changes."""

from collections.abc import Sequence

import streamlit as st

from segmentation_node.web.page.translations import Words


def choice(
    words: Words,
    label: str,
    name: str,
    options: Sequence[str],
    texts: Sequence[str] = (),
    *,
    horizontal: bool = True,
) -> str:
    """Show radio buttons and return the selected option.

    Args:
        words: texts of the current language.
        label: label above the buttons.
        name: key of the selection in the session state.
        options: possible values.
        texts: text of each button; the values by default.
        horizontal: place the buttons side by side.
    """
    values = list(options)
    remembered = st.session_state.get(f'chosen_{name}', values[0])
    text_of = dict(zip(values, texts or values, strict=True))
    chosen = st.radio(
        label,
        values,
        index=values.index(remembered) if remembered in values else 0,
        format_func=lambda value: text_of[value],
        horizontal=horizontal,
        # Streamlit resets a widget whose texts change, unless it has another key.
        key=f'{name}_{words.language}',
    )
    st.session_state[f'chosen_{name}'] = chosen
    return chosen or values[0]
