# SPDX-License-Identifier: Apache-2.0
"""Sample pictures: rendered streets with their ground truth."""

from typing import Final, NamedTuple

import streamlit as st

from segmentation_node.images.files import ImageRgb
from segmentation_node.images.rendering import LabelImage
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.scenes.render import SCHEME, Renderer
from segmentation_node.scenes.street import Street

#: Seed and time of each rendered street; not used in training.
STREETS: Final = ((9, 1.0), (21, 4.0), (33, 2.0), (47, 6.0))
STREET_WH: Final = (960, 480)


class Sample(NamedTuple):
    """Picture, (H, W, 3) uint8 RGB, with its ground truth, (H, W) uint8 Cityscapes labelIds."""

    image_rgb: ImageRgb
    label_ids: LabelImage

    def truth_in(self, scheme: LabelScheme) -> LabelImage:
        """Return the ground truth in the classes of a scheme, (H, W) uint8; raises SchemeError."""
        return load_scheme(SCHEME).mapping_to(scheme)[self.label_ids]


@st.cache_data(max_entries=len(STREETS), show_spinner=False)
def street(index: int) -> Sample:
    """Render one of STREETS."""
    seed, time_s = STREETS[index]
    frame = Renderer(*STREET_WH).render(Street(seed), time_s)
    return Sample(frame.image_rgb, frame.label_ids)


@st.cache_resource
def categories() -> LabelScheme:
    """Return the label scheme of the bundled models."""
    return load_scheme('cityscapes8')
