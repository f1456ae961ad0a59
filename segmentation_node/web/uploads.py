# SPDX-License-Identifier: Apache-2.0
"""Validation and decoding of uploaded images; file names and declared types are ignored."""

from dataclasses import dataclass

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.files import check_size, codec_name, decode_file, image_size, is_heic
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.service_settings import ServiceSettings


@dataclass(frozen=True)
class Upload:
    """Image file with a valid header; `format` is 'jpeg', 'png', 'tiff' or 'webp'."""

    data: bytes
    format: str
    pixels: int

    @classmethod
    def inspect(cls, data: bytes, settings: ServiceSettings) -> 'Upload':
        """Read and check the header.

        Raises:
            ProblemError: the format is not supported, or the image is too large or damaged.
        """
        if len(data) > settings.max_upload_bytes:
            raise ProblemError(
                'too-many-bytes',
                f'the image has {len(data)} bytes, expected at most {settings.max_upload_bytes}; '
                f'save it with a smaller size',
            )
        try:
            name = codec_name(data)
        except ImageError as error:
            kind = 'heic-format' if is_heic(data) else 'unsupported-format'
            raise ProblemError(kind, str(error)) from error
        try:
            width, height = image_size(data)
            if width * height > settings.max_pixels or max(width, height) > settings.max_side:
                raise ProblemError(
                    'too-many-pixels',
                    f'the image has {width} x {height} pixels, expected at most '
                    f'{settings.max_pixels} pixels, {settings.max_side} per side; scale it down',
                )
            check_size(width, height)
        except ImageError as error:
            raise ProblemError('damaged-image', str(error)) from error
        return cls(data, name, width * height)

    def decode(self, samples: Samples | None = None) -> UInt8Array:
        """Return the upright image, (H, W, 3) uint8 RGB; raises ProblemError."""
        try:
            return decode_file(self.data, upright=True, samples=samples)
        except ImageError as error:
            raise ProblemError('damaged-image', str(error)) from error
