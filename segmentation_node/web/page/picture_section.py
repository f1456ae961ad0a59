# SPDX-License-Identifier: Apache-2.0
"""Section of the compare view in which a picture is chosen."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
import streamlit as st

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import MAX_PIXELS, MAX_SIDE
from segmentation_node.web.page.choice import choice
from segmentation_node.web.page.markup import figure, note
from segmentation_node.web.page.sample_pictures import STREETS, Sample, street
from segmentation_node.web.page.translations import Words
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.service_settings import PAGE_UPLOAD_MB, ServiceSettings
from segmentation_node.web.uploads import Upload

#: Larger pictures are scaled down: they are slow, and the networks were trained on smaller ones.
MAX_SHOWN_PIXELS: Final = 2**21
SOURCES: Final = ('sample', 'upload')
#: Limits of uploads to the page; the service receives the scaled picture.
LIMITS: Final = ServiceSettings(
    {}, max_upload_bytes=PAGE_UPLOAD_MB * 2**20, max_pixels=MAX_PIXELS, max_side=MAX_SIDE
)

#: Style that replaces the English text of Streamlit's upload button.
_BUTTON: Final = """<style>
[data-testid="stFileUploaderDropzone"] button p {{display: none}}
[data-testid="stFileUploaderDropzone"] button [data-testid="stMarkdownContainer"]::after
  {{content: "{text}"}}
</style>"""


@dataclass(frozen=True)
class ChosenPicture:
    """Chosen picture, (H, W, 3) uint8 RGB; `sample` has its ground truth, if known."""

    image_rgb: UInt8Array
    sample: Sample | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of size and pixels."""
        digest = hashlib.sha256(repr(self.image_rgb.shape).encode())
        digest.update(self.image_rgb.tobytes())
        return digest.hexdigest()


def choose_picture(words: Words) -> ChosenPicture | None:
    """Let the user choose a picture, and show it; None if there is none yet."""
    texts = [words(f'from_{source}') for source in SOURCES]
    source = choice(words, words('picture_from'), 'from', SOURCES, texts)
    if source == 'upload':
        picture = _uploaded(words)
    else:
        numbers = [str(n + 1) for n in range(len(STREETS))]
        texts = [words('sample_name', number=number) for number in numbers]
        chosen = choice(words, words('sample'), 'sample', numbers, texts)
        sample = street(int(chosen) - 1)
        picture = ChosenPicture(sample.image_rgb, sample)
    if picture is not None:
        st.html(figure(picture.image_rgb, words('original_alt'), words('original')))
    return picture


def _uploaded(words: Words) -> ChosenPicture | None:
    megabytes = words.number(PAGE_UPLOAD_MB, 0)
    file = st.file_uploader(words('upload', megabytes=megabytes), key='upload')
    if words.language != 'en':
        st.html(_BUTTON.format(text=words('upload_button')))
    # Streamlit rejects larger files in the browser, with an English tooltip only.
    too_large = words('upload_too_large', megabytes=megabytes)
    st.html(f'<div class="sn-too-large" role="alert">{note(too_large)}</div>')
    if file is None:
        st.write(words('upload_wait'))
        return None
    try:
        image_rgb = Upload.inspect(file.getvalue(), LIMITS).decode()
    except ProblemError as problem:
        text = words.problem(problem.kind, problem.detail)
        if problem.kind == 'too-many-bytes':
            text = too_large
        st.html(f'<div class="sn-unreadable" role="alert">{note(text)}</div>')
        return None
    return ChosenPicture(_scaled(words, image_rgb))


def _scaled(words: Words, image_rgb: UInt8Array) -> UInt8Array:
    height, width = image_rgb.shape[:2]
    if height * width <= MAX_SHOWN_PIXELS:
        return image_rgb
    scale = (MAX_SHOWN_PIXELS / (height * width)) ** 0.5
    size_wh = (max(1, int(width * scale)), max(1, int(height * scale)))
    width_text, height_text = (words.number(side, 0) for side in size_wh)
    st.html(note(words('scaled', width=width_text, height=height_text)))
    return np.asarray(cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
