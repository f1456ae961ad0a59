# SPDX-License-Identifier: Apache-2.0
"""Command that converts a checkpoint to a graph file; `graph_files` runs it as a child process."""

import os
import sys
import threading
from pathlib import Path

from segmentation_node.checkpoint import load_checkpoint
from segmentation_node.errors import SegmentationError
from segmentation_node.paths import with_extra
from segmentation_node.runtimes.graph_files import BAD_CHECKPOINT, FILES, NOT_INSTALLED


def main() -> int:
    """Run the command (folder, task, format, output folder); returns the exit status."""
    folder, task, format_, output = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _convert(folder, task, format_, Path(output))
    except SegmentationError as error:
        print(' '.join(str(error).split()))
        return BAD_CHECKPOINT
    except ModuleNotFoundError as error:
        print(
            f'{folder} has no graph files, and converting it requires the package {error.name}, '
            f'which is not installed; install it (pip install {with_extra("torch")}'
            + (' onnx)' if format_ == 'onnx' else ')')
            + ', or export the model on another machine with export_model'
        )
        return NOT_INSTALLED
    return 0


def _convert(folder: str, task: str, format_: str, output: Path) -> None:
    network = load_checkpoint(folder).load_network()
    from segmentation_node.runtimes.conversion import to_onnx, to_openvino

    path = output / FILES[format_][0]
    if format_ == 'onnx':
        to_onnx(network, path, task)
        return
    import openvino  # type: ignore[import-untyped]

    openvino.save_model(to_openvino(network, task), path, compress_to_fp16=False)


def _end_with_parent() -> None:
    # Does not use sys.stdin, because the interpreter waits for its lock at exit.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == '__main__':
    sys.exit(main())
