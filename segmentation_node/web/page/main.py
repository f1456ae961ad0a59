# SPDX-License-Identifier: Apache-2.0
"""The script that Streamlit runs anew with every change of the page.

streamlit run segmentation_node/web/page/main.py
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import streamlit as st

from segmentation_node.web.page import compare, data, scores, service_client
from segmentation_node.web.page.markup import STYLE
from segmentation_node.web.page.parts import choice
from segmentation_node.web.page.texts import LANGUAGES, Words

VIEWS: Final[Mapping[str, Callable[[Words], None]]] = MappingProxyType(
    {'compare': compare.show, 'data': data.show, 'scores': scores.show}
)


def main() -> None:
    """Show the page."""
    st.set_page_config(page_title='segmentation_node', layout='wide')
    asked = st.query_params.get('lang', 'en')
    language = st.radio(
        'Language / Langue', list(LANGUAGES), horizontal=True, key='language',
        index=list(LANGUAGES).index(asked) if asked in LANGUAGES else 0,
        format_func=lambda code: LANGUAGES[code],
    )  # fmt: skip
    st.query_params['lang'] = language
    words = Words(language)
    st.html(STYLE)
    # Screen readers pronounce the page in the language that it says it is in.
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
