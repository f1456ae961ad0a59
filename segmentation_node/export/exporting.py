# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint and images of a camera to a checkpoint that has the exported graph."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from segmentation_node.checkpoint import Checkpoint, find_checkpoint
from segmentation_node.errors import ExportError, SettingError
from segmentation_node.export.agreement import Agreement, Label, Labels, measure, share
from segmentation_node.exports import AGREEMENT, EXPORTS_DIR, FORMATS, Export
from segmentation_node.geometry import Geometry
from segmentation_node.image_files import ImageRgb, encode_png
from segmentation_node.segmenter import Segmenter

#: What a checkpoint consists of; nothing else is copied.
_CHECKPOINT_SUFFIXES: Final = ('.json', '.safetensors', '.yaml', '.yml', '.md')
#: Every so many images one is not calibrated on, but judged by.
_JUDGED_EVERY: Final = 4


@dataclass(frozen=True)
class Request:
    """What to export.

    `format` is one of FORMATS, `precision` one of AGREEMENT, `input_size` the (height, width) box
    that images are fitted into, None for the checkpoint's own.
    """

    model: str
    format: str = 'openvino'
    precision: str = 'fp32'
    input_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise SettingError(f'unknown format {self.format!r}; there are {", ".join(FORMATS)}')
        if self.precision not in AGREEMENT:
            raise SettingError(
                f'precision {self.precision!r} is none to export in; say one of '
                f'{", ".join(AGREEMENT)} (bf16 and fp16 are made of fp32 when it is loaded)'
            )
        if self.format == 'onnx' and self.precision == 'int8':
            raise SettingError("format 'onnx' is exported in fp32; say openvino for int8")


def export_model(
    request: Request, images: Sequence[ImageRgb], output: Path, *, quiet: bool = True
) -> Export:
    """Export a model for images of one size, if it labels them as the network does.

    Args:
        request: what to export.
        images: (H, W, 3) uint8 RGB each, all of one size, such as the camera gives. In int8 a
            quarter of them is judged by, and the others are calibrated on.
        output: folder of the new checkpoint, which holds all the old one does; or one that was
            made so of the same weights, which then gets another graph.
        quiet: show no progress.

    Raises:
        CheckpointError: the model cannot be loaded.
        ExportError: labels agree on too few pixels, which is shown in a picture beside `output`;
            or `output` is something else already.
        SettingError: a package is not installed.
        OSError: `output` cannot be written.
    """
    checkpoint = find_checkpoint(request.model)
    _check_output(output, checkpoint)
    calibrated, judged = _parts(images, request.precision)
    reference = Segmenter(
        request.model, runtime='torch', precision='fp32', input_size=request.input_size
    )
    expected = [reference.segment([image]).labels[0] for image in judged]
    make = {'onnx': _onnx, 'openvino': _openvino}[request.format]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.export.', dir=output.parent) as name:
        aside = Path(name, 'graph')
        aside.mkdir()
        geometry, found = make(checkpoint, request, calibrated, judged, expected, aside, quiet)
        if found.share < AGREEMENT[request.precision]:
            raise _refusal(request, found, reference, output)
        export = Export(
            request.format, request.precision, geometry.image_hw, geometry.padded_hw,
            geometry.network_hw, request.input_size, checkpoint.digest, found.share, len(judged),
        )  # fmt: skip
        export.write(aside)
        _put(checkpoint, aside, output, export)
    return export


def _check_output(output: Path, checkpoint: Checkpoint) -> None:
    if not output.exists():
        return
    is_ours = (output / EXPORTS_DIR).is_dir()
    if not is_ours or find_checkpoint(str(output)).digest != checkpoint.digest:
        raise ExportError(
            f'{output} is there already and not an export of this model; name a folder that is '
            f'not there yet'
        )


def _parts(
    images: Sequence[ImageRgb], precision: str
) -> tuple[Sequence[ImageRgb], Sequence[ImageRgb]]:
    """Images to calibrate on and images to judge by."""
    least = 2 if precision == 'int8' else 1
    if len(images) < least:
        raise ExportError(
            f'there are {len(images)} images, and {precision} needs {least} or more: to be '
            f'calibrated on and to be judged by; better a hundred, of all that the camera meets'
        )
    if precision != 'int8':
        return (), images
    judged = images[::_JUDGED_EVERY]
    return [image for index, image in enumerate(images) if index % _JUDGED_EVERY], judged


