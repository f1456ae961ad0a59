# SPDX-License-Identifier: Apache-2.0
"""Graph files: a checkpoint's network as a runtime reads it, without PyTorch.

A graph takes normalized pixels, (1, 3, H, W) float32 with both sides multiples of DIVISOR, and
gives class scores, (1, C, H / s, W / s) float32. Height and width are dynamic: one file serves
images of every size.

`export_model` writes graph files into the folder `graphs/` of a checkpoint, each beside a YAML
file that names the weights it was made of and says how good its labels are. Where a checkpoint
has none, its network is converted when it is first run, in a process of its own (PyTorch then
takes no memory of the node), and the graph is cached.
"""

import hashlib
import io
import logging
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

import yaml

from segmentation_node.activity import doing
from segmentation_node.checkpoint import Checkpoint
from segmentation_node.errors import (
    CheckpointError,
    ForeignError,
    SettingError,
    one_line,
    quoted,
)
from segmentation_node.foreign import read_yaml
from segmentation_node.runtimes.cache import Cache

GRAPHS_DIR: Final = 'graphs'
#: Files of a graph by format; the first is the one to open.
FILES: Final = {'openvino': ('graph.xml', 'graph.bin'), 'onnx': ('graph.onnx',)}
_NAMES: Final = tuple(sorted(name for names in FILES.values() for name in names))
#: Arithmetic that a graph is made for: `float` also serves bf16 and fp16.
KINDS: Final = ('float', 'int8')
#: Mean IoU that a graph may lose against PyTorch in fp32, where the truth is known.
MAX_MIOU_LOSS: Final = 0.002
#: Share of pixels that must be labeled as by PyTorch in fp32, where it is not.
AGREEMENT: Final = {'fp32': 0.995, 'bf16': 0.98, 'fp16': 0.98, 'int8': 0.98}
#: Changes whenever other graphs are made of the same checkpoint.
CONVERSION: Final = 2

#: Exit status of the converting process where the checkpoint is at fault, and where a package is
#: missing; the last line it prints says more.
BAD_CHECKPOINT: Final = 3
NOT_INSTALLED: Final = 4

_CONVERTED: Final = Cache('graphs', 4 * 2**30)

_log = logging.getLogger(__name__)

#: The content of a graph's files by name.
Graph = dict[str, bytes]


