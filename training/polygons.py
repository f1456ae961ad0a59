# SPDX-License-Identifier: Apache-2.0
"""Label masks drawn from polygons: Cityscapes' gtFine_polygons.json and labelme's JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import (
    DatasetError,
    ForeignError,
    ImageError,
    one_line,
    quoted,
    suggestion,
)
from segmentation_node.images.files import check_size
from segmentation_node.labels import LabelScheme
from segmentation_node.untrusted import read_json

#: Suffix of polygon files.
SUFFIX: Final = '.json'
#: Size limit of a polygon file; labelme stores a copy of the image in it.
MAX_BYTES: Final = 2**24
#: Largest coordinate, in pixels; polygons may extend beyond their image.
MAX_COORDINATE: Final = 2**16
#: Labels of Cityscapes that are never drawn: their id is negative.
NOT_DRAWN: Final = ('license plate',)
#: End of the labels of several objects that were outlined together, such as "cargroup".
GROUP: Final = 'group'

ModelT = TypeVar('ModelT', bound=BaseModel)


@dataclass(frozen=True)
class Polygon:
    """Outline of an object, (x, y) in pixels, with the name of its class."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Annotation:
    """Polygons of an image in the order in which they are drawn."""

    size_hw: tuple[int, int]
    polygons: tuple[Polygon, ...]


class _Strict(BaseModel):
    """Part of a polygon file; other fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


_Side = Annotated[int, Field(gt=0)]
_Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
_Point = Annotated[list[_Coordinate], Field(min_length=2, max_length=2)]


class _CityscapesObject(_Strict):
    label: str
    polygon: list[_Point]
    deleted: bool | int = False


class _CityscapesFile(_Strict):
    height: _Side = Field(alias='imgHeight')
    width: _Side = Field(alias='imgWidth')
    objects: list[_CityscapesObject]

    def annotation(self) -> Annotation:
        kept = (Polygon(o.label, _points(o.polygon)) for o in self.objects if not o.deleted)
        return Annotation((self.height, self.width), tuple(kept))


class _LabelmeShape(_Strict):
    label: str
    points: list[_Point]
    shape_type: Literal['polygon', 'rectangle'] | None = None

    def polygon(self) -> Polygon:
        """Return the outline; a rectangle is stored as two opposite corners."""
        points = _points(self.points)
        if self.shape_type == 'rectangle' and len(points) == 2:
            (left, top), (right, bottom) = points
            points = ((left, top), (right, top), (right, bottom), (left, bottom))
        return Polygon(self.label, points)


class _LabelmeFile(_Strict):
    height: _Side = Field(alias='imageHeight')
    width: _Side = Field(alias='imageWidth')
    shapes: list[_LabelmeShape]

    def annotation(self) -> Annotation:
        return Annotation((self.height, self.width), tuple(s.polygon() for s in self.shapes))


#: Formats by the field that only they have.
_FORMATS: Final[dict[str, type[_CityscapesFile] | type[_LabelmeFile]]] = {
    'objects': _CityscapesFile,
    'shapes': _LabelmeFile,
}


def draw_labels(path: Path, scheme: LabelScheme) -> UInt8Array:
    """Draw the polygons of a file by the classes of a scheme, (H, W) uint8 ids.

    A polygon covers those before it in the file, as in Cityscapes' own scripts (Cordts et al.,
    "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016); pixels without
    a polygon are void. Each label is the name of a class. Cityscapes' labels of several objects,
    such as "cargroup", are those of their class, and license plates are not drawn.

    Raises:
        DatasetError: as `read_annotation`; or the scheme lacks a label.
    """
    return draw(read_annotation(path), scheme, path)


def draw(annotation: Annotation, scheme: LabelScheme, path: Path) -> UInt8Array:
    """Draw an annotation that was read from `path`; see `draw_labels`."""
    ids = {c.name: c.id for c in scheme.classes}
    height, width = annotation.size_hw
    mask = Image.new('L', (width, height), scheme.void_id)
    drawer = ImageDraw.Draw(mask)
    for polygon in annotation.polygons:
        name = _class_name(polygon.label, ids)
        if name not in ids and name in NOT_DRAWN:
            continue
        if name not in ids:
            raise DatasetError(
                f'{path} has label {quoted(polygon.label)}, which label scheme {scheme.name} '
                f'lacks; '
                + suggestion(name, ids, 'correct the label, or add a class of this name')
            )
        drawer.polygon(polygon.points, fill=ids[name])
    return np.array(mask)


def _class_name(label: str, ids: dict[str, int]) -> str:
    """Return the name of the class that a label, of one or of several objects, belongs to."""
    return label if label in ids else label.removesuffix(GROUP)


def read_annotation(path: Path) -> Annotation:
    """Read a polygon file of Cityscapes or labelme, recognized by its fields.

    Deleted objects are left out.

    Raises:
        DatasetError: the file cannot be read, is in neither format, is too large, or has an
            invalid value or a polygon of fewer than two points.
    """
    try:
        content = read_json(path, max_bytes=MAX_BYTES)
    except ForeignError as error:
        raise DatasetError(f'{error}; {_REMEDY}') from error
    for key, kind in _FORMATS.items():
        if isinstance(content, dict) and key in content:
            return _checked(_validated(kind, content, path).annotation(), path)
    raise DatasetError(
        f'{path} has neither "objects", as gtFine_polygons.json of Cityscapes, nor "shapes", as '
        f'files of labelme; {_REMEDY}'
    )


_REMEDY: Final = 'replace it, or remove it with its image'


def _checked(annotation: Annotation, path: Path) -> Annotation:
    height, width = annotation.size_hw
    try:
        check_size(width, height)
    except ImageError as error:
        raise DatasetError(f'{path} belongs to {error}') from error
    for index, polygon in enumerate(annotation.polygons):
        if len(polygon.points) < 2:
            raise DatasetError(
                f'{path}: polygon {index}, {quoted(polygon.label)}, has {len(polygon.points)} '
                f'points; expected at least 2: complete or delete it'
            )
    return annotation


def _validated(kind: type[ModelT], content: Any, path: Path) -> ModelT:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = '.'.join(str(part) for part in first['loc'])
        raise DatasetError(
            f'{path}: {place} is {quoted(first["input"])}: {one_line(ValueError(first["msg"]))}; '
            f'correct it with the tool that made the file'
        ) from None


def _points(points: list[list[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points)
