# SPDX-License-Identifier: Apache-2.0
"""Writes a recording for the Rerun viewer: images, labels, instances and scores over time.

It needs rerun-sdk, https://rerun.io (extra `rerun`).
"""

import os
import threading
import time
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import cv2
import numpy as np

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.bags.camera_frames import CameraFrame
from segmentation_node.bags.messages import header_stamp_ns
from segmentation_node.bags.writer import FLUSH_AFTER_S
from segmentation_node.errors import BagError, SettingError
from segmentation_node.images.files import encode_jpeg
from segmentation_node.images.rendering import Detection, Rendered, mean_confidence
from segmentation_node.paths import with_extra
from segmentation_node.pipeline.consistency import TemporalConsistency

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter

SUFFIX: Final = '.rrd'
#: First bytes of every version of the format.
MAGIC: Final = b'RRF'

#: Timelines: header stamp of the image, and number of the segmented frame from 0.
STAMP: Final = 'stamp'
FRAME: Final = 'frame'

#: Entities. The annotation context at CAMERA applies to those below it.
CAMERA: Final = 'camera'
IMAGE: Final = 'camera/image'
LABELS: Final = 'camera/labels'
INSTANCES: Final = 'camera/instances'
CONFIDENCE: Final = 'scores/confidence'
CONSISTENCY: Final = 'scores/consistency'
DISTANCE: Final = 'domain/distance'
CLASS_SHARE: Final = 'class_share'

#: Longest side of a recorded camera image; larger images are scaled down.
MAX_SIDE: Final = 2048
_JPEG_QUALITY: Final = 80
_LABEL_OPACITY: Final = 0.5
#: On it, the colors of all label schemes can be seen, black included.
_PLOT_BACKGROUND_RGB: Final = (225, 225, 225)
_READ_BYTES: Final = 1 << 20


def import_rerun() -> Any:
    """Return the module `rerun`; raises SettingError if it is not installed."""
    try:
        rerun = import_module('rerun')
    except ModuleNotFoundError as error:
        raise SettingError(
            f'--rrd needs rerun-sdk, but the package {error.name} is not installed: '
            f'pip install {with_extra("rerun")}'
        ) from error
    # Otherwise, invalid values are only logged, and missing in the recording.
    rerun.set_strict_mode(True)
    return rerun


def check_recording(path: Path, overwrite: bool, bags: Collection[Path]) -> None:
    """Raise BagError unless a recording may be written to `path`; changes nothing.

    Args:
        path: file to write.
        overwrite: allow an existing recording.
        bags: bags that are read and written; the recording must be none of their files.
    """
    if path.suffix != SUFFIX:
        raise BagError(f'{path} does not end in {SUFFIX}, by which the viewer knows a recording')
    for bag in bags:
        if bag.resolve() in (path.resolve(), *path.resolve().parents):
            raise BagError(f'{path} is in the bag {bag}; choose another --rrd')
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise BagError(f'{path} exists; choose another --rrd, or allow --overwrite')
    if path.is_symlink() or not path.is_file() or not _is_recording(path):
        raise BagError(f'{path} is no Rerun recording, so it is kept; choose another --rrd')


