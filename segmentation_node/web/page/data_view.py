# SPDX-License-Identifier: Apache-2.0
"""View of the training data and the classes."""

import streamlit as st

from segmentation_node.web.page.class_shares import largest_shares, shares_by_id
from segmentation_node.web.page.markup import figure, note, swatch, table
from segmentation_node.web.page.patterns import patterned
from segmentation_node.web.page.sample_pictures import categories, street
from segmentation_node.web.page.translations import Words


def show(words: Words) -> None:
    """Show the view."""
    scheme = categories()
    st.header(words('data_head'))
    st.write(words('data_text'))
    st.html(note(words('data_limits')))
    st.subheader(words('example_head'))
    example = street(0)
    true_labels = example.truth_in(scheme)
    share_of = shares_by_id(true_labels)
    named = [(c.name, share_of.get(c.id, 0.0)) for c in scheme.classes]
    left, right = st.columns(2)
    left.html(figure(example.image_rgb, words('example_alt'), words('example_caption')))
    truth_alt = words('truth_alt', largest=largest_shares(words, named))
    truth = patterned(true_labels, scheme)
    right.html(figure(truth, truth_alt, words('truth_caption'), exact=True))
    st.html(
        table(
            words('classes_table'),
            (words('class'), words('meaning'), words('example_share')),
            [
                (words.class_name(name), words(f'about_{name}'), words.percent(share))
                for name, share in named
            ],
            [swatch(scheme, c.id) for c in scheme.classes],
        )
    )
