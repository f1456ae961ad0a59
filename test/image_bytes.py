# SPDX-License-Identifier: Apache-2.0
"""Image files of kinds that the package reads and does not write."""

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array


def tiff() -> bytes:
    """A grey 2 x 1 TIFF, written out by hand."""
    entries = [(256, 2), (257, 1), (258, 8), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1),
               (279, 2)]  # fmt: skip
    tags = b''.join(tag.to_bytes(2, 'little') + b'\3\0\1\0\0\0' + value.to_bytes(4, 'little')
                    for tag, value in entries)  # fmt: skip
    return b'II*\0\x08\0\0\0' + len(entries).to_bytes(2, 'little') + tags + bytes(4) + b'\x07\xc8'


def webp(rgb: UInt8Array, quality: int = 101) -> bytes:
    """A WebP; a quality above 100 is without loss, another kind of file."""
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    _, data = cv2.imencode('.webp', bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return bytes(data)


def extended_webp(rgb: UInt8Array) -> bytes:
    """The same in the extended format, which says the size on its own."""
    chunk = webp(rgb)[12:]
    high, wide = (int(side) - 1 for side in rgb.shape[:2])
    canvas = bytes(4) + wide.to_bytes(3, 'little') + high.to_bytes(3, 'little')
    body = b'WEBPVP8X\x0a\0\0\0' + canvas + chunk
    return b'RIFF' + len(body).to_bytes(4, 'little') + body


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an Exif segment that says how to turn it."""
    tag = b'\x12\x01\3\0\1\0\0\0' + orientation.to_bytes(4, 'little')
    exif = b'Exif\0\0II*\0\x08\0\0\0\1\0' + tag + bytes(4)
    return jpeg[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + jpeg[2:]
