# SPDX-License-Identifier: Apache-2.0
"""Writing of frame sequences in the folder layout and file formats of Cityscapes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from segmentation_node.errors import DatasetError, SettingError
from segmentation_node.images import cityscapes
from segmentation_node.images.cityscapes import (
    INSTANCES,
    KINDS,
    LABELS,
    PICTURE,
    PICTURE_FOLDERS,
)
from training.scenes.camera import Camera
from training.scenes.render import RenderedFrame, Renderer
from training.scenes.street import Street

_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True)
class SequenceName:
    """Location and file names of a sequence below a root folder."""

    root: Path
    split: str
    city: str
    sequence: int
    sequence_layout: bool = False

    def __post_init__(self) -> None:
        for what, value in (('split', self.split), ('city', self.city)):
            if not value or not all(c.isalnum() or c == '-' for c in value):
                raise SettingError(
                    f'{what} {value!r} cannot be part of a Cityscapes file name, expected '
                    'letters, digits and "-" only; choose another name'
                )
        if not 0 <= self.sequence <= 999_999:
            raise SettingError(
                f'sequence {self.sequence} does not fit six digits; use 0 to 999999'
            )

    def path(self, kind: str, frame: int) -> Path:
        """Return the path of one file; kind is one of KINDS."""
        folder = cityscapes.folder(self.root, kind)
        if kind == PICTURE and self.sequence_layout:
            folder = self.root / PICTURE_FOLDERS[1]
        name = f'{self.city}_{self.sequence:06d}_{frame:06d}{cityscapes.ending(kind)}'
        return folder / self.split / self.city / name

    def existing(self) -> list[Path]:
        """Return the existing files of this sequence, in either layout, sorted."""
        layouts = [replace(self, sequence_layout=layout) for layout in (False, True)]
        folders = {name.path(kind, 0).parent for name in layouts for kind in KINDS}
        pattern = f'{self.city}_{self.sequence:06d}_*'
        return sorted(path for folder in folders for path in folder.glob(pattern))


def write_sequence(
    name: SequenceName,
    street: Street,
    renderer: Renderer,
    frames: int,
    rate_hz: float,
    overwrite: bool = False,
    progress: bool = True,
) -> Iterator[Path]:
    """Render frames of a street at rate_hz and write them; yield the path of each picture.

    With overwrite, an existing sequence of this name is replaced, whatever its length and layout.

    Raises:
        SettingError: frames or rate_hz is out of range.
        DatasetError: files of this sequence exist and overwrite is false.
    """
    if frames < 1 or frames > 1_000_000:
        raise SettingError(f'frames {frames} is out of range; use 1 to 1000000')
    if not 0 < rate_hz < float('inf'):
        raise SettingError(f'rate_hz {rate_hz} is out of range; use a finite number above 0')
    existing = name.existing()
    if existing and not overwrite:
        raise DatasetError(
            f'sequence {name.city}_{name.sequence:06d} exists already with {len(existing)} files, '
            f'the first is {existing[0]}; choose another --sequence, --city or output folder, or '
            'add --overwrite'
        )
    # Deletes all of them: frames beyond the new ones would show another street.
    for path in existing:
        path.unlink()
    for kind in KINDS:
        name.path(kind, 0).parent.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(frames), unit='frame', disable=not progress):
        stamp_ns = round(index * 1e9 / rate_hz)
        frame = renderer.render(street, stamp_ns * 1e-9)
        _write_frame(name, index, frame, stamp_ns, renderer)
        yield name.path(PICTURE, index)


def _write_frame(
    name: SequenceName, index: int, frame: RenderedFrame, stamp_ns: int, renderer: Renderer
) -> None:
    picture = cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2BGR)
    labels = frame.label_ids
    # Color pictures of Cityscapes have an alpha channel that is opaque everywhere.
    palette = cv2.cvtColor(renderer.scheme.palette[None], cv2.COLOR_RGB2BGRA)
    color = cv2.LUT(cv2.merge([labels, labels, labels, labels]), palette)
    _write_png(name.path(PICTURE, index), picture)
    _write_png(name.path(LABELS, index), labels)
    _write_png(name.path(INSTANCES, index), frame.instance_ids.astype(np.uint16))
    _write_png(name.path('gtFine_color', index), color)
    _write_json(name.path('gtFine_polygons', index), frame.polygons)
    _write_json(name.path('camera', index), camera_content(frame.camera))
    name.path('timestamp', index).write_text(f'{stamp_ns}\n', encoding='ascii')


def camera_content(camera: Camera) -> dict[str, dict[str, float]]:
    """Return the content of a Cityscapes camera file; baseline is 0: there is no second camera."""
    mount, k = camera.extrinsic, camera.intrinsic
    return {
        'extrinsic': {
            'baseline': 0.0,
            'pitch': mount.pitch,
            'roll': mount.roll,
            'x': mount.x,
            'y': mount.y,
            'yaw': mount.yaw,
            'z': mount.z,
        },
        'intrinsic': {'fx': k.fx, 'fy': k.fy, 'u0': k.u0, 'v0': k.v0},
    }


def _write_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    encoded, data = cv2.imencode('.png', pixels, _FAST_PNG)
    if not encoded:
        raise DatasetError(f'cannot encode {path} from {pixels.shape} {pixels.dtype}')
    path.write_bytes(data.tobytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + '\n', encoding='utf-8')
