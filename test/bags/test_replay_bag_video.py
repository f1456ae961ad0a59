# SPDX-License-Identifier: Apache-2.0
"""Compressed video is replayed as images, and compressed messages as what they are."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('av')

from ros_process import Probe  # isort: skip

import zstandard
from bag_making import image_cdr, image_topic, stamp_ns
from sensor_msgs.msg import Image
from test_replay_bag import Received, Replay
from video_making import TOPIC, frame, video, video_bag

from segmentation_node.bags.writer import BagWriter


@pytest.fixture(scope='module')
def probe() -> Iterator[Probe]:
    probe = Probe('replay_video')
    yield probe
    probe.close()


def test_video_is_replayed_as_images(tmp_path: Path, probe: Probe) -> None:
    path = video_bag(tmp_path / 'bag.mcap', video(7)[1:])
    images = Received(probe, TOPIC, Image)
    replay = Replay(path, '--decode-video', '--wait-for-subscribers', '--rate', 20)
    probe.wait_for('all frames', lambda: len(images) == 4)
    status, output, errors = replay.ended()
    assert (status, output.startswith('4 messages published')) == (0, True)
    assert 'warning: 2 messages were left out: /camera/image/ffmpeg: a h264 frame' in errors
    for index, image in enumerate(images.messages, 3):
        assert image.header.stamp.sec * 10**9 + image.header.stamp.nanosec == stamp_ns(index)
        rgb = np.frombuffer(image.data, np.uint8).reshape(frame(0).shape).astype(int)
        assert np.abs(rgb - frame(index)).max() < 8


def test_video_of_a_type_that_is_not_installed_is_skipped_with_the_option(tmp_path: Path) -> None:
    status, _, errors = Replay(video_bag(tmp_path / 'bag.mcap', video(1))).ended()
    assert status == 1
    assert 'is not installed (no package ffmpeg_image_transport_msgs); --decode-video' in errors


def test_compressed_messages_are_replayed_as_messages(tmp_path: Path, probe: Probe) -> None:
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        for index in range(2):
            bag.write(image_topic(), stamp_ns(index), zstandard.compress(image_cdr(index)))
        bag.write(image_topic(), stamp_ns(2), b'no CDR at all')
    images = Received(probe, '/image', Image, raw=True)
    replay = Replay(path, '--wait-for-subscribers')
    probe.wait_for('both frames', lambda: len(images) == 2)
    status, _, errors = replay.ended()
    assert status == 0
    assert images.messages == [image_cdr(0), image_cdr(1)]
    assert 'warning: 1 messages were left out: /image has messages that are not CDR' in errors
