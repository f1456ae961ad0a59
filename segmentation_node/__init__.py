# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation of camera streams, with ROS 2 and without."""

from importlib import import_module

TYPE_CHECKING = False  # not from typing, whose import delays the signal handlers of commands
if TYPE_CHECKING:
    from segmentation_node.images.files import read_image
    from segmentation_node.labels import load_scheme
    from segmentation_node.segmenter import Segmenter

__version__ = '0.1.0'
__all__ = ['Segmenter', 'load_scheme', 'read_image']

_MODULES = {'Segmenter': 'segmenter', 'load_scheme': 'labels', 'read_image': 'images.files'}


def __getattr__(name: str) -> object:
    """Import what is asked for; the commands import this package and need little of it."""
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
