# SPDX-License-Identifier: Apache-2.0
"""Instance images of Cityscapes: class and number of the instance of each pixel in 16 bits.

A value from 1000 on is the id of a class times 1000, plus the number of the instance. A smaller
one is the id of a class: of a class that is not countable, or of a group of objects.
"""

from typing import Final

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.errors import ImageError
from segmentation_node.images.files import check_size, codec_name, decode_pixels, image_size
from segmentation_node.labels import LabelScheme

_PER_CLASS: Final = 1000


def decode_instances(data: bytes, scheme: LabelScheme) -> tuple[UInt8Array, UInt16Array]:
    """Decode an instance image.

    Returns:
        Ids of the scheme, (H, W) uint8, and the number of the instance of each pixel, (H, W)
        uint16, 0 for none. A number belongs to one instance, whatever its class.

    Raises:
        ImageError: the data is no PNG of one channel of 8 or 16 bits, the scheme lacks a class, or
            a class with instances is not countable.
    """
    if (codec := codec_name(data)) != 'png':
        raise ImageError(f'an instance image in {codec.upper()}; expected PNG of 16 bits')
    check_size(*image_size(data))
    values = decode_pixels(data, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f'an instance image of shape {values.shape}, {values.dtype}; expected one channel of '
            f'16 bits: choose the file that ends in instanceIds.png'
        )
    values = values.astype(np.uint16, copy=False)
    is_instance = values >= _PER_CLASS
    ids = np.where(is_instance, values // _PER_CLASS, values)
    if (largest := int(ids.max())) > 255:
        raise ImageError(
            f'an instance image with the value {largest}; expected the id of a class, 0 to 255, '
            f'or an id times {_PER_CLASS} plus the number of an instance'
        )
    labels = ids.astype(np.uint8)
    scheme.check_ids(labels)
    with_instances = np.unique(labels[is_instance])
    if len(uncounted := with_instances[~scheme.countable_of(with_instances)]):
        names = ', '.join(c.name for c in scheme.classes if c.id in uncounted)
        raise ImageError(
            f'an instance image with instances of {names}, which label scheme {scheme.name} does '
            f'not count; mark classes of objects with "countable: true"'
        )
    return labels, np.where(is_instance, values, 0).astype(np.uint16)
