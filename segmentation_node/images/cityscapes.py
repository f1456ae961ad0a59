# SPDX-License-Identifier: Apache-2.0
"""Folder layout of Cityscapes: ROOT/FOLDER/SPLIT/CITY/FRAME_KIND.SUFFIX."""

from pathlib import Path
from types import MappingProxyType
from typing import Final

#: Folder and suffix of each kind of file; file names end with the kind.
KINDS: Final = MappingProxyType(
    {
        'leftImg8bit': ('leftImg8bit', '.png'),
        'gtFine_labelIds': ('gtFine', '.png'),
        'gtFine_instanceIds': ('gtFine', '.png'),
        'gtFine_color': ('gtFine', '.png'),
        'gtFine_polygons': ('gtFine', '.json'),
        'camera': ('camera', '.json'),
        'timestamp': ('timestamp_sequence', '.txt'),
    }
)
#: Kinds of the pictures, of their labels, of labels with instances, and of the polygons that
#: labels are drawn from.
PICTURE: Final = 'leftImg8bit'
LABELS: Final = 'gtFine_labelIds'
INSTANCES: Final = 'gtFine_instanceIds'
POLYGONS: Final = 'gtFine_polygons'
#: Folders of pictures: single frames, and all frames of each sequence.
PICTURE_FOLDERS: Final = ('leftImg8bit', 'leftImg8bit_sequence')


def folder(root: Path, kind: str) -> Path:
    """Return the folder of a kind, which contains the splits."""
    return root / KINDS[kind][0]


def ending(kind: str) -> str:
    """Return the end of the file names of a kind."""
    return f'_{kind}{KINDS[kind][1]}'


def companion(root: Path, picture: Path, kind: str) -> Path:
    """Return the file of another kind for the frame of a picture; it may be missing."""
    name = picture.name.removesuffix(ending(PICTURE)) + ending(kind)
    return folder(root, kind) / picture.parts[-3] / picture.parts[-2] / name
