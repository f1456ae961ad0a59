# SPDX-License-Identifier: Apache-2.0
"""Export of graph files: from a checkpoint and camera images to a checkpoint with graphs."""

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.benchmark.input_frames import InputFrames, covering
from segmentation_node.checkpoint import SPEC_FILE, Checkpoint, find_checkpoint
from segmentation_node.errors import ExportError, SettingError
from segmentation_node.export.judging import Judge, Judgment, share
from segmentation_node.images.files import encode_png, read_image
from segmentation_node.images.label_files import read_labels
from segmentation_node.instances import DEFAULT_THRESHOLDS, SEMANTIC
from segmentation_node.metrics import truth_lut_of
from segmentation_node.runtimes.graph_files import (
    AGREEMENT,
    FILES,
    MAX_MIOU_LOSS,
    GraphInfo,
    digests,
    graph_folder,
    info_file,
)
from segmentation_node.segmenter import Segmenter

#: Suffixes of the files of a checkpoint, without its graphs; no other file is copied.
_CHECKPOINT_SUFFIXES: Final = ('.json', '.safetensors', '.yaml', '.yml', '.md')
#: Without truth, every n-th image is used for evaluation instead of calibration.
_JUDGED_EVERY: Final = 4
PRECISIONS: Final = ('fp32', 'int8')


@dataclass(frozen=True)
class Request:
    """Export request.

    Args:
        model: bundled name, folder, or hub id.
        images: camera images, (H, W, 3) uint8 RGB each.
        format: one of FILES.
        precisions: subset of PRECISIONS.
        truth: labeled frames to evaluate on, instead of a part of the images.
    """

    model: str
    images: Sequence[UInt8Array]
    format: str = 'openvino'
    precisions: Sequence[str] = PRECISIONS
    truth: InputFrames | None = None

    def __post_init__(self) -> None:
        if self.format not in FILES:
            raise SettingError(f'unknown format {self.format!r}; use one of {", ".join(FILES)}')
        if self.format == 'onnx' and 'int8' in self.precisions:
            raise SettingError(
                "format 'onnx' is exported in fp32 only; add --precision fp32, or use openvino "
                'for int8'
            )
        least = 2 if 'int8' in self.precisions and self.truth is None else 1
        if len(self.images) < least:
            raise ExportError(
                f'there are {len(self.images)} images for calibration and evaluation, expected at '
                f'least {least}; give about a hundred, of everything that the camera sees'
            )


@dataclass(frozen=True)
class Exported:
    """Written graph; `info` has the precisions that it runs in and their evaluation."""

    kind: str
    info: GraphInfo
    bytes: int


def export_model(request: Request, output: Path, *, quiet: bool = True) -> Iterator[Exported]:
    """Export a model graph by graph, each only if its labels are accurate enough.

    Args:
        request: export request.
        output: folder of the new checkpoint, which becomes a copy of the old one with graphs; or
            an existing checkpoint with the same weights, such as the old one itself, to which the
            graphs are added.
        quiet: show no progress.

    Raises:
        CheckpointError: the model cannot be loaded.
        ExportError: labels are not accurate enough, as a picture next to `output` then shows; or
            `output` exists and is not a checkpoint with these weights.
        SettingError: a package is not installed.
        OSError: `output` cannot be written.
    """
    checkpoint = find_checkpoint(request.model)
    _check_output(output, checkpoint)
    work = _Work(request, checkpoint, quiet)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.export.', dir=output.parent) as name:
        aside = Path(name, 'checkpoint')
        _copy(checkpoint, aside)
        copied = replace(checkpoint, folder=aside)
        for precision in request.precisions:
            kind = 'int8' if precision == 'int8' else 'float'
            info = work.export(kind, copied, output)
            folder = graph_folder(copied, request.format, kind)
            size = sum(path.stat().st_size for path in folder.iterdir())
            _install(folder, output, aside)
            yield Exported(kind, info, size)


