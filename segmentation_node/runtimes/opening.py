# SPDX-License-Identifier: Apache-2.0
"""Selection of the runtime for a checkpoint."""

import ctypes
import logging
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.errors import SettingError
from segmentation_node.paths import with_extra
from segmentation_node.runtimes.choices import PRECISIONS
from segmentation_node.runtimes.graph_files import exported_info
from segmentation_node.runtimes.measured_runtime import MeasuredRuntime
from segmentation_node.runtimes.runtime import Candidate, Runtime

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """Module and class of a runtime; the module is imported when a runtime is first opened.

    `library` is the package that it requires, `install` the argument of pip that installs it.
    """

    module: str
    class_name: str
    library: str
    install: str


_TORCH_EXTRA: Final = with_extra('torch')
KINDS: Final = MappingProxyType(
    {
        'torch': Kind('torch_runtime', 'TorchRuntime', 'torch', _TORCH_EXTRA),
        'torch_compiled': Kind('torch_runtime', 'CompiledTorchRuntime', 'torch', _TORCH_EXTRA),
        'openvino': Kind('openvino_runtime', 'OpenVinoRuntime', 'openvino', 'openvino'),
        'onnxruntime': Kind('onnx_runtime', 'OnnxRuntime', 'onnxruntime', 'onnxruntime'),
        'tensorrt': Kind('onnx_runtime', 'TensorRtRuntime', 'onnxruntime', 'onnxruntime-gpu'),
    }
)
RUNTIMES: Final = ('auto', *KINDS)
TORCH_RUNTIMES: Final = tuple(name for name, kind in KINDS.items() if kind.library == 'torch')


def open_runtime(
    name: str,
    checkpoint: Checkpoint,
    *,
    device: str,
    precision: str,
    input_size: tuple[int, int] | None,
    measure_aside: bool,
    threads: int = 0,
) -> Runtime:
    """Open a runtime for a checkpoint; of several candidates, the fastest by measurement.

    `threads` limits the threads of runtimes other than torch, unless it is 0.

    Raises:
        CheckpointError: the weights are damaged, or do not match the configuration.
        SettingError: the runtime, device or precision is not available on this machine.
    """
    if name not in RUNTIMES:
        raise SettingError(f'unknown runtime {name!r}; use one of {", ".join(RUNTIMES)}')
    if precision not in PRECISIONS:
        raise SettingError(f'unknown precision {precision!r}; use one of {", ".join(PRECISIONS)}')
    choices = [
        each if each.runtime in TORCH_RUNTIMES else replace(each, threads=threads)
        for each in candidates(name, checkpoint, device, precision)
    ]
    opened = partial(open_candidate, checkpoint=checkpoint, device=device, input_size=input_size)
    if len(choices) == 1:
        return opened(choices[0])
    return MeasuredRuntime(choices, opened, checkpoint, input_size, aside=measure_aside)


def candidates(name: str, checkpoint: Checkpoint, device: str, precision: str) -> list[Candidate]:
    """Return the ways to run a checkpoint that are worth measuring, likely fastest first."""
    if name == 'auto' and not _is_for_cpu(device, precision):
        return [Candidate('torch', precision)]
    if name not in ('auto', 'openvino') or not _is_installed('openvino'):
        return [Candidate('torch' if name == 'auto' else name, precision)]
    if precision != 'auto':
        return [Candidate('openvino', precision)]
    from segmentation_node.runtimes.openvino_runtime import worthwhile_precisions

    options = [Candidate('openvino', each) for each in worthwhile_precisions(checkpoint)]
    # Only if it was exported: it was slower wherever it was measured, and needs a conversion.
    onnx = name == 'auto' and exported_info(checkpoint, 'onnx', 'float') is not None
    if onnx and _is_installed('onnxruntime'):
        options.append(Candidate('onnxruntime', 'fp32'))
    return options


def _is_for_cpu(device: str, precision: str) -> bool:
    if precision == 'int8' or device == 'cpu':
        return True
    if device != 'auto' or not _may_have_cuda():
        return device == 'auto'
    if _is_installed('torch'):
        return False
    _log.warning(
        'an NVIDIA driver was found, but PyTorch, which the GPU requires, is not installed; '
        'running on the CPU (pip install %s)', _TORCH_EXTRA,
    )  # fmt: skip
    return True


def open_candidate(
    candidate: Candidate,
    *,
    checkpoint: Checkpoint,
    device: str,
    input_size: tuple[int, int] | None,
) -> Runtime:
    """Open one candidate; raises as `open_runtime`."""
    kind = KINDS[candidate.runtime]
    if not _is_installed(candidate.runtime):
        raise SettingError(
            f'runtime {candidate.runtime!r} requires the package {kind.library}, which is not '
            f'installed; install it (pip install {kind.install}) or use another runtime'
        )
    module = import_module(f'segmentation_node.runtimes.{kind.module}')
    options = {'threads': candidate.threads} if candidate.threads else {}
    opened: Runtime = getattr(module, kind.class_name)(
        checkpoint, device, candidate.precision, input_size, **options
    )
    return opened


def _is_installed(name: str) -> bool:
    return find_spec(KINDS[name].library) is not None


def _may_have_cuda() -> bool:
    """Return whether an NVIDIA driver is installed, without torch, which takes seconds to load."""
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError:
        return False
    return True
