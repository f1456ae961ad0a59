# SPDX-License-Identifier: Apache-2.0
"""Small videos and bags of them, for the tests of all that decodes video."""

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from bag_making import stamp_ns
from mcap.writer import Writer as McapWriter

from segmentation_node.bags import messages

TOPIC = '/camera/image/ffmpeg'
HEIGHT, WIDTH = 48, 64


class Packet(NamedTuple):
    """Encoded frame `number` of a video."""

    number: int
    data: bytes


def frame(index: int) -> Any:
    """(HEIGHT, WIDTH, 3) uint8 RGB, gray that brightens by 20 a frame."""
    return np.full((HEIGHT, WIDTH, 3), 20 + 20 * index, np.uint8)


def video(
    frames: int = 6, codec: str = 'libx264', key_every: int = 3, b_frames: int = 0,
    size_hw: tuple[int, int] = (HEIGHT, WIDTH),
) -> list[Packet]:  # fmt: skip
    """Packets in the order in which they are decoded."""
    encoder: Any = av.CodecContext.create(codec, 'w')
    encoder.height, encoder.width = size_hw
    encoder.pix_fmt = 'yuv420p'
    encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10)
    encoder.gop_size, encoder.max_b_frames, encoder.thread_count = key_every, b_frames, 1
    encoder.options = _OPTIONS[codec] if not b_frames else {}
    packets: list[Packet] = []
    for index in range(frames + 1):
        picture = None
        if index < frames:
            picture = av.VideoFrame.from_ndarray(
                np.full((*size_hw, 3), 20 + 20 * index, np.uint8), format='rgb24'
            )
            picture.pts = index
        packets += [Packet(int(p.pts), bytes(p)) for p in encoder.encode(picture)]
    assert len(packets) == frames
    return packets


_OPTIONS: dict[str, dict[str, str]] = {
    'libx264': {'tune': 'zerolatency', 'preset': 'ultrafast'},
    'libx265': {'x265-params': 'log-level=none:bframes=0', 'tune': 'zerolatency'},
    'libvpx-vp9': {'lag-in-frames': '0', 'deadline': 'realtime', 'crf': '10', 'b': '0'},
    'libsvtav1': {'svtav1-params': 'pred-struct=1:lookahead=0', 'preset': '12'},
}


def video_cdr(msgtype: str, packet: Packet, codec: str = 'h264') -> bytes:
    """CDR of a packet's message, stamped as its frame."""
    header = messages.header(stamp_ns(packet.number), 'front')
    data = np.frombuffer(packet.data, np.uint8)
    kind = messages.typestore().types[msgtype]
    if msgtype == messages.FOXGLOVE_VIDEO:
        return messages.serialize(kind(header.stamp, header.frame_id, data, codec))
    if msgtype == messages.COMPRESSED_IMAGE:
        return messages.serialize(messages.compressed_image(packet.data, codec, header))
    encoding = f'{codec};yuv420p;bgr8;bgr8'
    return messages.serialize(kind(header, WIDTH, HEIGHT, encoding, packet.number, 0, False, data))


def video_bag(
    path: Path, packets: list[Packet], msgtype: str = messages.FFMPEG_PACKET, codec: str = 'h264',
    topic: str = TOPIC,
) -> Path:  # fmt: skip
    """An MCAP file of a video, recorded at the pace of its frames."""
    with path.open('wb') as stream:
        writer = McapWriter(stream)
        writer.start(profile='ros2')
        schema = writer.register_schema(msgtype, 'ros2msg', b'')
        channel = writer.register_channel(topic, 'cdr', schema)
        for index, packet in enumerate(packets):
            writer.add_message(
                channel, stamp_ns(index), video_cdr(msgtype, packet, codec), stamp_ns(index)
            )
        writer.finish()  # type: ignore[no-untyped-call]
    return path
