# SPDX-License-Identifier: Apache-2.0
"""Video of recorded pictures that preserves their timing."""

import importlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.processes import DemoError

#: Maximum duration for which a gap in a recording is shown.
LONGEST_GAP_S: Final = 10.0
LONGEST_SIDE_PX: Final = 1920


class TimedPicture(NamedTuple):
    """Picture, (H, W, 3) uint8 RGB, and the time when it was taken."""

    time_s: float
    picture: UInt8Array


class Sink(Protocol):
    """Video file being written."""

    codec: str

    def write(self, picture: UInt8Array) -> None:
        """Append a picture."""

    def close(self) -> None:
        """Finish the file."""


def write_video(pictures: Iterable[TimedPicture], path: Path, rate_hz: float) -> str:
    """Write pictures as a video with their original timing; return the name of the codec.

    With PyAV the codec is H.264, which browsers and all players support. Without, it is MPEG-4
    part 2, the best codec that OpenCV's wheels write at an acceptable speed: players support it,
    browsers do not.

    Raises:
        DemoError: there is no picture, or the file cannot be written.
    """
    sink: Sink | None = None
    try:
        for picture in _paced(pictures, rate_hz):
            fitting = _fit(picture)
            if sink is None:
                sink = _open(path, rate_hz, fitting.shape)
            sink.write(fitting)
        if sink is None:
            raise DemoError(f'{path}: there are no pictures; expected at least one')
    except (OSError, cv2.error) as error:
        raise DemoError(f'cannot write {path} ({error}); check the free disk space') from error
    finally:
        if sink is not None:
            sink.close()
    return sink.codec


def _paced(pictures: Iterable[TimedPicture], rate_hz: float) -> Iterator[UInt8Array]:
    """Yield one picture per video frame; the last one repeats until the next arrives."""
    shown: TimedPicture | None = None
    for newest in pictures:
        if shown is not None:
            gap_s = min(newest.time_s - shown.time_s, LONGEST_GAP_S)
            for _ in range(max(1, round(gap_s * rate_hz))):
                yield shown.picture
        shown = newest
    if shown is not None:
        yield shown.picture


def _fit(picture: UInt8Array) -> UInt8Array:
    """Scale or crop a picture to even sides, as codecs require, and to a size players support."""
    scale = min(1.0, LONGEST_SIDE_PX / max(picture.shape[:2]))
    height, width = (max(2, int(n * scale) // 2 * 2) for n in picture.shape[:2])
    if scale == 1.0:
        return np.ascontiguousarray(picture[:height, :width])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _open(path: Path, rate_hz: float, shape: tuple[int, ...]) -> Sink:
    try:
        av = importlib.import_module('av')
    except ImportError:
        return _OpenCv(path, rate_hz, shape)
    return _Av(av, path, rate_hz, shape)


class _Av:
    codec = 'H.264'

    def __init__(self, av: Any, path: Path, rate_hz: float, shape: tuple[int, ...]) -> None:
        self._av = av
        # With the index at the beginning, browsers can start before the download is complete.
        self._container = av.open(str(path), 'w', options={'movflags': 'faststart'})
        rate = Fraction(rate_hz).limit_denominator(1000)
        self._stream = self._container.add_stream('libx264', rate=rate)
        self._stream.height, self._stream.width = shape[:2]
        self._stream.pix_fmt = 'yuv420p'  # the only format that every browser decodes
        self._stream.options = {'crf': '21', 'preset': 'veryfast'}

    def write(self, picture: UInt8Array) -> None:
        frame = self._av.VideoFrame.from_ndarray(picture, format='rgb24')
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


class _OpenCv:
    codec = 'MPEG-4 part 2 (plays in players, not in browsers; for H.264: "pip install av")'

    def __init__(self, path: Path, rate_hz: float, shape: tuple[int, ...]) -> None:
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        fourcc = cv2.VideoWriter.fourcc(*'mp4v')
        self._size_wh = (shape[1], shape[0])
        self._writer = cv2.VideoWriter(str(path), fourcc, rate_hz, self._size_wh)
        if not self._writer.isOpened():
            raise DemoError(
                f'cannot write {path}: OpenCV was built without MPEG-4; run "pip install av"'
            )

    def write(self, picture: UInt8Array) -> None:
        # A camera may change its size; OpenCV would drop frames whose size differs from the first.
        bgr = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), self._size_wh)
        self._writer.write(bgr)

    def close(self) -> None:
        self._writer.release()
