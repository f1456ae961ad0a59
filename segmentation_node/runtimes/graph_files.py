# SPDX-License-Identifier: Apache-2.0
"""Graph files: the network of a checkpoint in a runtime's own format, usable without PyTorch.

The input of a graph is normalized pixels, (1, 3, H, W) float32 with both sides multiples of
DIVISOR; its outputs are class scores, (1, C, H / s, W / s) float32, and features of the image,
(1, D) float32, which older graphs lack. The graph of a panoptic model or of one of instances has
the outputs of `Network.outputs` instead. Height and width are dynamic: one file serves images of
every size.

`export_model` writes graph files into the folder `graphs/` of a checkpoint, each next to a YAML
file with the digest of its weights and the quality of its labels. If a checkpoint has no graph
files, its network is converted on first use and the graph is cached. The conversion runs in a
separate process, so that PyTorch takes no memory of the node.
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

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.errors import (
    CheckpointError,
    ForeignError,
    SettingError,
    one_line,
    quoted,
)
from segmentation_node.instances import SEMANTIC
from segmentation_node.runtimes.activity import doing
from segmentation_node.runtimes.cache import Cache
from segmentation_node.untrusted import read_yaml

GRAPHS_DIR: Final = 'graphs'
#: Files of a graph by format; runtimes open the first one.
FILES: Final = {'openvino': ('graph.xml', 'graph.bin'), 'onnx': ('graph.onnx',)}
_NAMES: Final = tuple(sorted(name for names in FILES.values() for name in names))
#: Kinds of graphs by arithmetic; `float` also serves bf16 and fp16.
KINDS: Final = ('float', 'int8')
#: Maximum loss of mean IoU against PyTorch in fp32, if ground truth is available.
MAX_MIOU_LOSS: Final = 0.002
#: Minimum share of pixels labeled as by PyTorch in fp32, if it is not.
AGREEMENT: Final = {'fp32': 0.995, 'bf16': 0.98, 'fp16': 0.98, 'int8': 0.98}
#: Version of the conversion; incremented whenever the same checkpoint yields a different graph.
CONVERSION: Final = 3

#: Exit status of the conversion process if the checkpoint is invalid, and if a package is missing;
#: the last line it prints is the error message.
BAD_CHECKPOINT: Final = 3
NOT_INSTALLED: Final = 4

_CONVERTED: Final = Cache('graphs', 4 * 2**30)

_log = logging.getLogger(__name__)

#: Content of the files of a graph by name.
Graph = dict[str, bytes]


@dataclass(frozen=True)
class GraphInfo:
    """Content of the YAML file beside an exported graph.

    `network` is the digest of the weights, `files` the SHA-256 of each file. The other fields
    describe the evaluation of the labels: `agreement` is the share of pixels labeled as by PyTorch
    in fp32, by precision; `miou` is the mean IoU if ground truth is available ('torch' is PyTorch
    in fp32).
    """

    network: str
    files: dict[str, str]
    made_with: str
    judged_on: str
    agreement: dict[str, float] = field(default_factory=dict)
    miou: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> 'GraphInfo':
        """Read and validate; raises CheckpointError that names the invalid entry."""
        try:
            content = read_yaml(path)
        except ForeignError as error:
            raise CheckpointError(f'{error}; export the graph again') from error
        kinds = {'network': str, 'files': dict, 'made_with': str, 'judged_on': str,
                 'agreement': dict, 'miou': dict}  # fmt: skip
        if not isinstance(content, dict) or set(content) != {f.name for f in fields(cls)}:
            raise CheckpointError(
                f'{path} must have the keys {", ".join(kinds)}; export the graph again'
            )
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
        """Return whether a precision passed its quality gate or was never evaluated."""
        if 'torch' in self.miou and precision in self.miou:
            return self.miou[precision] >= self.miou['torch'] - MAX_MIOU_LOSS
        return self.agreement.get(precision, 1.0) >= AGREEMENT[precision]

    def write(self, path: Path) -> None:
        """Write the description as YAML."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False), encoding='utf-8')


