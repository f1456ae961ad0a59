# SPDX-License-Identifier: Apache-2.0
"""Pictures of the runs as data URIs, with text alternatives."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError
from segmentation_node.images.files import decode_file, encode_jpeg, encode_png
from segmentation_node.labels import LabelScheme
from training.report.records import Record

#: Maximum width of pictures; larger ones are scaled down.
PICTURE_WIDTH: Final = 480
GRID_WIDTH: Final = 1000
#: Maximum number of validation images on the page.
MAX_EXAMPLES: Final = 8
GRID: Final = re.compile(r'grid/epoch_\d+\.png')
KINDS: Final = ('image', 'truth', 'prediction')


@dataclass(frozen=True)
class EmbeddedPicture:
    """Picture embedded in the page."""

    uri: str
    alt: str
    width: int
    height: int


@dataclass
class Example:
    """One validation image, its truth, and its predictions by index of the run."""

    name: str
    image: EmbeddedPicture
    truth: EmbeddedPicture
    predictions: dict[int, EmbeddedPicture] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Validation images with predictions side by side, and sentences about missing ones."""

    examples: tuple[Example, ...]
    missing: tuple[str, ...]


def photograph(image_rgb: UInt8Array, alt: str, width: int = PICTURE_WIDTH) -> EmbeddedPicture:
    """Encode a camera image, scaled down to at most `width`."""
    small = _scaled(image_rgb, width, cv2.INTER_AREA)
    return embedded('jpeg', encode_jpeg(small, 82), alt, (small.shape[1], small.shape[0]))


def label_picture(color_rgb: UInt8Array, alt: str, width: int = PICTURE_WIDTH) -> EmbeddedPicture:
    """Encode labels in color, scaled down to at most `width` without mixing colors."""
    small = _scaled(color_rgb, width, cv2.INTER_NEAREST_EXACT)
    return embedded('png', encode_png(small), alt, (small.shape[1], small.shape[0]))


def embedded(codec: str, data: bytes, alt: str, size_wh: tuple[int, int]) -> EmbeddedPicture:
    """Embed an encoded image of a size in pixels."""
    uri = f'data:image/{codec};base64,{base64.b64encode(data).decode("ascii")}'
    return EmbeddedPicture(uri, alt, *size_wh)


def _scaled(image: UInt8Array, width: int, interpolation: int) -> UInt8Array:
    if image.shape[1] <= width:
        return np.ascontiguousarray(image)
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)


def gallery(records: Sequence[Record]) -> Gallery:
    """Collect the validation images of the runs, those shared by most runs first.

    Predictions are side by side only if image and truth are identical in every pixel.
    """
    by_image: dict[tuple[str, str], Example] = {}
    missing = []
    for index, record in enumerate(records):
        names = _example_names(record)
        if not names:
            missing.append(f'{record.title} has no example pictures among its files.')
        for name in names:
            pictures = _read_example(record, name)
            if isinstance(pictures, str):
                missing.append(pictures)
                continue
            image, truth, prediction = pictures
            key = (name, _digest(image, truth))
            if key not in by_image:
                by_image[key] = Example(
                    name,
                    photograph(image, f'Validation image {name}.'),
                    label_picture(truth, _truth_alt(name, truth, record.scheme)),
                )
            alt = _prediction_alt(record, name, truth, prediction)
            by_image[key].predictions[index] = label_picture(prediction, alt)
    examples = sorted(by_image.values(), key=lambda example: -len(example.predictions))
    if len(examples) > MAX_EXAMPLES:
        missing.append(f'{len(examples) - MAX_EXAMPLES} more examples are in MLflow only.')
    return Gallery(tuple(examples[:MAX_EXAMPLES]), tuple(missing))


def _example_names(record: Record) -> list[str]:
    ending = f'_{KINDS[-1]}.png'
    paths = record.artifacts.names('examples')
    return [
        path.removeprefix('examples/').removesuffix(ending)
        for path in paths
        if path.endswith(ending)
    ]


