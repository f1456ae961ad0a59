# SPDX-License-Identifier: Apache-2.0
"""Script that Streamlit runs for every interaction with the page.

streamlit run segmentation_node/web/page/main.py
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import streamlit as st

from segmentation_node.web.page import compare_view, data_view, service_client, training_view
from segmentation_node.web.page.choice import choice
from segmentation_node.web.page.markup import STYLE
from segmentation_node.web.page.translations import LANGUAGES, Words

VIEWS: Final[Mapping[str, Callable[[Words], None]]] = MappingProxyType(
    {'compare': compare_view.show, 'data': data_view.show, 'scores': training_view.show}
)


def main() -> None:
    """Show the page."""
    st.set_page_config(page_title='segmentation_node', layout='wide')
    requested = st.query_params.get('lang', 'en')
    language = st.radio(
        'Language / Langue', list(LANGUAGES), horizontal=True, key='language',
        index=list(LANGUAGES).index(requested) if requested in LANGUAGES else 0,
        format_func=lambda code: LANGUAGES[code],
    )  # fmt: skip
    st.query_params['lang'] = language
    words = Words(language)
    st.html(STYLE)
    # Sets the language in which screen readers pronounce the page.
    st.html(
        f'<script>document.documentElement.lang = "{language}"</script>',
        unsafe_allow_javascript=True,
    )
    st.title(words('title'))
    st.write(words('lead'))
    view = choice(words, words('view'), 'view', list(VIEWS), [words(f'view_{v}') for v in VIEWS])
    VIEWS[view](words)
    st.markdown(f'[{words("live_link")}]({service_client.public_url()}/live?lang={language})')


if __name__ == '__main__':
    main()