def graph_folder(checkpoint: Checkpoint, format_: str, kind: str) -> Path:
    """Return the folder of an exported graph, whether it exists or not."""
    return checkpoint.folder / GRAPHS_DIR / f'{format_}-{kind}'


def info_file(folder: Path) -> Path:
    """Return the YAML file that describes the graph in a folder."""
    return folder / 'graph.yaml'


def exported_info(checkpoint: Checkpoint, format_: str, kind: str) -> GraphInfo | None:
    """Return the description of an exported graph; None if there is no such graph.

    Raises:
        CheckpointError: the description is damaged, or the graph belongs to other weights.
    """
    path = info_file(graph_folder(checkpoint, format_, kind))
    if not path.is_file():
        return None
    info = GraphInfo.read(path)
    if info.network != checkpoint.digest:
        raise CheckpointError(
            f'{path.parent} was exported from weights other than those in {checkpoint.folder}; '
            f'export it again, or delete it'
        )
    return info


def load_graph(checkpoint: Checkpoint, format_: str, kind: str = 'float') -> Graph:
    """Return a graph of a checkpoint: the exported one, a cached one, or one converted now.

    Args:
        checkpoint: checkpoint with the network.
        format_: one of FILES.
        kind: one of KINDS; 'int8' is always exported, since it is calibrated on images.

    Raises:
        CheckpointError: the graph or the weights are damaged, or do not belong together.
        SettingError: there is no such graph, and a package that the conversion needs is missing.
    """
    info = exported_info(checkpoint, format_, kind)
    if info is not None:
        return _read_exported(graph_folder(checkpoint, format_, kind), info)
    if kind == 'int8':
        raise SettingError(
            f"precision 'int8' requires a graph of {checkpoint.name} calibrated on camera images; "
            f'run export_model --precision int8, and use the folder that it writes as the model'
        )
    key = {'format': format_, 'graph': graph_digest(checkpoint, format_, kind)}
    packed = _CONVERTED.get(key)
    if packed is not None:
        return _unpack(packed)
    graph = _convert(checkpoint, format_)
    _CONVERTED.put(key, _pack(graph))
    return graph


def graph_digest(checkpoint: Checkpoint, format_: str, kind: str) -> str:
    """Return the identity of a graph, exported or yet to be converted, as text."""
    info = exported_info(checkpoint, format_, kind)
    if info is not None:
        return ' '.join(sorted(info.files.values()))
    task = '' if checkpoint.task == SEMANTIC else f' {checkpoint.task}'
    return f'converted {CONVERSION} {checkpoint.spec.family} {checkpoint.digest}{task}'


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
    """Convert the network in a child process."""
    _log.warning('converting %s; this is done once and takes a while', checkpoint.name)
    try:
        with (
            doing(f'converting {checkpoint.name}'),
            tempfile.TemporaryDirectory(prefix='segmentation_node.') as folder,
        ):
            _run_conversion(checkpoint, format_, folder)
            return {name: Path(folder, name).read_bytes() for name in FILES[format_]}
    except OSError as error:
        raise SettingError(
            f'{checkpoint.name} cannot be converted because the temporary folder cannot be used '
            f'({one_line(error)}); make room in {tempfile.gettempdir()}, or set TMPDIR'
        ) from error


def _run_conversion(checkpoint: Checkpoint, format_: str, folder: str) -> None:
    command = [
        sys.executable, '-m', 'segmentation_node.runtimes.convert',
        str(checkpoint.folder), checkpoint.task, format_, folder,
    ]  # fmt: skip
    # The child ends when its standard input closes, so it never outlives this process.
    with subprocess.Popen(  # noqa: S603 (a fixed argument list, no shell)
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
            f'{checkpoint.name} cannot be converted to {format_}: the conversion process exited '
            f'with status {status} ({text[-300:]}); use runtime torch'
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
