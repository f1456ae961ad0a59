# SPDX-License-Identifier: Apache-2.0
"""Responses of the service: results as JSON, masks as PNG."""

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from pydantic import BaseModel, Field

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import encode_png
from segmentation_node.images.rendering import Rendered
from segmentation_node.instances import Instances
from segmentation_node.labels import LabelScheme
from segmentation_node.web.batching import SegmentedImage
from segmentation_node.web.problems import ProblemError

OutputName: TypeAlias = Literal['label', 'color', 'overlay', 'confidence', 'instance']

#: Outputs that can be requested, with the name under which the node publishes each.
NODE_OUTPUTS: Final[Mapping[OutputName, str]] = MappingProxyType(
    {
        'label': topics.LABEL_MASK,
        'color': topics.COLOR_MASK,
        'overlay': topics.OVERLAY,
        'confidence': topics.CONFIDENCE,
        'instance': topics.INSTANCE_MASK,
    }
)


class LegendEntry(BaseModel):
    """One class of a label scheme."""

    id: int = Field(description='value in the label mask', examples=[7])
    name: str = Field(examples=['vehicle'])
    color: tuple[int, int, int] = Field(description='red, green, blue', examples=[(0, 0, 142)])
    category: str = Field(examples=['vehicle'])
    void: bool = Field(description='true for pixels that belong to no other class')


class ClassShare(LegendEntry):
    """One class and its share of the image."""

    share: float = Field(description='share of the pixels, 0 to 1', ge=0, le=1, examples=[0.125])


class BoxEntry(BaseModel):
    """Smallest rectangle around the visible pixels of an instance, in pixels."""

    x: int = Field(ge=0)
    y: int = Field(ge=0)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class InstanceEntry(BaseModel):
    """One instance."""

    id: int = Field(description='value in the instance mask', ge=1)
    class_id: int = Field(description='value in the label mask', examples=[13])
    class_name: str = Field(examples=['car'])
    score: float = Field(ge=0, le=1)
    box: BoxEntry


class Timings(BaseModel):
    """Durations of the stages, in milliseconds."""

    decode_ms: float = Field(description='decoding the image file')
    wait_ms: float = Field(description='loading the model and waiting in the queue')
    segment_ms: float = Field(description='running the network, for the whole batch')
    encode_ms: float = Field(description='encoding the masks as PNG')


class ModelResult(BaseModel):
    """Result of one model for one image."""

    model: str = Field(examples=['deeplabv3plus'])
    label_scheme: str = Field(examples=['cityscapes8'])
    outputs: dict[OutputName, str] = Field(
        description='PNG files in base64. label: class ids; color: class colors; overlay: class '
        'colors over the image; confidence: confidence of each pixel, 255 is certain; instance: '
        '16 bits, instance of each pixel, 0 where there is none'
    )
    instances: list[InstanceEntry] | None = Field(
        description='instances by descending score; null unless the output instance is requested'
    )
    classes: list[ClassShare] = Field(description='all classes, in the order of the scheme')
    confidence: float = Field(description='mean confidence of all pixels, 0 to 1', ge=0, le=1)
    out_of_domain: bool | None = Field(
        description='true if the image is unlike those that the model knows, so that its labels '
        'may be wrong; null if the model cannot tell'
    )
    domain_distance: float | None = Field(
        description='distance from the images that the model knows; null if not available', ge=0
    )
    domain_threshold: float | None = Field(
        description='distance above which an image is out of domain; null if not available'
    )
    batch: int = Field(description='number of images in the same batch', ge=1)
    timings: Timings


class ImageResult(BaseModel):
    """Results of all requested models for one image."""

    width: int = Field(description='width of the upright image', ge=1)
    height: int = Field(description='height of the upright image', ge=1)
    format: Literal['jpeg', 'png', 'tiff', 'webp'] = Field(description='detected file format')
    results: list[ModelResult] = Field(description='one per model, in the order of the request')


class BatchResult(BaseModel):
    """Results for several images, in the order of the request."""

    predictions: list[ImageResult]


@dataclass(frozen=True)
class PredictOptions:
    """Options of a request for predictions."""

    models: tuple[str, ...]
    outputs: tuple[OutputName, ...]
    overlay_alpha: float


def legend(scheme: LabelScheme) -> list[LegendEntry]:
    """Return all classes of a scheme."""
    return [
        LegendEntry(id=c.id, name=c.name, color=c.color, category=c.category, void=c.void)
        for c in scheme.classes
    ]


def class_shares(labels: UInt8Array, scheme: LabelScheme) -> list[ClassShare]:
    """Return all classes of a scheme with their share of the labels, (H, W) uint8."""
    shares = scheme.class_shares(labels)
    return [
        ClassShare(**entry.model_dump(), share=share)
        for entry, share in zip(legend(scheme), shares, strict=True)
    ]


def render_outputs(
    image_rgb: UInt8Array, segmented: SegmentedImage, outputs: Sequence[OutputName], alpha: float
) -> dict[OutputName, bytes]:
    """Render the requested outputs as PNG files."""
    rendered = Rendered(
        image_rgb, segmented.labels, segmented.confidence, segmented.scheme, alpha,
        find_instances=lambda: _found_instances(segmented),
    )  # fmt: skip
    return {name: encode_png(getattr(rendered, NODE_OUTPUTS[name])) for name in outputs}


def _found_instances(segmented: SegmentedImage) -> Instances:
    """Return the instances of an image; raises ProblemError if the model has none."""
    found = segmented.find_instances()
    if found is None:
        raise ProblemError(
            'no-instances',
            'output instance requires a panoptic model or one of instances, which a requested '
            'model is not; choose another model, or other outputs',
        )
    return found


def _instances(segmented: SegmentedImage) -> list[InstanceEntry]:
    names = {c.id: c.name for c in segmented.scheme.classes}
    return [
        InstanceEntry(
            id=each.id, class_id=each.class_id, class_name=names[each.class_id],
            score=each.score, box=BoxEntry(**each.box._asdict()),
        )
        for each in _found_instances(segmented).segments
    ]  # fmt: skip


def model_result(
    model: str,
    image_rgb: UInt8Array,
    segmented: SegmentedImage,
    options: PredictOptions,
    decode_ms: float,
) -> ModelResult:
    """Render and encode the result of one model for one image."""
    started_s = time.perf_counter()
    files = render_outputs(image_rgb, segmented, options.outputs, options.overlay_alpha)
    encode_ms = (time.perf_counter() - started_s) * 1e3
    return ModelResult(
        model=model,
        label_scheme=segmented.scheme.name,
        outputs={name: base64.b64encode(data).decode() for name, data in files.items()},
        instances=_instances(segmented) if 'instance' in options.outputs else None,
        classes=class_shares(segmented.labels, segmented.scheme),
        confidence=float(segmented.confidence().mean() / 255),
        out_of_domain=segmented.out_of_domain,
        domain_distance=segmented.distance,
        domain_threshold=segmented.max_distance,
        batch=segmented.batch,
        timings=Timings(
            decode_ms=round(decode_ms, 1),
            wait_ms=round(segmented.wait_ms, 1),
            segment_ms=round(segmented.segment_ms, 1),
            encode_ms=round(encode_ms, 1),
        ),
    )
