# SPDX-License-Identifier: Apache-2.0
"""Pictures of README and manual as files."""

from pathlib import Path
from typing import Final

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import encode_jpeg

#: JPEG quality that keeps text and edges sharp at a file size suitable for a web page.
_QUALITY: Final = 85


def write_picture(path: Path, image_rgb: UInt8Array) -> None:
    """Write an (H, W, 3) uint8 RGB image as a JPEG, and print its size."""
    path.write_bytes(encode_jpeg(image_rgb, _QUALITY))
    print(f'{path}: {path.stat().st_size // 1000} kB')
