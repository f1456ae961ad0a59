# SPDX-License-Identifier: Apache-2.0
"""The part of the view in which a picture is chosen."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
import streamlit as st

from segmentation_node.images.files import MAX_PIXELS, MAX_SIDE, ImageRgb
from segmentation_node.web.page.markup import figure, note
from segmentation_node.web.page.parts import choice
from segmentation_node.web.page.sample_pictures import STREETS, Sample, street
from segmentation_node.web.page.texts import Words
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.settings import PAGE_UPLOAD_MB, Settings
from segmentation_node.web.uploads import Upload

#: A larger picture is scaled down: it takes long, and the networks have learned from smaller ones.
MAX_SHOWN_PIXELS: Final = 2**21
SOURCES: Final = ('sample', 'upload')
#: What the page takes; the service gets the picture scaled down.
LIMITS: Final = Settings(
    {}, max_upload_bytes=PAGE_UPLOAD_MB * 2**20, max_pixels=MAX_PIXELS, max_side=MAX_SIDE
)

#: Streamlit's button has an English word on it.
_BUTTON: Final = """<style>
[data-testid="stFileUploaderDropzone"] button p {{display: none}}
[data-testid="stFileUploaderDropzone"] button [data-testid="stMarkdownContainer"]::after
  {{content: "{text}"}}
</style>"""


@dataclass(frozen=True)
class Picture:
    """A chosen picture.

    Attributes:
        image_rgb: (H, W, 3) uint8 RGB.
        sample: with the truth, where it is known.
    """

    image_rgb: ImageRgb
    sample: Sample | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of size and pixels: equal for the same picture only."""
        digest = hashlib.sha256(repr(self.image_rgb.shape).encode())
        digest.update(self.image_rgb.tobytes())
        return digest.hexdigest()


def choose_picture(words: Words) -> Picture | None:
    """Let a picture be chosen, and show it; None where there is none."""
    texts = [words(f'from_{source}') for source in SOURCES]
    source = choice(words, words('picture_from'), 'from', SOURCES, texts)
    if source == 'upload':
        picture = _uploaded(words)
    else:
        numbers = [str(n + 1) for n in range(len(STREETS))]
        texts = [words('sample_name', number=number) for number in numbers]
        chosen = choice(words, words('sample'), 'sample', numbers, texts)
        found = street(int(chosen) - 1)
        picture = Picture(found.image_rgb, found)
    if picture is not None:
        st.html(figure(picture.image_rgb, words('original_alt'), words('original')))
    return picture


def _uploaded(words: Words) -> Picture | None:
    megabytes = words.number(PAGE_UPLOAD_MB, 0)
    file = st.file_uploader(words('upload', megabytes=megabytes), key='upload')
    if words.language != 'en':
        st.html(_BUTTON.format(text=words('upload_button')))
    # Streamlit refuses larger files in the browser, and says so in English and in a tooltip only.
    too_large = words('upload_too_large', megabytes=megabytes)
    st.html(f'<div class="sn-too-large" role="alert">{note(too_large)}</div>')
    if file is None:
        st.write(words('upload_wait'))
        return None
    try:
        image_rgb = Upload.inspect(file.getvalue(), LIMITS).decode()
    except ProblemError as problem:
        too_many = problem.kind == 'too-many-bytes'
        said = too_large if too_many else words.problem(problem.kind, problem.detail)
        st.html(f'<div class="sn-unreadable" role="alert">{note(said)}</div>')
        return None
    return Picture(_scaled(words, image_rgb))


def _scaled(words: Words, image_rgb: ImageRgb) -> ImageRgb:
    height, width = image_rgb.shape[:2]
    if height * width <= MAX_SHOWN_PIXELS:
        return image_rgb
    scale = (MAX_SHOWN_PIXELS / (height * width)) ** 0.5
    size_wh = (max(1, int(width * scale)), max(1, int(height * scale)))
    said = [words.number(side, 0) for side in size_wh]
    st.html(note(words('scaled', width=said[0], height=said[1])))
    return np.asarray(cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
