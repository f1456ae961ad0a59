# SPDX-License-Identifier: Apache-2.0
"""Decoding of compressed video, packet by packet, with PyAV (extra `demo`)."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError, quoted
from segmentation_node.images.files import MAX_PIXELS, check_size
from segmentation_node.paths import with_extra

#: Decoders of libavcodec by a part of the names of codecs and encoders.
CODECS: Final = MappingProxyType(
    {
        '264': 'h264',
        '265': 'hevc',
        'hevc': 'hevc',
        'av1': 'libdav1d',
        'vp9': 'vp9',
        'vp8': 'vp8',
        'mjpeg': 'mjpeg',
    }
)
#: Packets that a decoder may delay to reorder frames; codecs allow 16.
_MOST_DELAYED: Final = 32
_OPTIONS: Final = MappingProxyType({'libdav1d': {'max_frame_delay': '1'}})
#: Log line for a missing packet; libavcodec treats a lost H.264 frame as skipped on purpose.
_GAP: Final = 'Frame num gap'
#: Part of the error for a frame of too many pixels.
_TOO_LARGE: Final = ' exceeds '
#: Log lines about supplemental data, which no frame depends on.
_HARMLESS: Final = 'SEI '

Key = TypeVar('Key')


class DecodedFrame(NamedTuple, Generic[Key]):
    """Frame of a packet, (H, W, 3) uint8 RGB, or the error if it cannot be decoded."""

    key: Key
    image_rgb: UInt8Array | ImageError


class VideoDecoder(Generic[Key]):
    """Decoder of one video stream.

    Most frames are coded as differences from other frames. After a missing or damaged frame, all
    frames up to the next key frame are therefore refused.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._av = _load_av()
        self._max_pixels = max_pixels
        self._name = ''
        self._codec: Any = None
        self._count = 0
        #: Keys of packets whose frames are still to come, by packet number.
        self._waiting: dict[int, Key] = {}
        #: Reason why frames up to the next key frame are wrong; '' if they are right.
        self._broken = ''

    def decode(self, codec: str, packet: bytes, key: Key) -> list[DecodedFrame[Key]]:
        """Decode a packet; return the frames that are complete, possibly of earlier packets.

        Args:
            codec: name of codec or encoder: "h264", "libx265", "h264;yuv420p;bgr8;bgr8".
            packet: one frame, in Annex B format for H.264 and H.265.
            key: returned with the frame of this packet.
        """
        name = _decoder_name(codec)
        if name is None:
            return [DecodedFrame(key, ImageError(
                f'video of codec {quoted(codec)}; expected one with {", ".join(CODECS)} in its '
                f'name: record it with another encoder'
            ))]  # fmt: skip
        if not packet:
            return [DecodedFrame(key, ImageError('a video packet without data; record it again'))]
        done = self.flush() if name != self._name else []
        if self._codec is None:
            self._open(name)
        self._waiting[self._count] = key
        data = self._av.Packet(packet)
        data.pts = self._count
        self._count += 1
        done += self._frames(data)
        while len(self._waiting) > _MOST_DELAYED:
            done.append(self._lost(min(self._waiting)))
        return done

    def flush(self) -> list[DecodedFrame[Key]]:
        """End the stream and return the delayed frames."""
        if self._codec is None:
            return []
        done = self._frames(None)
        done += [self._lost(number) for number in sorted(self._waiting)]
        self._codec = None
        return done

    def _open(self, name: str) -> None:
        self._name, self._codec = name, self._av.CodecContext.create(name, 'r')
        # Several threads would decode several frames at once, which delays each of them.
        self._codec.thread_count = 1
        self._codec.options = {'max_pixels': str(self._max_pixels), **_OPTIONS.get(name, {})}
        self._codec.flags |= self._av.codec.context.Flags.low_delay
        self._broken = 'there was no key frame before it'

    def _frames(self, packet: Any) -> list[DecodedFrame[Key]]:
        frames = []
        with self._logged_errors() as errors:
            try:
                frames = self._codec.decode(packet)
            except self._av.FFmpegError as error:
                errors.append(str(error.strerror or error))
        if errors:
            self._broken = errors[0]
        done = [self._frame(frame, damaged=bool(errors)) for frame in frames]
        if errors and packet is not None and packet.pts in self._waiting and not frames:
            done.append(self._lost(packet.pts))
        return [frame for frame in done if frame is not None]

    def _frame(self, frame: Any, damaged: bool) -> DecodedFrame[Key] | None:
        if frame.pts not in self._waiting:
            return None  # already reported as lost
        if frame.is_corrupt:
            self._broken = 'it is damaged'
        elif frame.key_frame and not damaged:
            self._broken = ''
        if self._broken:
            return self._lost(frame.pts)
        key = self._waiting.pop(frame.pts)
        try:
            check_size(frame.width, frame.height, self._max_pixels)
        except ImageError as error:
            return DecodedFrame(key, error)
        return DecodedFrame(key, np.asarray(frame.to_ndarray(format='rgb24'), np.uint8))

    def _lost(self, number: int) -> DecodedFrame[Key]:
        reason = self._broken or 'its packet does not contain a complete frame'
        remedy = f'expected at most {self._max_pixels} pixels: scale it down before it is recorded'
        if _TOO_LARGE not in reason:
            remedy = (
                'frames can be decoded from the next key frame on: record more of them, and '
                'without losses'
            )
        return DecodedFrame(
            self._waiting.pop(number),
            ImageError(f'a {self._name} frame cannot be decoded ({reason}); {remedy}'),
        )

    @contextmanager
    def _logged_errors(self) -> Iterator[list[str]]:
        """Collect the errors that libavcodec logs while it decodes the data anyway."""
        logging, errors = self._av.logging, list[str]()
        before = logging.get_level()
        logging.set_level(logging.DEBUG)
        try:
            with logging.Capture(local=True) as lines:
                yield errors
        finally:
            logging.set_level(before)
        errors[:0] = [
            re.sub(r'\s+', ' ', text).strip()
            for level, _, text in lines
            if (level <= logging.ERROR and not text.startswith(_HARMLESS)) or text.startswith(_GAP)
        ]


def _load_av() -> Any:
    try:
        return importlib.import_module('av')
    except ImportError as error:
        raise ImageError(
            f'compressed video is decoded by PyAV, which is not installed: pip install '
            f'{with_extra("demo")}'
        ) from error


def is_codec(text: str) -> bool:
    """Return whether a text names a codec whose frames depend on each other."""
    return _decoder_name(text) not in (None, 'mjpeg')


def can_decode() -> bool:
    """Return whether PyAV is installed."""
    return importlib.util.find_spec('av') is not None


def _decoder_name(codec: str) -> str | None:
    token = codec.partition(';')[0].lower()
    return next((name for mark, name in CODECS.items() if mark in token), None)
