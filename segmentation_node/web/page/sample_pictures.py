# SPDX-License-Identifier: Apache-2.0
"""Sample pictures: rendered streets with their ground truth."""

from typing import Final, NamedTuple

import streamlit as st

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import read_image
from segmentation_node.images.label_files import read_labels
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.paths import samples_dir

#: Names of the bundled pictures; not used in training.
STREETS: Final = ('street_1', 'street_2', 'street_3', 'street_4')
#: Label scheme of their ground truth.
SCHEME: Final = 'cityscapes34'


class Sample(NamedTuple):
    """Picture, (H, W, 3) uint8 RGB, with its ground truth, (H, W) uint8 Cityscapes labelIds."""

    image_rgb: UInt8Array
    label_ids: UInt8Array

    def truth_in(self, scheme: LabelScheme) -> UInt8Array:
        """Return the ground truth in the classes of a scheme, (H, W) uint8; raises SchemeError."""
        return load_scheme(SCHEME).mapping_to(scheme)[self.label_ids]


@st.cache_data(max_entries=len(STREETS), show_spinner=False)
def street(index: int) -> Sample:
    """Read one of STREETS."""
    name, folder = STREETS[index], samples_dir()
    label_ids = read_labels(folder / 'labels' / f'{name}.png', load_scheme(SCHEME))
    return Sample(read_image(folder / 'images' / f'{name}.jpg'), label_ids)


@st.cache_resource
def categories() -> LabelScheme:
    """Return the label scheme of the bundled models."""
    return load_scheme('cityscapes8')
