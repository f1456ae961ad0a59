# SPDX-License-Identifier: Apache-2.0
"""The common face of all runtimes, and how a name becomes one."""

from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.choices import PRECISIONS
from segmentation_node.decision import Decision
from segmentation_node.errors import SettingError


class Runtime(Protocol):
    """Runs one checkpoint on one device; not for several threads at once.

    `device` and `precision` are what it runs on and in, never 'auto'.
    """

    name: str
    device: str
    precision: str

    def decide(self, images_rgb: npt.NDArray[np.uint8]) -> list[Decision]:
        """(B, H, W, 3) uint8 RGB, C-contiguous, to what each image shows.

        Raises:
            ImageError: an image that would be padded beyond all bounds.
        """
        ...


#: Module and class by name; a module is imported with the first network it runs.
_CLASSES: Final = MappingProxyType(
    {
        'torch': ('segmentation_node.runtimes.torch_runtime', 'TorchRuntime', 'torch'),
        'openvino': ('segmentation_node.runtimes.openvino_runtime', 'OpenVinoRuntime', 'openvino'),
    }
)
RUNTIMES: Final = ('auto', *_CLASSES)


def open_runtime(
    name: str,
    checkpoint: Checkpoint,
    *,
    device: str,
    precision: str,
    input_size: tuple[int, int] | None,
) -> Runtime:
    """A runtime that has loaded a checkpoint.

    Raises:
        CheckpointError: damaged weights, or such as do not fit.
        SettingError: a runtime, device or precision that is not to be had here.
    """
    if name not in RUNTIMES:
        raise SettingError(f'unknown runtime {name!r}; there are {", ".join(RUNTIMES)}')
    if precision not in PRECISIONS:
        raise SettingError(f'unknown precision {precision!r}; there are {", ".join(PRECISIONS)}')
    module, kind, library = _CLASSES['torch' if name == 'auto' else name]
    if find_spec(library) is None:
        raise SettingError(
            f'runtime {name!r} needs the package {library}, which is not installed; install it '
            f'(pip install {library}) or say another runtime'
        )
    opened: Runtime = getattr(import_module(module), kind)(
        checkpoint, device, precision, input_size
    )
    return opened
