# SPDX-License-Identifier: Apache-2.0
"""Masks as what goes over the wire."""

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, Field

from segmentation_node import topics
from segmentation_node.images.files import ImageRgb, encode_png
from segmentation_node.images.rendering import LabelImage, Rendered
from segmentation_node.labels import LabelScheme
from segmentation_node.web.batching import Segmented

OutputName: TypeAlias = Literal['label', 'color', 'overlay', 'confidence']

#: The pictures that can be asked for, with the name that the node publishes each under.
PICTURES: Final[Mapping[OutputName, str]] = MappingProxyType(
    {
        'label': topics.LABEL_MASK,
        'color': topics.COLOR_MASK,
        'overlay': topics.OVERLAY,
        'confidence': topics.CONFIDENCE,
    }
)


class LegendEntry(BaseModel):
    """One class of a label scheme."""

    id: int = Field(description='value in the label mask', examples=[7])
    name: str = Field(examples=['vehicle'])
    color: tuple[int, int, int] = Field(description='red, green, blue', examples=[(0, 0, 142)])
    category: str = Field(examples=['vehicle'])
    void: bool = Field(description='whether it stands for "none of the others"')


class ClassShare(LegendEntry):
    """One class, and how much of the image it is."""

    share: float = Field(description='of the pixels, 0 to 1', ge=0, le=1, examples=[0.125])


class Timings(BaseModel):
    """Times of the stages, in milliseconds, to a tenth."""

    decode_ms: float = Field(description='from the file to pixels')
    wait_ms: float = Field(description='for the model to be loaded, and for its turn')
    segment_ms: float = Field(description='the network, for the whole batch')
    encode_ms: float = Field(description='from masks to PNG files')


class ModelAnswer(BaseModel):
    """What one model makes of an image."""

    model: str = Field(examples=['deeplabv3plus'])
    label_scheme: str = Field(examples=['cityscapes8'])
    outputs: dict[OutputName, str] = Field(
        description='PNG files in base64: class ids; their colours; these over the image; how '
        'sure the model is of every pixel, 255 is certain'
    )
    classes: list[ClassShare] = Field(description='the legend, in the order of the scheme')
    confidence: float = Field(description='mean over the pixels, 0 to 1', ge=0, le=1)
    batch: int = Field(description='images that went through the network together', ge=1)
    timings: Timings


class Prediction(BaseModel):
    """What was made of one image."""

    width: int = Field(description='of the image as it is seen, upright', ge=1)
    height: int = Field(ge=1)
    format: Literal['jpeg', 'png', 'tiff', 'webp'] = Field(description='as found in the data')
    results: list[ModelAnswer] = Field(description='one for each model asked for, in that order')


class Predictions(BaseModel):
    """What was made of several images, in their order."""

    predictions: list[Prediction]


@dataclass(frozen=True)
class Wish:
    """What a request asks for."""

    models: tuple[str, ...]
    outputs: tuple[OutputName, ...]
    overlay_alpha: float


def legend(scheme: LabelScheme) -> list[LegendEntry]:
    """All classes of a scheme."""
    return [
        LegendEntry(id=c.id, name=c.name, color=c.color, category=c.category, void=c.void)
        for c in scheme.classes
    ]


def class_shares(labels: LabelImage, scheme: LabelScheme) -> list[ClassShare]:
    """All classes of a scheme with their share of the pixels, (H, W) uint8."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return [
        ClassShare(**entry.model_dump(), share=float(counts[entry.id] / labels.size))
        for entry in legend(scheme)
    ]


def pictures(
    image_rgb: ImageRgb, found: Segmented, outputs: Sequence[OutputName], overlay_alpha: float
) -> dict[OutputName, bytes]:
    """PNG files of what is asked for, and of no more."""
    rendered = Rendered(image_rgb, found.labels, found.measure, found.scheme, overlay_alpha)
    return {name: encode_png(getattr(rendered, PICTURES[name])) for name in outputs}


def model_answer(
    model: str, image_rgb: ImageRgb, found: Segmented, wish: Wish, decode_ms: float
) -> ModelAnswer:
    """What goes over the wire of one model's masks of one image."""
    started_s = time.perf_counter()
    files = pictures(image_rgb, found, wish.outputs, wish.overlay_alpha)
    encode_ms = (time.perf_counter() - started_s) * 1e3
    return ModelAnswer(
        model=model,
        label_scheme=found.scheme.name,
        outputs={name: base64.b64encode(data).decode() for name, data in files.items()},
        classes=class_shares(found.labels, found.scheme),
        confidence=float(found.measure().mean() / 255),
        batch=found.batch,
        timings=Timings(
            decode_ms=round(decode_ms, 1),
            wait_ms=round(found.wait_ms, 1),
            segment_ms=round(found.segment_ms, 1),
            encode_ms=round(encode_ms, 1),
        ),
    )