@dataclass(frozen=True)
class GraphInfo:
    """Content of the YAML file beside an exported graph.

    `network` is the digest of the weights, `files` the SHA-256 of each file. The rest says what
    the labels were judged on: `agreement` is the share of pixels labeled as by PyTorch in fp32,
    by precision, and `miou` the mean IoU where the truth is known ('torch' is PyTorch in fp32).
    """

    network: str
    files: dict[str, str]
    made_with: str
    judged_on: str
    agreement: dict[str, float] = field(default_factory=dict)
    miou: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> 'GraphInfo':
        """Read and check; raises CheckpointError naming what is wrong."""
        try:
            content = read_yaml(path)
        except ForeignError as error:
            raise CheckpointError(f'{error}; export the graph again') from error
        kinds = {'network': str, 'files': dict, 'made_with': str, 'judged_on': str,
                 'agreement': dict, 'miou': dict}  # fmt: skip
        if not isinstance(content, dict) or set(content) != {f.name for f in fields(cls)}:
            raise CheckpointError(f'{path} must hold {", ".join(kinds)}; export the graph again')
        for name, kind in kinds.items():
            if not isinstance(content[name], kind):
                raise CheckpointError(
                    f'{path} has {name} {quoted(content[name])}, expected a {kind.__name__}; '
                    f'export the graph again'
                )
        for share in (*content['agreement'].values(), *content['miou'].values()):
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise CheckpointError(
                    f'{path} has a share {quoted(share)}, expected a number from 0 to 1; export '
                    f'the graph again'
                )
        return cls(**content)

    def keeps_labels(self, precision: str) -> bool:
        """Return whether a precision passed its gate, or was never judged."""
        if 'torch' in self.miou and precision in self.miou:
            return self.miou[precision] >= self.miou['torch'] - MAX_MIOU_LOSS
        return self.agreement.get(precision, 1.0) >= AGREEMENT[precision]

    def write(self, path: Path) -> None:
        """Write as YAML."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False), encoding='utf-8')


def graph_folder(checkpoint: Checkpoint, format_: str, kind: str) -> Path:
    """Return the folder of an exported graph, whether it exists or not."""
    return checkpoint.folder / GRAPHS_DIR / f'{format_}-{kind}'


def info_file(folder: Path) -> Path:
    """Return the YAML file that describes the graph in a folder."""
    return folder / 'graph.yaml'


def exported_info(checkpoint: Checkpoint, format_: str, kind: str) -> GraphInfo | None:
    """Return the description of an exported graph; None where there is no such graph.

    Raises:
        CheckpointError: the description is damaged, or the graph was made of other weights.
    """
    path = info_file(graph_folder(checkpoint, format_, kind))
    if not path.is_file():
        return None
    info = GraphInfo.read(path)
    if info.network != checkpoint.digest:
        raise CheckpointError(
            f'{path.parent} was exported from other weights than those in {checkpoint.folder}; '
            f'export it again, or delete it'
        )
    return info


def load_graph(checkpoint: Checkpoint, format_: str, kind: str = 'float') -> Graph:
    """Return a graph of a checkpoint: exported, cached, or converted now.

    Args:
        checkpoint: whose network.
        format_: one of FILES.
        kind: one of KINDS; 'int8' is always exported, since it is calibrated on images.

    Raises:
        CheckpointError: the graph or the weights are damaged, or do not belong together.
        SettingError: there is no such graph, and what converts it is not installed.
    """
    info = exported_info(checkpoint, format_, kind)
    if info is not None:
        return _read_exported(graph_folder(checkpoint, format_, kind), info)
    if kind == 'int8':
        raise SettingError(
            f"precision 'int8' needs a graph of {checkpoint.name} that is calibrated on images of "
            f'the camera: run export_model --precision int8, and give the folder it writes as '
            f'the model'
        )
    key = {'format': format_, 'graph': graph_digest(checkpoint, format_, kind)}
    packed = _CONVERTED.get(key)
    if packed is not None:
        return _unpack(packed)
    graph = _convert(checkpoint, format_)
    _CONVERTED.put(key, _pack(graph))
    return graph


def graph_digest(checkpoint: Checkpoint, format_: str, kind: str) -> str:
    """Return what tells a graph, exported or to be converted, from all others."""
    info = exported_info(checkpoint, format_, kind)
    if info is not None:
        return ' '.join(sorted(info.files.values()))
    return f'converted {CONVERSION} {checkpoint.spec.family} {checkpoint.digest}'


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each graph file in a folder."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in _NAMES
        if (folder / name).is_file()
    }


def _read_exported(folder: Path, info: GraphInfo) -> Graph:
    graph = {}
    for name, digest in info.files.items():
        if name not in _NAMES:
            raise CheckpointError(f'{info_file(folder)} names a file {name!r:.80}; export again')
        try:
            graph[name] = (folder / name).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f'{folder / name} cannot be read ({one_line(error)}); export the graph again'
            ) from error
        if hashlib.sha256(graph[name]).hexdigest() != digest:
            raise CheckpointError(
                f'{folder / name} is damaged: its SHA-256 is not the one in {info_file(folder)}; '
                f'copy it again, or export the graph again'
            )
    return graph


def _convert(checkpoint: Checkpoint, format_: str) -> Graph:
    """Convert in a process of its own."""
    _log.warning('converting %s, once; this takes a while', checkpoint.name)
    try:
        with (
            doing(f'converting {checkpoint.name}'),
            tempfile.TemporaryDirectory(prefix='segmentation_node.') as folder,
        ):
            _run_conversion(checkpoint, format_, folder)
            return {name: Path(folder, name).read_bytes() for name in FILES[format_]}
    except OSError as error:
        raise SettingError(
            f'{checkpoint.name} cannot be converted for want of a temporary folder '
            f'({one_line(error)}); make room in {tempfile.gettempdir()}, or set TMPDIR'
        ) from error


def _run_conversion(checkpoint: Checkpoint, format_: str, folder: str) -> None:
    command = [
        sys.executable, '-m', 'segmentation_node.runtimes.convert',
        str(checkpoint.folder), format_, folder,
    ]  # fmt: skip
    # The process ends when its standard input does, so it never outlives this one.
    with subprocess.Popen(  # noqa: S603 (a list of our own making, no shell)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        output = process.stdout.read() if process.stdout is not None else b''
        status = process.wait()
    text = output.decode(errors='replace').strip()
    last_line = text.rpartition('\n')[2]
    if status == BAD_CHECKPOINT:
        raise CheckpointError(last_line)
    if status == NOT_INSTALLED:
        raise SettingError(last_line)
    if status:
        raise CheckpointError(
            f'{checkpoint.name} cannot be converted to {format_}; the converting process ended '
            f'with status {status} ({text[-300:]}); use the runtime torch'
        )


def _pack(graph: Graph) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        for name, content in graph.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _unpack(packed: bytes) -> Graph:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
