# SPDX-License-Identifier: Apache-2.0
"""The common face of all runtimes, and how a name becomes one."""

import ctypes
from dataclasses import dataclass
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
            SettingError: the network cannot be had for images of this size.
        """
        ...

    def forward(self, images_rgb: npt.NDArray[np.uint8]) -> None:
        """Run the network on what `decide` takes, to its end, and let go of what it gives."""
        ...


@dataclass(frozen=True)
class Kind:
    """Where a runtime is found; its module is imported with the first network it runs.

    `library` is the package it needs.
    """

    module: str
    class_name: str
    library: str


KINDS: Final = MappingProxyType(
    {
        'torch': Kind('torch_runtime', 'TorchRuntime', 'torch'),
        'torch_compiled': Kind('torch_runtime', 'CompiledTorchRuntime', 'torch'),
        'openvino': Kind('openvino_runtime', 'OpenVinoRuntime', 'openvino'),
        'onnxruntime': Kind('onnx_runtime', 'OnnxRuntime', 'onnxruntime'),
        'tensorrt': Kind('onnx_runtime', 'TensorRtRuntime', 'onnxruntime'),
    }
)
RUNTIMES: Final = ('auto', *KINDS)


def open_runtime(
    name: str,
    checkpoint: Checkpoint,
    *,
    device: str,
    precision: str,
    input_size: tuple[int, int] | None,
) -> tuple[Runtime, str]:
    """A runtime that has loaded a checkpoint, and why it is this one, where it was chosen here.

    Raises:
        CheckpointError: damaged weights, or such as do not fit.
        SettingError: a runtime, device or precision that is not to be had here.
    """
    if name not in RUNTIMES:
        raise SettingError(f'unknown runtime {name!r}; there are {", ".join(RUNTIMES)}')
    if precision not in PRECISIONS:
        raise SettingError(f'unknown precision {precision!r}; there are {", ".join(PRECISIONS)}')
    if name != 'auto':
        return _opened(name, checkpoint, device, precision, input_size), ''
    if precision == 'int8':
        return _opened('openvino', checkpoint, device, precision, input_size), 'it runs int8'
    if device not in ('auto', 'cpu') or (device == 'auto' and _may_have_cuda()):
        why = 'it runs on GPUs, and starts at once'
    elif not _is_installed('openvino'):
        why = 'openvino, the fastest on a CPU, is not installed'
    else:
        try:
            runtime = _opened('openvino', checkpoint, device, precision, input_size)
        except SettingError as error:
            why = f'openvino was passed over: {error}'
        else:
            return runtime, 'the fastest on a CPU'
    return _opened('torch', checkpoint, device, precision, input_size), why


def _opened(
    name: str,
    checkpoint: Checkpoint,
    device: str,
    precision: str,
    input_size: tuple[int, int] | None,
) -> Runtime:
    kind = KINDS[name]
    if not _is_installed(name):
        raise SettingError(
            f'runtime {name!r} needs the package {kind.library}, which is not installed; install '
            f'it (pip install {kind.library}) or say another runtime'
        )
    module = import_module(f'segmentation_node.runtimes.{kind.module}')
    opened: Runtime = getattr(module, kind.class_name)(checkpoint, device, precision, input_size)
    return opened


def _is_installed(name: str) -> bool:
    return find_spec(KINDS[name].library) is not None


def _may_have_cuda() -> bool:
    """Whether there is a driver of NVIDIA's, asked without torch, which takes seconds to load."""
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError:
        return False
    return True