def _read_example(record: Record, name: str) -> tuple[UInt8Array, UInt8Array, UInt8Array] | str:
    read = []
    for kind in KINDS:
        path = f'examples/{name}_{kind}.png'
        picture = _decoded(record, path)
        if picture is None:
            return f'{record.title} has no readable {path}; its example {name} is omitted.'
        read.append(picture)
    image, truth, prediction = read
    if not image.shape == truth.shape == prediction.shape:
        return f'{record.title} has pictures of different sizes for {name}; they are omitted.'
    return image, truth, prediction


def _decoded(record: Record, path: str) -> UInt8Array | None:
    data = record.artifacts.read(path)
    try:
        return None if data is None else decode_file(data)
    except ImageError:
        return None


def _digest(*images: UInt8Array) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(str(image.shape).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def class_shares(color_rgb: UInt8Array, scheme: LabelScheme) -> Mapping[str, float]:
    """Return the share of each class in a picture in the scheme's colors, largest first.

    The result is empty if the picture has any other color. Black counts as void, because pixels
    without annotation are also black.
    """
    codes, counts = np.unique(_codes(color_rgb), return_counts=True)
    name_of = _names_by_code(scheme)
    if not set(codes.tolist()) <= set(name_of):
        return {}
    shares: dict[str, float] = {}
    for code, pixels in zip(codes.tolist(), counts.tolist(), strict=True):
        shares[name_of[code]] = shares.get(name_of[code], 0) + pixels / counts.sum()
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _codes(color_rgb: UInt8Array) -> npt.NDArray[np.int32]:
    """Convert (H, W, 3) colors to one number per pixel, (H, W)."""
    return color_rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _names_by_code(scheme: LabelScheme) -> dict[int, str]:
    void = next(c.name for c in scheme.classes if c.void)
    return {0: void} | {
        (c.color[0] << 16) + (c.color[1] << 8) + c.color[2]: c.name for c in scheme.classes
    }


def _truth_alt(name: str, truth: UInt8Array, scheme: LabelScheme | None) -> str:
    shares = class_shares(truth, scheme) if scheme is not None else {}
    content = ', '.join(f'{100 * share:.0f} % {name}' for name, share in shares.items())
    return f'Truth of {name}: {content}.' if content else f'Truth of {name}, one color per class.'


def _prediction_alt(record: Record, name: str, truth: UInt8Array, prediction: UInt8Array) -> str:
    true, predicted = _codes(truth), _codes(prediction)
    counted = true != 0
    if not counted.any():
        return f'Prediction of {record.title} for {name}; all of its truth is void.'
    correct = (true == predicted)[counted].mean()
    text = (
        f'Prediction of {record.title} for {name}: {100 * correct:.1f} % of the pixels are correct'
    )
    wrong = counted & (true != predicted)
    if record.scheme is None or not wrong.any():
        return f'{text}.'
    pairs, counts = np.unique(
        np.stack([true[wrong], predicted[wrong]]), axis=1, return_counts=True
    )
    names = _names_by_code(record.scheme)
    true_code, predicted_code = pairs[:, counts.argmax()].tolist()
    return (
        f'{text}; the most frequent error is {names.get(true_code, "another class")} classified '
        f'as {names.get(predicted_code, "another class")}, '
        f'{100 * counts.max() / counted.sum():.1f} %.'
    )


@dataclass(frozen=True)
class Progress:
    """First and last grid of validation images of a run."""

    record: Record
    grids: tuple[tuple[str, EmbeddedPicture], ...]


def progress(records: Sequence[Record]) -> tuple[list[Progress], list[str]]:
    """Return the progress of the predictions of each run, and sentences about missing grids."""
    available, missing = [], []
    for record in records:
        grids = tuple(_grids(record))
        if grids:
            available.append(Progress(record, grids))
        else:
            missing.append(f'{record.title} has no grid of validation images among its files.')
    return available, missing


def _grids(record: Record) -> Iterator[tuple[str, EmbeddedPicture]]:
    paths = [path for path in record.artifacts.names('grid') if GRID.fullmatch(path)]
    for path in dict.fromkeys(paths[:1] + paths[-1:]):
        grid = _decoded(record, path)
        if grid is not None:
            title = f'epoch {int(path[len("grid/epoch_") : -len(".png")])}'
            alt = (
                f'Validation images after {title} of {record.title}: the rows are image, truth '
                f'and prediction.'
            )
            yield title, photograph(grid, alt, GRID_WIDTH)