@dataclass
class _Work:
    """Work on one request, with the intermediate results that its graphs share."""

    request: Request
    checkpoint: Checkpoint
    quiet: bool

    @cached_property
    def _torch(self) -> Segmenter:
        return Segmenter(self.request.model, runtime='torch', precision='fp32', device='cpu')

    @cached_property
    def _calibrated(self) -> Sequence[UInt8Array]:
        images = self.request.images
        if self.request.truth is not None:
            return images
        return [image for index, image in enumerate(images) if index % _JUDGED_EVERY]

    @cached_property
    def judge(self) -> Judge:
        """Judge with the evaluation images and their expected labels."""
        frames, scheme = self.request.truth, self.checkpoint.scheme
        if frames is None or frames.scheme is None:
            images = list(self.request.images[::_JUDGED_EVERY])
            truth = []
        else:
            images = [read_image(path) for path in frames.images]
            lut = truth_lut_of(frames.scheme, scheme)
            truth = [lut[read_labels(path, frames.scheme)] for path in frames.labels]
        expected = [self._torch.segment([image]).labels[0] for image in images]
        return Judge(scheme, images, expected, truth)

    def export(self, kind: str, aside: Checkpoint, output: Path) -> GraphInfo:
        """Write one graph into a temporary checkpoint and evaluate it there, as it will be run."""
        folder = graph_folder(aside, self.request.format, kind)
        folder.mkdir(parents=True)
        if self.request.format == 'onnx':
            self._write_onnx(folder)
            return self._evaluate(aside, kind, folder, ('fp32',), output)
        if kind == 'float':
            self._write_openvino(self._openvino, folder)
            from segmentation_node.runtimes.openvino_runtime import float_precisions

            return self._evaluate(aside, kind, folder, float_precisions(), output)
        self._write_openvino(self._quantized(careful=False), folder)
        try:
            return self._evaluate(aside, kind, folder, ('int8',), output)
        except ExportError:
            self._write_openvino(self._quantized(careful=True), folder)
            return self._evaluate(aside, kind, folder, ('int8',), output)

    def _evaluate(
        self, aside: Checkpoint, kind: str, folder: Path, precisions: Sequence[str], output: Path
    ) -> GraphInfo:
        """Evaluate the graph in every precision that it runs in; the first one must pass."""
        frames = self.request.truth
        info = GraphInfo(
            network=self.checkpoint.digest,
            files=digests(folder),
            made_with=f'{self.request.format} '
            + metadata.version({'onnx': 'onnxruntime'}.get(self.request.format, 'openvino')),
            judged_on=frames.title if frames else f'{len(self.judge.images)} images of the camera',
        )
        if self.judge.truth:
            info.miou['torch'] = _rounded(self.judge.miou(self.judge.expected))
        runtime = 'onnxruntime' if self.request.format == 'onnx' else 'openvino'
        for precision in precisions:
            info.write(info_file(folder))
            # The cache identifies compiled graphs by digest, so no other graph is run by mistake.
            segmenter = Segmenter(
                str(aside.folder), runtime=runtime, precision=precision, device='cpu'
            )
            judgment = self.judge.judge(
                lambda image: segmenter.segment([image]).labels[0].copy(),  # noqa: B023
                f'evaluating {precision}', self.quiet,
            )  # fmt: skip
            info.agreement[precision] = _rounded(judgment.agreement)
            if not math.isnan(judgment.miou):
                info.miou[precision] = _rounded(judgment.miou)
            if precision == precisions[0] and not info.keeps_labels(precision):
                raise self._export_error(kind, precision, info, judgment, output)
        info.write(info_file(folder))
        return info

    def _export_error(
        self, kind: str, precision: str, info: GraphInfo, judgment: Judgment, output: Path
    ) -> ExportError:
        picture = output.with_name(f'{output.name}_differences.png')
        picture.write_bytes(encode_png(judgment.picture(self.checkpoint.scheme)))
        if info.miou:
            figures = (
                f'reaches a mean IoU of {info.miou[precision]:.2%}, PyTorch '
                f'{info.miou["torch"]:.2%}; expected a loss of at most {MAX_MIOU_LOSS:.1%}'
            )
        else:
            figures = (
                f'labels {info.agreement[precision]:.2%} of the pixels as PyTorch does, expected '
                f'at least {AGREEMENT[precision]:.1%}'
            )
        return ExportError(
            f'{self.request.model} as {precision} {figures}; {picture} shows where labels '
            f'differ. The {kind} graph was not written: give more images of everything that the '
            f'camera sees, or use another precision'
        )

    @cached_property
    def _openvino(self) -> Any:
        from segmentation_node.runtimes.conversion import to_openvino

        return to_openvino(self.checkpoint.load_network(), self.checkpoint.task)

    def _write_openvino(self, model: Any, folder: Path) -> None:
        import openvino  # type: ignore[import-untyped]

        openvino.save_model(model, folder / FILES['openvino'][0], compress_to_fp16=True)

    def _write_onnx(self, folder: Path) -> None:
        from segmentation_node.runtimes.conversion import to_onnx

        path = folder / FILES['onnx'][0]
        to_onnx(self.checkpoint.load_network(), path, self.checkpoint.task)

    def _quantized(self, *, careful: bool) -> Any:
        from segmentation_node.export.quantization import quantize, quantize_carefully

        transformer = self.checkpoint.spec.family == 'mask2former'
        height, width = self._calibrated[0].shape[:2]
        calibrated = [self._pixels(covering(im, (width, height))) for im in self._calibrated]
        if not careful:
            return quantize(self._openvino, calibrated, transformer=transformer)
        judge, decode = self.judge, self.checkpoint.decoder

        def agreeing(index: int, outputs: Sequence[Any]) -> float:
            geometry = self._graph.geometry(judge.images[index].shape[:2])
            found = decode([output[0] for output in outputs], geometry, DEFAULT_THRESHOLDS)
            return share(judge.expected[index], found.labels)

        return quantize_carefully(
            self._openvino, calibrated, [self._pixels(image) for image in judge.images],
            agreeing, 1 - AGREEMENT['int8'], transformer=transformer,
        )  # fmt: skip

    @cached_property
    def _graph(self) -> Any:
        return self.checkpoint.load_graph()

    def _pixels(self, image_rgb: UInt8Array) -> Any:
        """Prepare an image for the network, (1, 3, h, w) float32."""
        import torch

        geometry = self._graph.geometry(image_rgb.shape[:2])
        pixels = self._graph.preprocess(torch.from_numpy(image_rgb[None]), geometry)
        return np.ascontiguousarray(pixels.numpy())


def _rounded(figure: float) -> float:
    return round(figure, 5)


def _check_output(output: Path, checkpoint: Checkpoint) -> None:
    if not output.exists():
        return
    if (
        not (output / 'config.json').is_file()
        or find_checkpoint(str(output)).digest != checkpoint.digest
    ):
        raise ExportError(
            f'{output} exists and is not a checkpoint with these weights; give a folder that does '
            f'not exist yet'
        )


def _copy(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    for path in sorted(checkpoint.folder.iterdir()):
        if path.is_file() and path.suffix in _CHECKPOINT_SUFFIXES:
            shutil.copyfile(path, folder / path.name)
    if checkpoint.task != SEMANTIC:  # a folder from a hub may tell only by its name
        checkpoint.spec.write(folder / SPEC_FILE)


def _install(graph: Path, output: Path, aside: Path) -> None:
    """Move a graph into the output checkpoint; a new checkpoint is created atomically."""
    if not output.exists():
        whole = aside.with_name('whole')
        shutil.copytree(aside, whole)
        whole.rename(output)
        return
    target = output / graph.relative_to(aside)
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(graph, target)
