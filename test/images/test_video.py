# SPDX-License-Identifier: Apache-2.0
"""Video is decoded frame by frame, and what cannot be decoded truly is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation_node.errors import ImageError

pytest.importorskip('av')

from video_making import Packet, frame, video

from segmentation_node.images.video import VideoDecoder

NAMES = {'libx264': 'h264', 'libx265': 'h265', 'libvpx-vp9': 'vp9', 'libsvtav1': 'av1'}


def decoded(packets: list[Packet], codec: str = 'h264') -> dict[int, Any]:
    """By the index of its frame, what each packet became: RGB or an error."""
    decoder: VideoDecoder[int] = VideoDecoder()
    done = [
        found for packet in packets for found in decoder.decode(codec, packet.data, packet.number)
    ]
    done += decoder.flush()
    assert sorted(found.key for found in done) == sorted(packet.number for packet in packets)
    return dict(done)


def is_frame(image: Any, index: int) -> bool:
    """Return whether an image is the frame of that index, as far as compression leaves it."""
    return (
        not isinstance(image, ImageError)
        and image.shape == frame(index).shape
        and bool(np.abs(image.astype(int) - frame(index)).max() < 8)
    )


@pytest.mark.parametrize('encoder', NAMES)
def test_every_packet_becomes_its_frame(encoder: str) -> None:
    packets = video(6, encoder)
    found = decoded(packets, NAMES[encoder])
    assert all(is_frame(found[index], index) for index in range(6))


@pytest.mark.parametrize('codec', ['h264', 'H264', 'libx264', 'h264_nvenc;yuv420p;bgr8;bgr8'])
def test_names_of_codecs_and_of_encoders(codec: str) -> None:
    assert is_frame(decoded(video(1), codec)[0], 0)


def test_frames_that_wait_for_others_keep_their_keys() -> None:
    packets = video(8, key_every=8, b_frames=2)
    assert [packet.number for packet in packets] != list(range(8))
    found = decoded(packets)
    assert all(is_frame(found[index], index) for index in range(8))


def test_frames_come_with_their_packet() -> None:
    decoder: VideoDecoder[int] = VideoDecoder()
    for packet in video(6):
        assert [found.key for found in decoder.decode('h264', packet.data, packet.number)] == [
            packet.number
        ]


@pytest.mark.parametrize('encoder', ['libx264', 'libx265'])
def test_after_a_lost_packet_nothing_is_guessed(encoder: str) -> None:
    packets = video(9, encoder, key_every=4)
    del packets[1]  # 2 and 3 describe how they differ from it
    found = decoded(packets, NAMES[encoder])
    assert all(is_frame(found[index], index) for index in (0, 4, 5, 6, 7, 8))
    for index in (2, 3):
        assert 'from the next key frame on' in str(found[index])


def test_nothing_is_decoded_before_the_first_key_frame() -> None:
    found = decoded(video(6)[1:])
    assert [is_frame(found[index], index) for index in range(1, 6)] == [False] * 2 + [True] * 3


def test_a_packet_that_is_cut_short() -> None:
    packets = video(6, key_every=3)
    packets[0] = packets[0]._replace(data=packets[0].data[: len(packets[0].data) - 40])
    found = decoded(packets)
    assert [is_frame(found[index], index) for index in range(6)] == [False] * 3 + [True] * 3


def test_another_codec_and_another_size_amid_the_stream() -> None:
    decoder: VideoDecoder[int] = VideoDecoder()
    done = []
    for name, packets in (
        ('h264', video(2)), ('h264', video(2, size_hw=(96, 32))), ('h265', video(2, 'libx265')),
    ):  # fmt: skip
        for packet in packets:
            done += decoder.decode(name, packet.data, packet.number)
    done += decoder.flush()
    shapes = [getattr(found.image_rgb, 'shape', found.image_rgb) for found in done]
    assert shapes == [(48, 64, 3)] * 2 + [(96, 32, 3)] * 2 + [(48, 64, 3)] * 2


def test_what_is_refused() -> None:
    decoder: VideoDecoder[int] = VideoDecoder(max_pixels=1000)
    ((_, unknown),) = decoder.decode('prores', b'x', 0)
    assert "codec 'prores'; expected one with 264, 265" in str(unknown)
    ((_, empty),) = decoder.decode('h264', b'', 0)
    assert 'without data' in str(empty)
    ((_, large),) = decoder.decode('h264', video(1)[0].data, 0)
    assert 'expected at most 1000 pixels: scale it down' in str(large)


@settings(max_examples=60)
@given(
    changes=st.lists(st.tuples(st.integers(0, 5), st.integers(0), st.integers(0, 255)), max_size=9)
)
def test_damage_is_frames_or_errors(changes: list[tuple[int, int, int]]) -> None:
    data = [bytearray(packet.data) for packet in VIDEO]
    for index, at, value in changes:
        data[index][at % len(data[index])] = value
    decoded([Packet(index, bytes(content)) for index, content in enumerate(data)])


VIDEO = video(6)