def _openvino(
    checkpoint: Checkpoint,
    request: Request,
    calibrated: Sequence[ImageRgb],
    judged: Sequence[ImageRgb],
    expected: Sequence[Labels],
    folder: Path,
    quiet: bool,
) -> tuple[Geometry, Agreement]:
    import openvino  # type: ignore[import-untyped]

    from segmentation_node.export.quantization import quantize, quantize_carefully
    from segmentation_node.runtimes.conversion import OUTPUTS, to_openvino
    from segmentation_node.runtimes.openvino_runtime import GRAPH

    image_hw = judged[0].shape[0], judged[0].shape[1]
    model, geometry = to_openvino(checkpoint, request.input_size, image_hw, OUTPUTS)
    transformer = checkpoint.spec.family == 'mask2former'
    if request.precision == 'int8':
        made = quantize(model, calibrated, transformer=transformer)
    else:
        made = model
    found = measure(judged, expected, _openvino_labels(made, request.precision), quiet)
    if request.precision == 'int8' and found.share < AGREEMENT['int8']:
        made = quantize_carefully(
            model, [*calibrated, *judged],
            range(len(calibrated), len(calibrated) + len(judged)),
            lambda index, out: share(expected[index - len(calibrated)], out['labels'][0]),
            1 - AGREEMENT['int8'], transformer=transformer,
        )  # fmt: skip
        found = measure(judged, expected, _openvino_labels(made, request.precision), quiet)
    openvino.save_model(made, folder / GRAPH, compress_to_fp16=False)
    return geometry, found


def _openvino_labels(model: Any, precision: str) -> Label:
    import openvino

    # In fp32 it must be the same network; what is left in int8 runs as it will.
    hint = {'INFERENCE_PRECISION_HINT': 'f32'} if precision == 'fp32' else {}
    compiled = openvino.compile_model(model, 'CPU', hint)
    return lambda image: np.asarray(compiled(image[None])['labels'][0]).copy()


def _onnx(
    checkpoint: Checkpoint,
    request: Request,
    _calibrated: Sequence[ImageRgb],
    judged: Sequence[ImageRgb],
    expected: Sequence[Labels],
    folder: Path,
    quiet: bool,
) -> tuple[Geometry, Agreement]:
    import onnxruntime  # type: ignore[import-untyped]

    from segmentation_node.runtimes.conversion import INPUT, to_onnx
    from segmentation_node.runtimes.onnx_runtime import GRAPH

    image_hw = judged[0].shape[0], judged[0].shape[1]
    path = folder / GRAPH
    geometry = to_onnx(checkpoint, request.input_size, image_hw, ('labels', 'confidence'), path)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

    def label(image: ImageRgb) -> Labels:
        return np.asarray(session.run(['labels'], {INPUT: image[None]})[0][0], np.uint8)

    return geometry, measure(judged, expected, label, quiet)


def _refusal(
    request: Request, found: Agreement, reference: Segmenter, output: Path
) -> ExportError:
    picture = output.with_name(f'{output.name}_differences.png')
    picture.write_bytes(encode_png(found.picture(reference.scheme)))
    return ExportError(
        f'the exported {request.model} labels {found.share:.2%} of the pixels as the network '
        f'does, and {AGREEMENT[request.precision]:.1%} are asked for; {picture} shows where they '
        f'differ. Nothing was exported: give more images of what the camera meets, or another '
        f'precision'
    )


def _put(checkpoint: Checkpoint, graph: Path, output: Path, export: Export) -> None:
    """Bring a graph into a checkpoint that may not be there yet, which then is all there."""
    whole = output
    if not output.exists():
        whole = graph.with_name('whole')
        _copy(checkpoint, whole)
    target = whole / export.folder
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    shutil.move(graph, target)
    if whole != output:
        whole.rename(output)


def _copy(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    for path in sorted(checkpoint.folder.iterdir()):
        if path.is_file() and path.suffix in _CHECKPOINT_SUFFIXES:
            shutil.copyfile(path, folder / path.name)
