# SPDX-License-Identifier: Apache-2.0
"""Graphs that were exported into a checkpoint's folder, below `exports/`.

Each lies in a folder of its own beside `export.yaml`, which says what it is and how well its
labels agree with those of the network it was made of.
"""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import yaml

from segmentation_node.checkpoint import Checkpoint
from segmentation_node.errors import CheckpointError
from segmentation_node.geometry import Geometry

EXPORTS_DIR: Final = 'exports'
EXPORT_FILE: Final = 'export.yaml'
FORMATS: Final = ('openvino', 'onnx')
#: Share of labels that must agree with the network in PyTorch in fp32, by precision.
AGREEMENT: Final = {'fp32': 0.995, 'int8': 0.99}


@dataclass(frozen=True)
class Export:
    """A graph for images of one size.

    `input_size` is the (height, width) box that images were to be fitted into, None for the
    checkpoint's own; `network` is the digest of the weights. `agreement` is the share of pixels
    of `images` images that are labelled as by PyTorch in fp32.
    """

    format: str
    precision: str
    image_hw: tuple[int, int]
    padded_hw: tuple[int, int]
    network_hw: tuple[int, int]
    input_size: tuple[int, int] | None
    network: str
    agreement: float
    images: int

    @property
    def folder(self) -> str:
        """Where its files are, below the checkpoint."""
        height, width = self.image_hw
        box = '' if self.input_size is None else f'-in-{self.input_size[1]}x{self.input_size[0]}'
        return f'{EXPORTS_DIR}/{self.format}-{self.precision}-{width}x{height}{box}'

    @property
    def geometry(self) -> Geometry:
        """How an image meets the network."""
        return Geometry(self.image_hw, self.padded_hw, self.network_hw)

    @classmethod
    def read(cls, path: Path) -> 'Export':
        """Read and check; raises CheckpointError naming what is wrong."""
        try:
            content = yaml.safe_load(path.read_text(encoding='utf-8'))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f'{path} cannot be read ({error}); export anew') from error
        names = {f.name for f in fields(cls)}
        if not isinstance(content, dict) or set(content) != names:
            raise CheckpointError(f'{path} must hold {", ".join(sorted(names))}; export anew')
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        found = cls(**values)
        wrong = [name for name in names if not found._is_valid(name)]
        if wrong:
            raise CheckpointError(
                f'{path} has {wrong[0]} {content[wrong[0]]!r}, which is none; export anew'
            )
        if path.parent != path.parents[2] / found.folder:
            raise CheckpointError(f'{path} belongs into {found.folder}; export anew')
        return found

    def write(self, folder: Path) -> None:
        """Write beside the graph."""
        content = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        text = yaml.safe_dump(content, sort_keys=False)
        (folder / EXPORT_FILE).write_text(text, encoding='utf-8')

    def _is_valid(self, name: str) -> bool:
        value: Any = getattr(self, name)
        match name:
            case 'format':
                return value in FORMATS
            case 'precision':
                return value in AGREEMENT
            case 'network':
                return isinstance(value, str)
            case 'agreement':
                return type(value) in (int, float) and math.isfinite(value)
            case 'images':
                return type(value) is int
        return (value is None and name == 'input_size') or (
            isinstance(value, tuple)
            and len(value) == 2
            and all(type(side) is int and side > 0 for side in value)
        )


def exports_of(
    checkpoint: Checkpoint, format_: str, precision: str, input_size: tuple[int, int] | None
) -> list[Export]:
    """What was exported of a checkpoint for a runtime, by size of image.

    Raises:
        CheckpointError: a file that says what an export is cannot be read.
    """
    paths = sorted(checkpoint.folder.glob(f'{EXPORTS_DIR}/{format_}-{precision}-*/{EXPORT_FILE}'))
    found = [Export.read(path) for path in paths]
    return [export for export in found if export.input_size == input_size]
