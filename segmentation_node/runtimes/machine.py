# SPDX-License-Identifier: Apache-2.0
"""Description of the machine: everything that benchmark figures depend on, nothing personal."""

import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Final

CPU_INFO: Final = Path('/proc/cpuinfo')
#: One folder per NVIDIA GPU.
GPUS: Final = Path('/proc/driver/nvidia/gpus')
OS_RELEASE: Final = Path('/etc/os-release')
#: CPU flags that decide which arithmetic is fast.
RELEVANT_FLAGS: Final = (
    'amx_tile', 'amx_bf16', 'amx_int8', 'amx_fp16', 'avx512_bf16', 'avx512_fp16', 'avx512_vnni',
    'avx512f', 'avx_vnni', 'avx2', 'asimd', 'sve', 'bf16', 'i8mm',
)  # fmt: skip
#: CPU flags by the name of their instruction set, newest first; newer sets include older ones.
_EXTENSIONS: Final = MappingProxyType(
    {
        'AMX': 'amx_tile',
        'AVX-512 with VNNI and BF16': 'avx512_bf16',
        'AVX-512 with VNNI': 'avx512_vnni',
        'AVX-512': 'avx512f',
        'AVX2 with VNNI': 'avx_vnni',
        'AVX2': 'avx2',
    }
)
#: Limits the instruction sets that oneDNN uses; oneDNN runs the networks of OpenVINO and torch.
_ISA_LIMIT: Final = 'ONEDNN_MAX_CPU_ISA'
LIBRARIES: Final = (
    'segmentation_node', 'torch', 'openvino', 'onnxruntime', 'onnxruntime-gpu', 'transformers',
    'segmentation-models-pytorch', 'numpy', 'opencv-python-headless', 'ros-rclpy', 'ros-fastrtps',
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Processor, memory, operating system and library versions; `gpus` names NVIDIA GPUs only."""

    cpu: str
    cores: int
    cpu_flags: list[str]
    memory_gb: float
    gpus: list[str]
    system: str
    python: str
    libraries: dict[str, str]
    #: OMP_NUM_THREADS if set: the number of cores that torch may use.
    threads: str
    #: ONEDNN_MAX_CPU_ISA if set: the instruction sets that networks may use.
    isa_limit: str = ''

    def line(self) -> str:
        """Return the description as one line of text."""
        extensions = [name for name, flag in _EXTENSIONS.items() if flag in self.cpu_flags]
        parts = [
            f'{self.cores} cores of {self.cpu}' + (f' ({extensions[0]})' if extensions else ''),
            f'{self.memory_gb:.0f} GB',
            *self.gpus,
            self.system,
            f'Python {self.python}',
            *(f'{name} {self.libraries[name]}' for name in ('torch', 'openvino', 'onnxruntime')
              if name in self.libraries),
        ]  # fmt: skip
        if self.threads:
            parts.append(f'OMP_NUM_THREADS={self.threads}')
        if self.isa_limit:
            parts.append(f'{_ISA_LIMIT}={self.isa_limit}')
        return '; '.join(parts)


def describe() -> Machine:
    """Describe this machine."""
    text = CPU_INFO.read_text() if CPU_INFO.exists() else ''
    return Machine(
        cpu=' '.join(_cpu_value(text, 'model name').split()) or platform.machine(),
        cores=_cores(),
        cpu_flags=_cpu_flags(text),
        memory_gb=round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1),
        gpus=_gpus(),
        system=_system(),
        python=platform.python_version(),
        libraries=_versions(),
        threads=os.environ.get('OMP_NUM_THREADS', ''),
        isa_limit=os.environ.get(_ISA_LIMIT, ''),
    )


@cache
def cpu_identity() -> dict[str, object]:
    """Return all properties of the CPU that decide which arithmetic is fast.

    Virtual machines report the same model name for different CPUs; the instruction sets tell them
    apart.
    """
    text = CPU_INFO.read_text() if CPU_INFO.exists() else ''
    return {
        'cpu': _cpu_value(text, 'model name') or platform.machine(),
        'flags': _cpu_flags(text),
        'cores': _cores(),
        'limit': os.environ.get(_ISA_LIMIT, ''),
    }


def multiplies_bf16_matrices() -> bool:
    """Return whether the CPU has bf16 matrix units (AMX); on other CPUs bf16 saves no time.

    With the bf16 instructions of AVX-512 alone, networks are slower than in fp32.
    """
    identity = cpu_identity()
    flags: object = identity['flags']
    limited = str(identity['limit']).upper() not in ('', 'ALL', 'DEFAULT')
    return isinstance(flags, list) and 'amx_bf16' in flags and not limited


def _cpu_flags(text: str) -> list[str]:
    flags = set(_cpu_value(text, '(?:flags|Features)').split())
    return [flag for flag in RELEVANT_FLAGS if flag in flags]


def _cpu_value(text: str, name: str) -> str:
    # Only Linux has the file, and not every processor reports every line.
    match = re.search(rf'^{name}\s*: (.+)$', text, re.MULTILINE)
    return match[1] if match else ''


def _cores() -> int:
    """Return the number of cores this process may use; containers and taskset limit it."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> list[str]:
    # Read from the Linux driver, because asking torch would take seconds.
    texts = [path.read_text() for path in sorted(GPUS.glob('*/information'))]
    names = [re.search(r'^Model:\s*(.+)$', text, re.MULTILINE) for text in texts]
    return [name[1].strip() for name in names if name]


def _system() -> str:
    text = OS_RELEASE.read_text() if OS_RELEASE.exists() else ''
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
    return match[1] if match else platform.system()


def _versions() -> dict[str, str]:
    # A single query for all of them. Missing ones are optional or part of a ROS installation.
    installed = {d.metadata['Name'].lower().replace('_', '-'): d for d in metadata.distributions()}
    names = {name: name.replace('_', '-') for name in LIBRARIES}
    return {name: installed[key].version for name, key in names.items() if key in installed}