def _is_recording(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(len(MAGIC)) in (MAGIC, b'')


class RerunRecording:
    """A recording being written, frame by frame; a context manager that always finishes it.

    The file is written beside its place, as NAME.new.rrd. Once finished, after the last frame, a
    signal or an error, it replaces the file there. A process that is killed, or that finds the
    disk full, leaves NAME.new.rrd, which lacks at most the last second.

    Raises:
        BagError: the file cannot be written.
        SettingError: rerun-sdk is not installed, or disabled.
    """

    def __init__(self, path: Path, segmenter: 'Segmenter', title: str) -> None:
        """Open; `title` is the name of the recording in the viewer."""
        self._rerun = import_rerun()
        self._scheme = segmenter.scheme
        domain = segmenter.checkpoint.spec.out_of_domain
        self._max_distance = None if domain is None else domain.threshold
        self._temporal = TemporalConsistency()
        self._frames = 0
        self._image_scale = (1.0, 1.0)
        self._stream = self._rerun.RecordingStream(topics.NODE_NAME, recording_id=uuid4())
        if not self._rerun.is_enabled(self._stream):
            raise SettingError(
                'Rerun is disabled by the environment variable RERUN; unset it, or omit --rrd'
            )
        self._stream.set_log_time_enabled(False)
        self._file = _PipedFile(path)
        blueprint = _blueprint(has_distance=domain is not None)
        self._file.connect(lambda pipe: self._stream.save(pipe, blueprint))
        self._stream.send_recording_name(title)
        self._describe()
        self._flushed_s = time.monotonic()

    def add(self, frame: CameraFrame, rendered: Rendered) -> None:
        """Add a segmented frame; raises BagError if the file cannot be written."""
        stamp_ns = header_stamp_ns(frame.header)
        self._stream.set_time(STAMP, timestamp=np.datetime64(stamp_ns, 'ns'))
        self._stream.set_time(FRAME, sequence=self._frames)
        self._frames += 1
        self._add_image(rendered.image_rgb)
        labels = self._rerun.SegmentationImage(rendered.label_mask, opacity=_LABEL_OPACITY)
        self._stream.log(LABELS, labels)
        if rendered.instances is not None:
            self._add_boxes(rendered.detections)
        self._add_scores(stamp_ns, rendered)
        if time.monotonic() - self._flushed_s >= FLUSH_AFTER_S:
            # Waits for the disk, which limits the memory of a run that is faster than the disk.
            self._stream.flush()
            self._flushed_s = time.monotonic()
        self._file.check()

    def close(self) -> None:
        """Finish the file; raises BagError if a part of it could not be written."""
        self._stream.disconnect()
        self._file.close()

    def _add_image(self, image_rgb: UInt8Array) -> None:
        small = _bounded(image_rgb)
        jpeg = encode_jpeg(small, _JPEG_QUALITY)
        self._stream.log(IMAGE, self._rerun.EncodedImage(contents=jpeg, media_type='image/jpeg'))
        (height, width), (small_height, small_width) = image_rgb.shape[:2], small.shape[:2]
        scale = (width / small_width, height / small_height)
        if scale != self._image_scale:
            # Stretches the image to the size of its labels.
            self._image_scale = scale
            self._stream.log(IMAGE, self._rerun.Transform3D(scale=[*scale, 1.0]))

    def _add_boxes(self, found: list[Detection]) -> None:
        """Add the instances; an empty list removes those of the frame before."""
        boxes = np.array([each.segment.box for each in found], np.float32).reshape(-1, 4)
        self._stream.log(
            INSTANCES,
            self._rerun.Boxes2D(
                mins=boxes[:, :2],
                sizes=boxes[:, 2:],
                class_ids=[each.segment.class_id for each in found],
                labels=[f'{each.class_name} {each.segment.score:.2f}' for each in found],
            ),
        )

    def _add_scores(self, stamp_ns: int, rendered: Rendered) -> None:
        labels = rendered.label_mask
        self._add_scalars(CONFIDENCE, [mean_confidence(rendered.confidence)])
        consistency = self._temporal.measure(stamp_ns, rendered.image_rgb, labels)
        if consistency is not None:
            self._add_scalars(CONSISTENCY, [consistency])
        if rendered.distance is not None and self._max_distance is not None:
            self._add_scalars(DISTANCE, [rendered.distance, self._max_distance])
        self._add_scalars(CLASS_SHARE, self._scheme.class_shares(labels))

    def _add_scalars(self, entity: str, values: list[float]) -> None:
        self._stream.log(entity, self._rerun.Scalars(values))

    def _describe(self) -> None:
        """Add the classes, and the names and colors of the curves."""
        rerun, classes = self._rerun, self._scheme.classes
        context = [rerun.AnnotationInfo(id=c.id, label=c.name, color=c.color) for c in classes]
        self._stream.log(CAMERA, rerun.AnnotationContext(context), static=True)
        curves = {
            CONFIDENCE: rerun.SeriesLines(names=['confidence']),
            CONSISTENCY: rerun.SeriesLines(names=['temporal consistency']),
            CLASS_SHARE: rerun.SeriesLines(
                names=[c.name for c in classes], colors=[c.color for c in classes]
            ),
        }
        if self._max_distance is not None:
            curves[DISTANCE] = rerun.SeriesLines(names=['distance', 'maximum'])
        for entity, lines in curves.items():
            self._stream.log(entity, lines, static=True)

    def __enter__(self) -> 'RerunRecording':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _blueprint(*, has_distance: bool) -> Any:
    """Return the default layout of the viewer: the image with its labels, beside the scores."""
    views = import_module('rerun.blueprint')
    background = views.archetypes.PlotBackground(color=_PLOT_BACKGROUND_RGB)
    plots = [
        views.TimeSeriesView(origin='scores', name='Scores'),
        views.TimeSeriesView(origin=CLASS_SHARE, name='Share of pixels', background=background),
    ]
    if has_distance:
        plots.insert(1, views.TimeSeriesView(origin=DISTANCE, name='Distance from known images'))
    return views.Blueprint(
        views.Horizontal(
            views.Vertical(
                views.Spatial2DView(origin=CAMERA, contents=IMAGE, name='Camera'),
                views.Spatial2DView(origin=CAMERA, name='Labels'),
            ),
            views.Vertical(*plots),
        ),
        views.TimePanel(timeline=STAMP, state='collapsed'),
        collapse_panels=True,
    )


def _bounded(image_rgb: UInt8Array) -> UInt8Array:
    """Return an image whose sides have at most MAX_SIDE pixels."""
    height, width = image_rgb.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    if scale == 1.0:
        return image_rgb
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


class _PipedFile:
    """File that Rerun's library fills through a pipe.

    After an error on a file that it writes itself, as on a full disk, the library never returns
    from `flush` and `disconnect`. It does not see such an error here; `check` raises it.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, path.with_name(f'{path.stem}.new{SUFFIX}')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._aside.open('wb', buffering=0)
        except OSError as error:
            raise BagError(
                f'cannot create {self._aside} ({error}); choose another --rrd'
            ) from error
        self._source, self._sink = os.pipe()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._copy, name='rrd', daemon=True)

    def connect(self, save: Callable[[str], Any]) -> None:
        """Hand the pipe's path to a function that opens it for writing."""
        self._thread.start()
        save(f'/dev/fd/{self._sink}')
        # The copy ends with the last open end, which is now that of the library.
        os.close(self._sink)

    def check(self) -> None:
        """Raise BagError if a part of the file could not be written."""
        if self._error is not None:
            raise BagError(
                f'cannot write {self._aside} ({self._error}); the frames before are in it, and '
                f'"rerun rrd optimize" restores them: free some space, or choose another --rrd'
            ) from self._error

    def close(self) -> None:
        """Wait for the end of the data, and put the file into its place; raises as `check`."""
        self._thread.join()
        os.close(self._source)
        self._file.close()
        self.check()
        self._aside.replace(self._path)

    def _copy(self) -> None:
        while data := os.read(self._source, _READ_BYTES):
            if self._error is None:
                self._error = self._write(data)

    def _write(self, data: bytes) -> OSError | None:
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            return error
        return None
